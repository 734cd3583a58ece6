"""Records of a sweep's jobs: the list of jobs, how each ended, and the table of all results."""

from __future__ import annotations

import gc
import json
import logging
import platform
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from stm.atomic_io import write_atomically
from stm.config.environment import program_name, rank
from stm.config.schema import CONF, JOB, PLAN
from stm.config.user_errors import UserError
from stm.sweeps.finished_jobs import (
    Score,
    changed_settings,
    configuration_fingerprint,
    finished_score,
    is_finished,
    other_settings_error,
    read_record,
)

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

log = logging.getLogger(__name__)

PACKAGES = ("stm-vos", "torch", "lightning", "numpy", "opencv-python-headless", "albumentations")


def write_job_list(folder: Path, jobs: Sequence[Mapping[str, Any]], sweep: Mapping[str, Any]) -> None:
    """Write the list of a sweep's jobs, from which the results are read back.

    Args:
        folder: Folder of the sweep.
        jobs: Each with number, stage, folder, overrides and settings.
        sweep: Command and table settings of the sweep.
    """
    if rank() == 0:
        _write(folder / PLAN, {**sweep, "jobs": jobs})


class JobRecord(Callback):
    """Hydra callback that writes `job.json` into a job's folder when the job has ended, well or not.

    A job that ends with the same result again keeps its file. A job that fails before it has written anything
    leaves the record and the configuration of an earlier one that has finished there.
    """

    def __init__(self) -> None:
        self._finished_files: dict[Path, bytes] = {}

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep the configuration of a run that has finished in this folder, which Hydra replaces."""
        HydraConfig.instance().set_config(config)  # for values of the resolver `hydra:`; Hydra sets it later
        folder = Path(config.hydra.run.dir)
        if read_record(folder)["status"] == "completed":
            self._finished_files = {path: path.read_bytes() for path in folder.glob(".hydra/*.yaml")}

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start the clock."""
        self.start_time = time.time()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Free the job's memory, which the next one needs, and write the record."""
        gc.collect()  # trainers are part of reference cycles, with the network and the rendered videos
        if rank() > 0:
            return
        # `return_value` raises a failed job's error and prints to stderr (facebookresearch/hydra#1465)
        value, folder = job_return._return_value, Path(config.hydra.runtime.output_dir)
        failed = job_return.status == JobStatus.FAILED
        if failed and read_record(folder)["status"] == "completed" and not _written(folder, self.start_time):
            for path, content in self._finished_files.items():
                path.write_bytes(content)
            return
        if not failed and is_finished(folder, job_return.cfg) and value == finished_score(folder):
            return  # the record describes the command and the time that produced the result
        _write(
            folder / JOB,
            {
                "status": "failed" if failed else "completed",
                "error": _error_text(value) if failed else "",
                "score": None if failed else value,
                **({"measure": value.measure} if isinstance(value, Score) else {}),
                **({} if failed else _validation(job_return.cfg, value)),
                "seconds": round(time.time() - self.start_time, 1),
                "configuration": configuration_fingerprint(job_return.cfg),
                "made_by": _provenance(list(config.hydra.overrides.task)),
            },
        )

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with the message of a user's mistake, which Hydra would print below a line of its own."""
        if isinstance(error := kwargs["job_return"]._return_value, UserError):
            raise SystemExit(f"{error}\n(HYDRA_FULL_ERROR=1 shows the traceback.)") from error


def _written(folder: Path, start: float) -> bool:
    """Return whether a job has written more than logs and what Hydra and W&B write."""
    names = [path for path in folder.iterdir() if not path.name.startswith((".", "wandb", JOB, "logs"))]
    files = (
        file
        for path in names
        if path.suffix != ".log"
        for file in ([path] if path.is_file() else path.rglob("*"))
    )
    return any(file.stat().st_mtime > start for file in files)


def _validation(config: DictConfig | None, score: float | None) -> dict[str, Any]:
    """Return the entry for a training whose score is that of its best validation, as it has no final one."""
    if config is None or not isinstance(score, Score) or "monitor" not in config:
        return {}
    if config.final_benchmark is not None or config.extra_benchmarks:
        return {}
    return {"validation": {score.measure: score}}


