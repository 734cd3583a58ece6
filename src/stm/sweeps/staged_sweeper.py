"""A Hydra sweeper that runs jobs stage by stage and writes one table of all of them.

Hydra loads sweepers from the package `hydra_plugins`; `conf/*.yaml` select this one: `hydra/sweeper: stages`.
"""

import itertools
import json
import logging
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from stm.config.environment import program_name, rank
from stm.config.resolvers import folder_name, quote_override, settings_label
from stm.config.user_errors import UserError

log = logging.getLogger(__name__)


@dataclass
class StagedSweeperConf:
    """The keys that a file of `conf/sweep/` may set below `hydra.sweeper`.

    Attributes:
        max_batch_size: Jobs that are launched together; null launches a stage at once.
        params: Key -> comma-separated values; every combination is a job. The command line overrides them.
        stages: Stage -> the same for its own jobs, which wait for those of earlier stages. In a value,
            `@<stage>` is the folder of the job of that earlier stage that agrees on all keys swept there.
        average_over: Keys that distinguish repetitions, over which the table shows mean and spread.
        baseline: Key -> the value that others are compared with; the first one by default.
        paper_table: The paper's table to compare with, such as `table5`.
    """

    _target_: str = "hydra_plugins.stm_plugins.StagedSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    stages: dict[str, dict[str, Any]] | None = None
    average_over: list[str] = field(default_factory=lambda: ["seed"])
    baseline: dict[str, str] | None = None
    paper_table: str | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="stages", node=StagedSweeperConf, provider="stm")


