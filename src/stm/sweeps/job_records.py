"""Around a sweep's jobs: how each ended, which need not run again, and the table of all of them."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from stm.atomic_io import write_atomically
from stm.config.environment import rank
from stm.config.schema import CONF, JOB, PLAN

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

log = logging.getLogger(__name__)


def write_job_list(folder: Path, jobs: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> None:
    """Write down what a sweep is going to do, for whoever gathers what came of it."""
    if rank() == 0:
        _write(folder / PLAN, {**told, "jobs": jobs})


class JobRecord(Callback):
    """Writes `job.json` into a job's folder when it has ended, well or not; Hydra calls it.

    A job that ends again as it ended before keeps its file.
    """

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.began = time.time()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if rank() > 0:
            return
        value, folder = job_return._return_value, Path(config.hydra.runtime.output_dir)
        failed = isinstance(value, Exception)
        if is_finished(folder, job_return.cfg) and value == finished_score(folder):
            return  # nothing new: what made it, and how long that took, stands there
        _write(
            folder / JOB,
            {
                "status": "failed" if failed else "completed",
                "error": _told(value) if failed else "",
                "score": None if failed else value,
                "seconds": round(time.time() - self.began, 1),
                "configuration": _fingerprint(job_return.cfg),
                "made_by": command_of(list(config.hydra.overrides.task)),
            },
        )


class TrialTable(JobRecord):
    """The same, and the table of a sweeper that makes its jobs up as it goes, such as Optuna's.

    It is written again whenever a job has ended, so that it is there when the search is interrupted.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._plan(config, [])  # a job sees by it that it is a sweep's

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        super().on_job_end(config, job_return, **kwargs)
        if rank() == 0:
            self._table(config, _trials(config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        jobs = _trials(config)
        self._plan(config, jobs)
        if told := self._table(config, jobs):
            folder = Path(config.hydra.sweep.dir)
            print(f"\n{told}\ntable     {folder / 'table.md'}, {folder / 'table.csv'}")

    def _table(self, config: DictConfig, jobs: Sequence[Mapping[str, Any]]) -> str:
        from stm.sweeps.sweep_tables import write_trials

        return write_trials(Path(config.hydra.sweep.dir), jobs) if rank() == 0 else ""

    def _plan(self, config: DictConfig, jobs: Sequence[Mapping[str, Any]]) -> None:
        words = [*config.hydra.overrides.task, *config.hydra.overrides.hydra]
        write_job_list(
            Path(config.hydra.sweep.dir), jobs, {"command": shlex.join([Path(sys.argv[0]).name, *words])}
        )


def _trials(config: DictConfig) -> list[dict[str, Any]]:
    """A search's jobs so far, as their folders tell them."""
    folder, searched = Path(config.hydra.sweep.dir), set(config.hydra.sweeper.params)
    jobs = []
    for told in folder.glob("*/.hydra/hydra.yaml"):
        job = OmegaConf.select(OmegaConf.load(told), "hydra")
        if job is None:  # it just begins beside this one
            continue
        words = dict(word.split("=", 1) for word in job.overrides.task)
        jobs.append(
            {
                "number": job.job.num,
                "folder": told.parents[1].name,
                "overrides": list(job.overrides.task),
                "asked": {key: words[key] for key in sorted(searched & words.keys())},
            }
        )
    return sorted(jobs, key=lambda job: job["number"])


def command_of(overrides: Sequence[str]) -> dict[str, str]:
    """What made a result: command, versions, commit. For whoever wants it again."""
    packages = ("stm-vos", "torch", "lightning", "numpy", "opencv-python-headless", "albumentations")
    told = {"command": shlex.join(["python", Path(sys.argv[0]).name, *overrides])}
    told["git commit"] = _commit()
    told["python"] = platform.python_version()
    for name in packages:
        with suppress(PackageNotFoundError):
            told[name] = version(name)
    return told | {"machine": platform.platform()}


def _commit() -> str:
    """The code's commit, and whether files differ from it."""
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


def _told(error: Exception) -> str:
    """A user's mistake says all by itself."""
    return str(error) if isinstance(error, HydraException) else f"{type(error).__name__}: {error}"


def is_finished(folder: Path, config: DictConfig | None) -> bool:
    """Did a job of the same configuration come to its end in this folder?"""
    try:
        end = json.loads((folder / JOB).read_text())
    except FileNotFoundError:
        return False
    return end["status"] == "completed" and end["configuration"] == _fingerprint(config)


def finished_score(folder: Path) -> float | None:
    """What a finished job returned."""
    return json.loads((folder / JOB).read_text())["score"]


def collect_results(folder: Path, config: DictConfig) -> None:
    """Write a sweep's table as Markdown and CSV, print it, and log it to W&B where that is chosen.

    Args:
        folder: the sweep's.
        config: of the sweep, with what its jobs share.
    """
    from stm.sweeps.results import read_sweep
    from stm.sweeps.sweep_tables import csv_rows, markdown, write_tables

    sweep = read_sweep(folder)
    write_tables(sweep)
    print(f"\n{markdown(sweep)}\ntable     {folder / 'table.md'}, {folder / 'table.csv'}", flush=True)
    logger = OmegaConf.select(config, "logger.wandb")
    if logger is not None:
        _log_table(folder, logger, csv_rows(sweep))


def _log_table(folder: Path, logger: DictConfig, rows: Sequence[Mapping[str, Any]]) -> None:
    import wandb

    from stm.training.loggers import close, wandb_logger

    told = {key: logger[key] for key in ("mode", "project", "entity", "group", "tags", "notes")}
    told["group"] = told["group"] or folder.name
    run = wandb_logger(str(folder), **told, name=folder.name, job_type="sweep")
    columns: list[str | int] = [*rows[0]]
    data = [[None if value == "" else value for value in row.values()] for row in rows]
    run.experiment.log({"sweep": wandb.Table(columns=columns, data=data)})
    close([run], failed=False)


def _fingerprint(config: DictConfig | None) -> str:
    """Of a configuration as it was asked for: what `${...}` stands for elsewhere is part of it anyway."""
    return hashlib.sha256(OmegaConf.to_yaml(config, sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, values: Any) -> None:
    write_atomically(path, json.dumps(values, indent=1, default=str))
