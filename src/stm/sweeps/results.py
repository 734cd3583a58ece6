"""Results of a sweep, read from its folder and grouped into the rows of its table."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stm.config.resolvers import quote_override
from stm.config.schema import PLAN
from stm.evaluation.calibration import KINDS
from stm.evaluation.protocols import PROTOCOLS
from stm.evaluation.protocols.davis import DAVIS
from stm.evaluation.scores import protocol_of
from stm.sweeps.bootstrap import Difference, paired_bootstrap
from stm.sweeps.finished_jobs import read_record
from stm.sweeps.paper_numbers import TABLES, VIDEOS, PaperRow

MEASURES = ("J", "F", "J&F", "G", "J-Seen", "F-Seen", "J-Unseen", "F-Unseen")
COLUMNS = tuple(
    dict.fromkeys((*(heading for protocol in PROTOCOLS.values() for heading in protocol.columns), *MEASURES))
)
"""Headings of the measures of all benchmarks."""
ECE = {kind: f"ECE-{kind}" for kind in KINDS}
SWEEP_ONLY = ("hydra.", "hydra/", "launcher")
"""Beginnings of overrides that a job does not need when it runs alone."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of a job on one benchmark.

    Attributes:
        folder: Folder with `scores.json`.
        benchmark: Name of the benchmark, such as `davis2017-val`.
        measures: The benchmark's measures (J, F, J&F, ...) and G where known, in percent; the calibration
            errors of both confidences, 0..1; seconds per frame, MB. Empty without ground truth.
        objects: (sequence, object) -> the measure that is compared, in percent.
        compared: Heading of that measure: the benchmark's headline measure, or J with DAVIS's measures, as
            in the paper.
    """

    folder: Path
    benchmark: str
    measures: Mapping[str, float]
    objects: Mapping[tuple[str, Any], float]
    compared: str = "J"
    runs: Mapping[str, Mapping[tuple[str, Any], float]] = field(default_factory=dict)
    """Heading of a measure over disappearances or reappearances -> (sequence, object) -> it in percent."""

    @property
    def is_complete(self) -> bool:
        """Whether as many videos were scored as the paper's benchmark has."""
        return len({video for video, _ in self.objects}) == VIDEOS.get(self.benchmark.split("-")[0])


@dataclass(frozen=True)
class Job:
    """A job of a sweep.

    Attributes:
        number: Position in the sweep.
        folder: Folder of the job.
        overrides: Overrides of its command line.
        settings: Key -> value, `@<stage>/...` for the result of an earlier stage.
        status: 'completed', 'failed' or 'unfinished'.
        error: Message of the error that it failed with; empty if it did not fail.
        evaluations: Scores so far, one entry per benchmark.
    """

    number: int
    folder: Path
    overrides: Sequence[str]
    settings: Mapping[str, str]
    status: str
    error: str
    evaluations: Sequence[Evaluation]


@dataclass(frozen=True)
class Sweep:
    """A sweep as its folder describes it; see `StagedSweeperConf` for the table settings."""

    folder: Path
    command: str
    jobs: Sequence[Job]
    average_over: Sequence[str] = ("seed",)
    baseline: Mapping[str, str] = field(default_factory=dict)
    paper_table: str | None = None

    @property
    def varied(self) -> list[str]:
        """Keys on which the jobs differ, without those of repetitions."""
        keys = list(dict.fromkeys(key for job in self.jobs for key in job.settings))
        values = {key: {job.settings.get(key) for job in self.jobs} for key in keys}
        return [key for key in keys if len(values[key]) > 1 and key not in self.average_over]

    @property
    def unfinished(self) -> list[Job]:
        """Jobs that failed or have not ended."""
        return [job for job in self.jobs if job.status != "completed"]

    def command_of(self, job: Job) -> str:
        """Return the command that runs one job again, in its own folder."""
        program = re.match(r"(python )?\S+", self.command)
        overrides = [word for word in job.overrides if not word.startswith(SWEEP_ONLY)]
        words = [*overrides, "hydra.mode=RUN", f"hydra.run.dir={quote_override(job.folder)}"]
        return f"{program[0] if program else ''} {shlex.join(words)}"


