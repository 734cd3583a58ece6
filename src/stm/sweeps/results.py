"""A sweep's jobs read back from its folder and put into rows: repetitions together, the paper's beside."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stm.config.resolvers import quoted
from stm.config.schema import JOB, PLAN
from stm.evaluation.calibration import KINDS
from stm.sweeps.bootstrap import Difference, paired_bootstrap
from stm.sweeps.paper_numbers import TABLES, VIDEOS, PaperRow

MEASURED = ("J", "F", "J&F", "G", "J-Seen", "F-Seen", "J-Unseen", "F-Unseen")
ECE = {kind: f"ECE-{kind}" for kind in KINDS}
UNNAMED = ("hydra.", "hydra/", "launcher")
"""Overrides that a job alone needs no more."""


@dataclass(frozen=True)
class Evaluation:
    """What did a job score on one benchmark?

    Attributes:
        folder: with `scores.json`.
        benchmark: its name, such as `davis2017-val`.
        measures: J, F, J&F and where known G's, in percent; the calibration errors of both confidences, 0..1;
            seconds a frame, MB. Empty without truth.
        objects: (sequence, object) -> J in percent.
    """

    folder: Path
    benchmark: str
    measures: Mapping[str, float]
    objects: Mapping[tuple[str, Any], float]

    @property
    def whole(self) -> bool:
        """Are there as many videos as the paper's benchmark has?"""
        return len({video for video, _ in self.objects}) == VIDEOS.get(self.benchmark.split("-")[0])


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        number: its place.
        folder: its own.
        overrides: of its command line.
        asked: key -> value, `@<stage>` for what an earlier stage gives.
        error: what it failed by; empty if it did not.
        evaluations: what it scored so far, a benchmark each.
    """

    number: int
    folder: Path
    overrides: Sequence[str]
    asked: Mapping[str, str]
    ended: str
    error: str
    evaluations: Sequence[Evaluation]


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder as it stands."""

    folder: Path
    command: str
    jobs: Sequence[Job]
    average_over: Sequence[str] = ("seed",)
    baseline: Mapping[str, str] = field(default_factory=dict)
    paper_table: str | None = None

    @property
    def varied(self) -> list[str]:
        """Keys on which the jobs differ, repetitions left out."""
        keys = list(dict.fromkeys(key for job in self.jobs for key in job.asked))
        values = {key: {job.asked.get(key) for job in self.jobs} for key in keys}
        return [key for key in keys if len(values[key]) > 1 and key not in self.average_over]

    @property
    def unfinished(self) -> list[Job]:
        """Jobs that failed or did not come to their end."""
        return [job for job in self.jobs if job.ended != "completed"]

    def repeating(self, job: Job) -> str:
        """The command that does one job again, into its folder."""
        kept = [word for word in job.overrides if not word.startswith(UNNAMED)]
        script = self.command.split(" ", 1)[0]
        return shlex.join(["python", script, *kept, "hydra.mode=RUN", f"hydra.run.dir={quoted(job.folder)}"])


@dataclass(frozen=True)
class Row:
    """A line of the gathered table: the repetitions of one setting on one benchmark.

    Attributes:
        setting: varied key -> value.
        benchmark: its name.
        evaluations: one each repetition.
        paper: the row of the paper that it repeats.
        difference: of J in percent to the row `baseline`; None for that row itself.
    """

    setting: Mapping[str, str]
    benchmark: str
    evaluations: Sequence[Evaluation]
    paper: PaperRow | None
    difference: Difference | None

    def mean(self, measure: str) -> float | None:
        values = self.values(measure)
        return float(np.mean(values)) if values else None

    def spread(self, measure: str) -> float | None:
        """Standard deviation over the repetitions; None for fewer than two."""
        values = self.values(measure)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def values(self, measure: str) -> list[float]:
        return [one.measures[measure] for one in self.evaluations if measure in one.measures]

    @property
    def objects(self) -> dict[tuple[str, Any], float]:
        """(sequence, object) -> J, the mean over repetitions."""
        collected: dict[tuple[str, Any], list[float]] = {}
        for one in self.evaluations:
            for key, value in one.objects.items():
                collected.setdefault(key, []).append(value)
        return {key: float(np.mean(values)) for key, values in collected.items()}