class StagedSweeper(Sweeper):
    """Launches each stage's jobs with the configured launcher; see `StagedSweeperConf`.

    The table of all finished jobs is written and printed however the sweep ends, also by Ctrl-C.
    """

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        stages: dict[str, dict[str, Any]] | None = None,
        average_over: Sequence[str] = ("seed",),
        baseline: dict[str, str] | None = None,
        paper_table: str | None = None,
    ) -> None:
        if max_batch_size is not None and max_batch_size < 1:
            raise ValueError(f"hydra.sweeper.max_batch_size={max_batch_size}: must be at least 1")
        self.max_batch_size = max_batch_size
        self.params, self.stages = params or {}, stages or {"": {}}
        self.table = {
            "average_over": list(average_over),
            "baseline": dict(baseline or {}),
            "paper_table": paper_table,
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the configuration and build the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs, except those that start from a failed job's checkpoint, which may be half-trained.

        Raises:
            Exception: The error of the first failed job, after the others have run.
        """
        from stm.sweeps.job_records import collect_results, write_job_list

        folder = Path(str(self.config.hydra.sweep.dir))
        plan = self._plan(arguments, folder)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        command = f"{program_name()} {shlex.join(arguments)}"
        write_job_list(folder, plan, {**self.table, "command": command})
        returns: list[JobReturn] = []
        failed: set[int] = set()  # numbers of the jobs that failed or were skipped
        try:
            for _, stage in itertools.groupby(plan, key=lambda job: job["stage"]):
                jobs = list(_runnable(stage, failed))
                ended = self._launch([job["overrides"] for job in jobs], len(returns))
                failed |= {
                    job["number"]
                    for job, end in zip(jobs, ended, strict=True)
                    if end.status == JobStatus.FAILED
                }
                returns += ended
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # without a traceback below the table
        finally:
            if rank() == 0:
                collect_results(folder, self.config)
        for job in returns:
            if job.status == JobStatus.FAILED:
                _ = job.return_value  # raises the job's error
        return [returns]

    def _launch(self, jobs: list[list[str]], started: int) -> list[JobReturn]:
        """Run jobs, given by their overrides, in batches; `started` is the number of earlier jobs."""
        ended: list[JobReturn] = []
        size = self.max_batch_size or max(1, len(jobs))
        for first in range(0, len(jobs), size):
            batch = jobs[first : first + size]
            self.validate_batch_is_legal(batch)
            ended += self.launcher.launch(batch, initial_job_idx=started + first)
        return ended

    def _plan(self, arguments: list[str], folder: Path) -> list[dict[str, Any]]:
        """Return all jobs in order.

        Each has its number, stage, folder and overrides, its settings (the overrides before `@` is replaced),
        in `needs` the numbers of the jobs that `@` refers to, and the fingerprint of its configuration.

        Raises:
            UserError: A job's folder has a job that finished with other settings.
        """
        from stm.sweeps.finished_jobs import configuration_fingerprint, refuse_other_settings

        plan: list[dict[str, Any]] = []
        for stage, params in self.stages.items():
            stage_settings = list(self._combinations({**self.params, **params}, arguments))
            for settings in stage_settings:
                sources = {k: _source(v, settings, plan) for k, v in settings.items() if v.startswith("@")}
                paths = {
                    key: quote_override(folder / job["folder"] / settings[key].partition("/")[2])
                    for key, job in sources.items()
                }
                job: dict[str, Any] = {
                    "number": len(plan),
                    "stage": stage,
                    "overrides": [f"{key}={value}" for key, value in {**settings, **paths}.items()],
                    "settings": settings,
                    "needs": [source["number"] for source in sources.values()],
                }
                config = self._job_config(job)
                job["folder"] = _configured_folder(config, stage) or _differences(job, stage_settings)
                job["overrides"].append(f"hydra.sweep.subdir={quote_override(job['folder'])}")
                with open_dict(config):
                    del config["hydra"]
                job["configuration"] = configuration_fingerprint(config)
                refuse_other_settings(folder / job["folder"], config)
                plan.append(job)
        return plan

    def _combinations(self, params: dict[str, Any], arguments: list[str]) -> Iterator[dict[str, str]]:
        """Yield key -> value for every combination of the swept values.

        Raises:
            UserError: A value is given twice, so that its job would count as two runs.
        """
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in params.items()}
        words = [f"{key}={value}" for key, value in texts.items()] + arguments
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        values = {o.get_key_element(): _values(o) for o in parser.parse_overrides(words)}
        for key, options in values.items():
            if len(set(options)) < len(options):
                raise UserError(f"{key}={','.join(options)}: must name each value once")
        for combination in itertools.product(*values.values()):
            yield dict(zip(values, combination, strict=True))

    def _job_config(self, job: dict[str, Any]) -> DictConfig:
        """Return the configuration that a launcher composes for a job, with Hydra's part."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, job["overrides"])
        with open_dict(config):
            config.hydra.job.num = job["number"]
        return config


def _configured_folder(config: DictConfig, stage: str) -> str | None:
    """Return a job's folder by `hydra.sweep.subdir`; None in stages and where that is the default."""
    sweep: Any = OmegaConf.to_container(config.hydra.sweep)
    if stage or sweep["subdir"] == "${hydra.job.num}":
        return None
    previous = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # for values of the resolver `hydra:`
    try:
        return str(config.hydra.sweep.subdir)
    finally:
        HydraConfig.instance().cfg = previous


def _values(override: Override) -> list[str]:
    """Return all values of an override, as the command line writes them.

    Raises:
        UserError: The override is an interval, which has no list of values.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: must be a list of values, such as choice(1,2) or range(1,3)")
    return list(override.sweep_string_iterator())


def _differences(job: dict[str, Any], stage_settings: Sequence[dict[str, str]]) -> str:
    """Return a job's folder: its number, its stage, and the settings that differ between the stage's jobs."""
    settings = job["settings"]
    swept = [key for key in settings if any(settings[key] != other[key] for other in stage_settings)]
    label = settings_label({key: _without_path(settings[key]) for key in swept})
    return folder_name("_".join(word for word in (str(job["number"]), job["stage"], label) if word))


def _without_path(value: str) -> str:
    """Return the stage that a value `@<stage>/...` refers to; other values as they are."""
    return value[1:].partition("/")[0] if value.startswith("@") else value


def _runnable(stage: Iterable[dict[str, Any]], failed: set[int]) -> Iterator[dict[str, Any]]:
    """Yield a stage's jobs except those that need a failed one, which count as failed too."""
    for job in stage:
        if failed.isdisjoint(job["needs"]):
            yield job
        else:
            log.warning("%s is skipped: the job that it starts from has failed", job["folder"])
            failed.add(job["number"])


def _source(value: str, settings: dict[str, str], plan: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the earlier job that a value `@<stage>/...` refers to.

    Raises:
        UserError: No job matches, or more than one.
    """
    stage = _without_path(value)
    jobs = [job["settings"] for job in plan if job["stage"] == stage]
    swept = {key for job in jobs for key in job if job[key] != jobs[0][key]}
    matches = [
        job
        for job in plan
        if job["stage"] == stage and all(job["settings"][key] == settings.get(key) for key in swept)
    ]
    if len(matches) != 1:
        raise UserError(
            f"{value}: must match one job of the stage {stage!r}; got {len(matches)} jobs that agree with "
            f"{settings} on {sorted(swept)}"
        )
    return matches[0]