@dataclass(frozen=True)
class Row:
    """A row of the table: the repetitions of one setting on one benchmark.

    Attributes:
        setting: Varied key -> value.
        benchmark: Name of the benchmark.
        evaluations: One for each repetition.
        paper: The paper's row for the same setting.
        difference: Difference in the compared measure, in percent, to the baseline's row; None for that
            row itself.
        run_differences: The same of the measures over disappearances and reappearances.
    """

    setting: Mapping[str, str]
    benchmark: str
    evaluations: Sequence[Evaluation]
    paper: PaperRow | None
    difference: Difference | None
    run_differences: Mapping[str, Difference | None] = field(default_factory=dict)

    def mean(self, measure: str) -> float | None:
        """Compute the mean over the repetitions; None where none has the measure."""
        values = self.values(measure)
        return float(np.mean(values)) if values else None

    def spread(self, measure: str) -> float | None:
        """Compute the standard deviation over the repetitions; None for fewer than two."""
        values = self.values(measure)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def values(self, measure: str) -> list[float]:
        """Return the values of the repetitions that have the measure."""
        return [
            evaluation.measures[measure] for evaluation in self.evaluations if measure in evaluation.measures
        ]

    @property
    def objects(self) -> dict[tuple[str, Any], float]:
        """(sequence, object) -> the compared measure in percent, the mean over the repetitions."""
        return _mean([evaluation.objects for evaluation in self.evaluations])

    def run_objects(self, measure: str) -> dict[tuple[str, Any], float]:
        """Return (sequence, object) -> a measure over disappearances or reappearances, likewise."""
        return _mean([evaluation.runs.get(measure, {}) for evaluation in self.evaluations])


def _mean(evaluations: Iterable[Mapping[tuple[str, Any], float]]) -> dict[tuple[str, Any], float]:
    collected: dict[tuple[str, Any], list[float]] = {}
    for objects in evaluations:
        for key, value in objects.items():
            collected.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in collected.items()}


def read_sweep(folder: str | Path) -> Sweep:
    """Read a sweep from its folder.

    Raises:
        FileNotFoundError: The folder has no list of jobs.
    """
    folder = Path(folder)
    if not (folder / PLAN).exists():
        raise FileNotFoundError(f"{folder / PLAN} does not exist: {folder} is not the folder of a sweep")
    values = json.loads((folder / PLAN).read_text())
    jobs = [_read_job(folder, job) for job in values.pop("jobs")]
    return Sweep(folder, jobs=jobs, **values)


def _read_job(sweep: Path, job: Mapping[str, Any]) -> Job:
    """Read a job; only one that has completed, with the configuration of the job list, has results."""
    folder = sweep / job["folder"]
    record = read_record(folder)
    if record["status"] == "completed" and record.get("configuration") != job.get("configuration"):
        record = {"status": "unfinished", "error": "unfinished: the folder's job had other settings"}
    return Job(
        number=job["number"],
        folder=folder,
        overrides=job["overrides"],
        settings=job["settings"],
        status=record["status"],
        error=record["error"],
        evaluations=_job_evaluations(folder, job, record) if record["status"] == "completed" else (),
    )