def read_sweep(folder: str | Path) -> Sweep:
    """A sweep as its folder tells it.

    Raises:
        FileNotFoundError: no sweep of ours ran there.
    """
    folder = Path(folder)
    if not (folder / PLAN).exists():
        raise FileNotFoundError(f"{folder / PLAN} does not exist: {folder} is no sweep's folder")
    told = json.loads((folder / PLAN).read_text())
    jobs = [_job(folder, job) for job in told.pop("jobs")]
    return Sweep(folder, jobs=jobs, **told)


def _job(sweep: Path, told: Mapping[str, Any]) -> Job:
    folder = sweep / told["folder"]
    try:
        end = json.loads((folder / JOB).read_text())
    except FileNotFoundError:
        end = {"status": "unfinished", "error": ""}
    evaluations = read_evaluations(folder)
    return Job(
        told["number"], folder, told["overrides"], told["asked"], end["status"], end["error"], evaluations
    )


def read_evaluations(folder: Path) -> list[Evaluation]:
    """What an evaluation, or a training run with its final evaluations, scored: the newest of a benchmark."""
    paths = sorted([*folder.glob("scores.json"), *folder.glob("*/scores.json")], key=_age)
    found = {one.benchmark: one for one in map(read_evaluation, paths)}
    return [found[name] for name in sorted(found)]


def _age(path: Path) -> float:
    return path.stat().st_mtime


def read_evaluation(path: Path) -> Evaluation:
    """One `scores.json`."""
    values = json.loads(path.read_text())
    measures = {
        name: 100 * values["global"][key]
        for name in MEASURED
        for key in (name, f"{name}-Mean")
        if values["global"].get(key) is not None
    }
    calibrations = values.get("calibration", {})  # which earlier versions did not write
    measures |= {name: told["ece"] for kind, name in ECE.items() if (told := calibrations.get(kind))}
    speed = values["speed"]
    if speed["frames"]:
        measures |= {"seconds": speed["seconds"] / speed["frames"], "MB": speed["peak_memory_mb"]}
    objects = {(row["sequence"], row["object"]): 100 * row["J-Mean"] for row in values["sequences"]}
    return Evaluation(path.parent, values["settings"]["benchmark"], measures, objects)


def table_rows(sweep: Sweep) -> list[Row]:
    """The table's lines, in the jobs' order; those of one benchmark stand together."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[Job, Evaluation]]] = {}
    varied = [key for key in sweep.varied if key != "benchmark"]
    for job in sweep.jobs:
        setting = tuple((key, job.asked.get(key, "-")) for key in varied)
        for one in job.evaluations:
            groups.setdefault((one.benchmark, setting), []).append((job, one))
    baseline = compare_with_baseline(sweep)
    table = TABLES.get(sweep.paper_table or "")
    rows = []
    for (benchmark, setting), members in groups.items():
        asked = members[0][0].asked
        paper = table.beside(asked, benchmark.split("-")[0]) if table else None
        rows.append(Row(dict(setting), benchmark, [one for _, one in members], paper, None))
    order = {name: number for number, name in enumerate(dict.fromkeys(row.benchmark for row in rows))}
    rows.sort(key=lambda row: order[row.benchmark])
    return [_compared(row, rows, baseline) for row in rows]


def compare_with_baseline(sweep: Sweep) -> dict[str, str]:
    """Key -> value of the setting that the others are compared with."""
    varied = [key for key in sweep.varied if key != "benchmark"]
    told = {key: value for key, value in sweep.baseline.items() if key in varied}
    if told or not varied:
        return told
    return {varied[0]: sweep.jobs[0].asked.get(varied[0], "-")}


def _compared(row: Row, rows: Iterable[Row], baseline: Mapping[str, str]) -> Row:
    wanted = {**row.setting, **baseline}
    if not baseline or wanted == row.setting:
        return row
    for other in rows:
        if other.setting == wanted and other.benchmark == row.benchmark:
            difference = paired_bootstrap(row.objects, other.objects)
            return Row(row.setting, row.benchmark, row.evaluations, row.paper, difference)
    return row
