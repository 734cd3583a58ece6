"""Hydra's sweeper of this project: jobs stage by stage, and one table of all of them at the end.

Hydra takes sweepers from the package `hydra_plugins` alone; `conf/*.yaml` choose `hydra/sweeper: stages`.
"""

import itertools
import json
import logging
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf, open_dict

from stm.config.environment import rank
from stm.config.resolvers import folder_name, quoted

log = logging.getLogger(__name__)


@dataclass
class StagedSweeperConf:
    """What a file of `conf/sweep/` may say below `hydra.sweeper`.

    Attributes:
        params: key -> values with commas between; every combination is a job. The command line overrides.
        stages: stage -> the same for its own jobs, which wait for those of earlier stages. In a value,
            `@<stage>` is the folder of the job of that earlier stage that agrees on all that is swept there.
        average_over: keys that tell repetitions apart, over which the table shows mean and spread.
        baseline: key -> the value that the others are compared with; the first one by default.
        paper_table: which of the paper's tables stands beside, such as `table5`.
    """

    _target_: str = "hydra_plugins.stm_plugins.StagedSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    stages: dict[str, dict[str, Any]] | None = None
    average_over: list[str] = field(default_factory=lambda: ["seed"])
    baseline: dict[str, str] | None = None
    paper_table: str | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="stages", node=StagedSweeperConf, provider="stm")


class StagedSweeper(BasicSweeper):
    """Launches each stage's jobs with Hydra's launcher, whichever it is; see `StagedSweeperConf`.

    However the jobs end, by Ctrl-C too, the table of what is there is written and printed.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        stages: dict[str, dict[str, Any]] | None = None,
        average_over: Sequence[str] = ("seed",),
        baseline: dict[str, str] | None = None,
        paper_table: str | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.stages = stages or {"": {}}
        self.told = {
            "average_over": list(average_over),
            "baseline": dict(baseline or {}),
            "paper_table": paper_table,
        }

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs but those that begin from what a failed one left: it may be a half-trained checkpoint.

        Raises:
            Exception: what the first failed job raised; the others ran all the same.
        """
        from stm.sweeps.job_records import collect_results, write_job_list

        assert self.config is not None and self.launcher is not None
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        plan = self._plan(arguments, folder)
        write_job_list(
            folder, plan, {**self.told, "command": shlex.join([Path(sys.argv[0]).name, *arguments])}
        )
        returns: list[JobReturn] = []
        missing: set[int] = set()  # numbers of the jobs that failed or were left out
        try:
            for _, stage in itertools.groupby(plan, key=lambda job: job["stage"]):
                jobs = list(_beginning(stage, missing))
                ended = self._launch([job["overrides"] for job in jobs], len(returns))
                missing |= {
                    job["number"]
                    for job, end in zip(jobs, ended, strict=True)
                    if end.status == JobStatus.FAILED
                }
                returns += ended
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # the table stands last and tells how to go on
        finally:
            if rank() == 0:
                collect_results(folder, self.config)
        for job in returns:
            if job.status == JobStatus.FAILED:
                _ = job.return_value  # raises
        return [returns]

    def _launch(self, jobs: list[list[str]], begun: int) -> list[JobReturn]:
        """Run jobs, told by their overrides, as many at a time as are allowed; `begun` ran before."""
        assert self.launcher is not None
        ended: list[JobReturn] = []
        for batch in self.split_overrides_to_chunks(jobs, self.max_batch_size) if jobs else ():
            self.validate_batch_is_legal(batch)
            ended += self.launcher.launch(batch, initial_job_idx=begun + len(ended))
        return ended

    def _plan(self, arguments: list[str], folder: Path) -> list[dict[str, Any]]:
        """All jobs in order: number, stage, folder, overrides, what was asked before `@` was replaced, and
        the numbers of the jobs that `@` means.
        """
        plan: list[dict[str, Any]] = []
        for stage, params in self.stages.items():
            stage_jobs = list(self._combinations({**self.params, **params}, arguments))
            for asked in stage_jobs:
                meant = {key: _meant(word, asked, plan) for key, word in asked.items() if word[:1] == "@"}
                placed = {key: _placed(asked[key], folder / job["folder"]) for key, job in meant.items()}
                overrides = [f"{key}={value}" for key, value in {**asked, **placed}.items()]
                job: dict[str, Any] = {
                    "number": len(plan),
                    "stage": stage,
                    "overrides": overrides,
                    "asked": asked,
                    "after": [one["number"] for one in meant.values()],
                }
                if stage:
                    job["folder"] = _name(len(plan), stage, asked, stage_jobs)
                    overrides.append(f"hydra.sweep.subdir={quoted(job['folder'])}")
                else:
                    job["folder"] = self._subfolder(len(plan), overrides)
                plan.append(job)
        return plan

    def _combinations(self, params: dict[str, Any], arguments: list[str]) -> Iterator[dict[str, str]]:
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)  # type: ignore[union-attr]
        told = {key: one if isinstance(one, str) else json.dumps(one) for key, one in params.items()}
        words = [f"{key}={value}" for key, value in told.items()] + arguments
        (jobs,) = self.split_arguments(parser.parse_overrides(words), None)
        for job in jobs:
            yield dict(word.split("=", 1) for word in job)

    def _subfolder(self, number: int, overrides: list[str]) -> str:
        """Where the launcher will put a job, below the sweep's folder, by the configuration."""
        assert self.hydra_context is not None and self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = number
        return _resolved(config, "hydra.sweep.subdir")


def _resolved(config: Any, key: str) -> str:
    """A value of Hydra's own configuration, which may ask `hydra:` for others."""
    from hydra.core.hydra_config import HydraConfig

    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        return str(OmegaConf.select(config, key))
    finally:
        HydraConfig.instance().cfg = before


def _name(number: int, stage: str, asked: dict[str, str], stage_jobs: Sequence[dict[str, str]]) -> str:
    """A job's folder: its number, its stage, and what tells it from the stage's other jobs."""
    swept = [key for key in asked if any(asked[key] != other[key] for other in stage_jobs)]
    words = [f"{key.rpartition('.')[2]}-{asked[key].removeprefix('@').partition('/')[0]}" for key in swept]
    return folder_name("_".join([str(number), stage, *words]))


def _beginning(stage: Iterable[dict[str, Any]], missing: set[int]) -> Iterator[dict[str, Any]]:
    """A stage's jobs but those that begin from missing ones, which are missing then, too."""
    for job in stage:
        if missing.isdisjoint(job["after"]):
            yield job
        else:
            log.warning("%s is left out: what it begins from failed", job["folder"])
            missing.add(job["number"])


def _meant(value: str, asked: dict[str, str], plan: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The job that a value `@<stage>/...` means.

    Raises:
        ValueError: there is no such job, or more than one.
    """
    stage = value[1:].partition("/")[0]
    jobs = [job for job in plan if job["stage"] == stage]
    swept = {key for job in jobs for key in job["asked"] if job["asked"][key] != jobs[0]["asked"][key]}
    found = [job for job in jobs if all(job["asked"][key] == asked.get(key) for key in swept)]
    if len(found) != 1:
        raise ValueError(
            f"{value}: {len(found)} jobs of the stage {stage!r} agree with {asked} on {sorted(swept)}; "
            "it must be one"
        )
    return found[0]


def _placed(value: str, folder: Path) -> str:
    """A value with `@<stage>` replaced by the folder of the job that it means."""
    return quoted(folder / value.partition("/")[2])