def _job_evaluations(folder: Path, job: Mapping[str, Any], record: Mapping[str, Any]) -> list[Evaluation]:
    """Read a job's scores; the best validation's where a training has no final evaluation."""
    if "validation" not in record:
        return read_evaluations(folder)
    benchmark = f"{job['settings'].get('benchmark', '')} validation".strip()
    measures = {name: 100 * value for name, value in record["validation"].items() if name in COLUMNS}
    return [Evaluation(folder, benchmark, measures, {})] if measures else []


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Read the scores of an evaluation, or the newest of each of a training's final evaluations.

    Where two of these have the same benchmark, such as at two sizes, the names in the configuration tell them
    apart: `davis2017-val (small)`.
    """
    paths = sorted(
        [*folder.glob("scores.json"), *folder.glob("*/scores.json")], key=lambda path: path.stat().st_mtime
    )
    newest: dict[str, dict[str, Evaluation]] = {}
    for path in paths:
        evaluation, label = read_evaluation(path), path.parent.name.rsplit("_", 1)[0]
        newest.setdefault(evaluation.benchmark, {})[label] = evaluation
    return [
        evaluation if len(group) == 1 else replace(evaluation, benchmark=f"{benchmark} ({label})")
        for benchmark, group in sorted(newest.items())
        for label, evaluation in sorted(group.items())
    ]


def read_evaluation(path: Path) -> Evaluation:
    """Read one `scores.json`."""
    values = json.loads(path.read_text())
    protocol = protocol_of(values["settings"].get("protocol"))
    measures = {name: 100 * value for name, value in protocol.column_values(values["global"]).items()}
    halves = {name: values["global"].get(name) for name in MEASURES if name not in protocol.columns}
    measures |= {name: 100 * value for name, value in halves.items() if value is not None}
    calibrations = values["calibration"]
    measures |= {name: result["ece"] for kind, name in ECE.items() if (result := calibrations.get(kind))}
    speed = values["speed"]
    if speed["frames"]:
        measures |= {"seconds": speed["seconds"] / speed["frames"], "MB": speed["peak_memory_mb"]}
    compared = "J" if protocol is DAVIS else protocol.headline_heading
    columns: dict[str, dict[tuple[str, Any], float]] = {}
    for row in values["sequences"]:
        for heading, value in protocol.column_values(row).items():
            columns.setdefault(heading, {})[row["sequence"], row["object"]] = 100 * value
    runs = {heading: column for heading, column in columns.items() if heading.endswith(("_d", "_r"))}
    benchmark = values["settings"]["benchmark"]
    return Evaluation(path.parent, benchmark, measures, columns.get(compared, {}), compared, runs)


def table_rows(sweep: Sweep) -> list[Row]:
    """Return the table's rows in the order of the jobs, grouped by benchmark."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[Job, Evaluation]]] = {}
    varied = [key for key in sweep.varied if key != "benchmark"]
    for job in sweep.jobs:
        setting = tuple((key, job.settings.get(key, "-")) for key in varied)
        for evaluation in job.evaluations:
            groups.setdefault((evaluation.benchmark, setting), []).append((job, evaluation))
    table = TABLES.get(sweep.paper_table or "")
    rows = []
    for (benchmark, setting), members in groups.items():
        settings = members[0][0].settings
        paper = table.matching_row(settings, benchmark.split("-")[0]) if table else None
        rows.append(Row(dict(setting), benchmark, [evaluation for _, evaluation in members], paper, None))
    order = {name: number for number, name in enumerate(dict.fromkeys(row.benchmark for row in rows))}
    rows.sort(key=lambda row: order[row.benchmark])
    baseline = baseline_setting(sweep)
    return [_compared(row, rows, baseline) for row in rows]


def baseline_setting(sweep: Sweep) -> dict[str, str]:
    """Return key -> value of the setting that the others are compared with."""
    varied = [key for key in sweep.varied if key != "benchmark"]
    chosen = {key: value for key, value in sweep.baseline.items() if key in varied}
    if chosen or not varied:
        return chosen
    return {varied[0]: sweep.jobs[0].settings.get(varied[0], "-")}


def _compared(row: Row, rows: Iterable[Row], baseline: Mapping[str, str]) -> Row:
    """Return a row with its difference to the row of the baseline, where there is one."""
    setting = {**row.setting, **baseline}
    if not baseline or setting == row.setting:
        return row
    for other in rows:
        if other.setting == setting and other.benchmark == row.benchmark:
            names = dict.fromkeys(name for evaluation in row.evaluations for name in evaluation.runs)
            runs = {name: paired_bootstrap(row.run_objects(name), other.run_objects(name)) for name in names}
            return replace(row, difference=paired_bootstrap(row.objects, other.objects), run_differences=runs)
    return row