class TrialTable(JobRecord):
    """Job records, and the table of a sweeper that proposes jobs as it proceeds, such as Optuna's.

    The table is rewritten whenever a job has ended, so that an interrupted search has one too.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a search without scores or with other settings, and write a job list for W&B's groups."""
        try:
            self._refuse(config)
        except UserError as error:  # Hydra turns other exceptions of a callback into warnings
            raise SystemExit(f"{program_name()}: {error}") from error
        self._write_jobs(config, _trials(config))

    def _refuse(self, config: DictConfig) -> None:
        if config.get("final_benchmark") is None and "callbacks" in config:
            if not any(callback and "monitor" in callback for callback in (config.callbacks or {}).values()):
                raise UserError(
                    "a search needs a score: callbacks must have one that keeps the best checkpoint"
                )
            if OmegaConf.select(config, "trainer.limit_val_batches") == 0:
                raise UserError("trainer.limit_val_batches=0: must be positive, as a search needs a score")
        for job in _trials(config):
            folder = Path(config.hydra.sweep.dir) / job["folder"]
            if read_record(folder)["status"] == "completed":
                changes = changed_settings(folder, _without_hydra(config), _searched(config))
                if changes:
                    raise other_settings_error(folder, changes)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the job's record and the table."""
        super().on_job_end(config, job_return, **kwargs)
        self._write_table(config, _trials(config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the list of all jobs and print the table."""
        jobs = _trials(config)
        self._write_jobs(config, jobs)
        if table := self._write_table(config, jobs):
            _print_table(table, Path(config.hydra.sweep.dir))

    def _write_table(self, config: DictConfig, jobs: Sequence[Mapping[str, Any]]) -> str:
        from stm.sweeps.sweep_tables import write_trials

        return write_trials(Path(config.hydra.sweep.dir), jobs) if rank() == 0 else ""

    def _write_jobs(self, config: DictConfig, jobs: Sequence[Mapping[str, Any]]) -> None:
        words = [*config.hydra.overrides.task, *config.hydra.overrides.hydra]
        command = f"{program_name()} {shlex.join(words)}"
        write_job_list(Path(config.hydra.sweep.dir), jobs, {"command": command})


def _without_hydra(config: DictConfig) -> DictConfig:
    task = config.copy()
    with open_dict(task):
        task.pop("hydra", None)
    return task


def _trials(config: DictConfig) -> list[dict[str, Any]]:
    """Return a search's jobs so far, read from their folders."""
    folder, jobs = Path(config.hydra.sweep.dir), []
    for path in folder.glob("*/.hydra/hydra.yaml"):
        job = OmegaConf.select(OmegaConf.load(path), "hydra")
        if job is None:  # another process has just created the file
            continue
        values = dict(word.split("=", 1) for word in job.overrides.task)
        jobs.append(
            {
                "number": job.job.num,
                "folder": path.parents[1].name,
                "overrides": list(job.overrides.task),
                "settings": values,
                "configuration": configuration_fingerprint(OmegaConf.load(path.with_name("config.yaml"))),
            }
        )
    searched = set(config.hydra.sweeper.params)
    for key in {key for job in jobs for key in job["settings"]}:  # the command line may add to the search
        searched |= {key} if len({job["settings"].get(key) for job in jobs}) > 1 else set()
    for job in jobs:
        job["settings"] = {key: job["settings"][key] for key in sorted(searched & job["settings"].keys())}
    return sorted(jobs, key=lambda job: job["number"])


def _searched(config: DictConfig) -> list[str]:
    """Return the keys of a search, those of its file and of its command line."""
    words = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    swept = [word.key_or_group for word in words if word.is_sweep_override()]
    return [*map(str, config.hydra.sweeper.params), *swept]


def _provenance(overrides: Sequence[str]) -> dict[str, str]:
    """Return what reproduces a result: command, commit, versions and machine."""
    facts = {"command": f"{program_name()} {shlex.join(overrides)}"}
    facts["git commit"] = _commit()
    facts["python"] = platform.python_version()
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            facts[name] = version(name)
    return facts | {"machine": platform.platform()}


def _commit() -> str:
    """Return the commit of the code, with `-dirty` where files differ from it."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=CONF,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown: no git repository"
    return answer.stdout.strip()


def _error_text(error: Exception) -> str:
    """Return an error's message, with its type unless it is a user's mistake."""
    return str(error) if isinstance(error, HydraException) else f"{type(error).__name__}: {error}"


def collect_results(folder: Path, config: DictConfig) -> None:
    """Write a sweep's table as Markdown and CSV, print it, and log it to W&B if that logger is configured.

    Args:
        folder: Folder of the sweep.
        config: Configuration of the sweep, with what its jobs share.
    """
    from stm.sweeps.results import read_sweep
    from stm.sweeps.sweep_tables import csv_rows, markdown, write_tables

    sweep = read_sweep(folder)
    write_tables(sweep)
    _print_table(markdown(sweep), folder)
    logger = OmegaConf.select(config, "logger.wandb")
    if logger is not None:
        _log_table(folder, logger, csv_rows(sweep))


def _print_table(table: str, folder: Path) -> None:
    print(f"\n{table}\ntable     {folder / 'table.md'}, {folder / 'table.csv'}", flush=True)


def _log_table(folder: Path, logger: DictConfig, rows: Sequence[Mapping[str, Any]]) -> None:
    import wandb

    from stm.training.loggers import close, connect, wandb_logger

    settings = {key: logger[key] for key in ("mode", "project", "entity", "group", "tags", "notes")}
    settings["group"] = settings["group"] or folder.name
    run = wandb_logger(str(folder), **settings, name=folder.name, job_type="sweep")
    connect(run)
    columns: list[str | int] = [*rows[0]]
    data = [[None if value == "" else value for value in row.values()] for row in rows]
    run.experiment.log({"sweep": wandb.Table(columns=columns, data=data)})
    close([run], failed=False)


def _write(path: Path, values: Any) -> None:
    write_atomically(path, json.dumps(values, indent=1, default=str))
