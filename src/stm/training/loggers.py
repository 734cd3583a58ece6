"""Loggers of a run: a CSV file, Weights & Biases, and what is logged to them."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from http.client import HTTPException
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from stm.config.schema import PLAN
from stm.evaluation.scores import Scores
from stm.training.callbacks import log_sequences
from stm.training.preemption import TIME_LIMIT_WARNING, Preempted

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

ARTIFACTS = "artifacts"
"""Attribute of a logger with the paths that become artifacts at the end of a successful run."""

log = logging.getLogger(__name__)


def wandb_logger(
    directory: str,
    mode: str = "offline",
    project: str = "stm",
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    checkpoints: Sequence[str] = (),
) -> WandbLogger:
    """Build a Weights & Biases logger whose run continues when the run's folder does.

    Args:
        directory: Folder of the run, with the id of the W&B run in `wandb_id.txt`.
        mode: 'offline' (sync later with `wandb sync`), 'online' or 'disabled'.
        project: Project, as all following arguments up to `notes`, of W&B.
        entity: User or team.
        name: Name of the run; None is the folder's, which for a job of a sweep has the swept settings.
        group: Group of the run; None is the sweep's folder for a job of a sweep.
        job_type: Type of the run.
        tags: Tags.
        notes: Notes.
        checkpoints: 'best', 'last': the checkpoints that become artifacts at the end of the run.

    Raises:
        ValueError: The mode or a checkpoint is unknown.
    """
    if mode not in ("offline", "online", "disabled"):
        raise ValueError(f"logger.wandb.mode={mode!r}: must be offline, online or disabled")
    if unknown := set(checkpoints) - {"best", "last"}:
        raise ValueError(f"logger.wandb.checkpoints={sorted(unknown)}: must be best or last")
    from lightning.pytorch.loggers import WandbLogger  # importing W&B takes a second

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    # `mode` instead of `offline=True`, which would affect later jobs of this process through the environment
    logger = WandbLogger(
        save_dir=folder,
        mode=mode,
        id=run_id(folder),
        resume="allow",
        project=project,
        entity=entity,
        name=name or folder.name,
        group=group or _sweep_name(folder),
        job_type=job_type,
        tags=list(tags),
        notes=notes,
        # by default it flushes every 15 seconds, and SLURM's SIGTERM kills W&B's process, too
        settings={"x_transaction_log_flush_interval": 1.0, "init_timeout": 30.0},
    )
    setattr(logger, ARTIFACTS, [folder / "checkpoints" / f"{name}.ckpt" for name in checkpoints])
    for name in ("log_metrics", "log_image", "log_table", "log_hyperparams", "finalize"):
        setattr(logger, name, _ignoring_lost_connection(getattr(logger, name)))
    return logger


@rank_zero_only
def connect(logger: Logger) -> None:
    """Start the run of a W&B logger, offline where W&B is out of reach or rejects the run."""
    arguments = getattr(logger, "_wandb_init", {})  # Lightning has no public way to change the mode later
    if arguments.get("mode") != "online":
        return
    import wandb

    reason = _connection_problem()
    if reason is None:
        try:
            logger.experiment  # type: ignore[attr-defined]  # noqa: B018
            return
        except (wandb.Error, OSError) as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            wandb.teardown()  # its service would hold the run's id
    arguments["mode"] = "offline"
    log.warning(
        "logger.wandb.mode=online: %s; the run is logged offline; upload it later with: wandb sync %s",
        reason,
        Path(arguments["dir"]) / "wandb" / "offline-run-*",
    )


def _connection_problem() -> str | None:
    """Return why W&B cannot be used, found in seconds; W&B itself tries for minutes."""
    import wandb

    settings = wandb.setup().settings
    server = settings.base_url
    try:
        has_login = netrc().authenticators(urlsplit(server).hostname or "") is not None
    except (OSError, NetrcParseError):
        has_login = False
    if not (has_login or settings.api_key or settings.identity_token_file):
        return "no API key; set WANDB_API_KEY or run `wandb login`"
    try:
        urlopen(server, timeout=5).close()
    except HTTPError:
        pass  # it answers
    except (OSError, HTTPException) as error:
        return f"{server} cannot be reached ({error})"
    return None


def _ignoring_lost_connection(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a call to W&B so that training continues when W&B's process has died, as by SLURM's SIGTERM."""
    import wandb

    is_lost = False

    @wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        nonlocal is_lost
        try:
            if not is_lost:
                call(*args, **kwargs)
        except (wandb.Error, OSError) as error:
            is_lost = True
            log.warning("lost the connection to W&B (%s); logs/metrics.csv has all metrics", error)

    return wrapped


def _sweep_name(folder: Path) -> str | None:
    """Return the name of the sweep that the folder is a job of; other runs may lie beside its jobs."""
    plan = folder.parent / PLAN
    if not plan.exists():
        return None
    is_listed = folder.name in (job["folder"] for job in json.loads(plan.read_text())["jobs"])
    is_job = (
        HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    )  # a search lists none yet
    return folder.parent.name if is_listed or is_job else None


def run_id(folder: Path) -> str:
    """Return the W&B id of a run's folder, which the first call creates."""
    file = folder / "wandb_id.txt"
    if not file.exists():
        new_id = secrets.token_hex(4)
        part = folder / f"wandb_id.{new_id}.part"  # process ids may coincide on two nodes
        part.write_text(new_id)
        with suppress(FileExistsError):
            os.link(part, file)  # atomic, and never replaces another process's file
        part.unlink()
    return file.read_text().strip()


@contextmanager
def logging_session(
    loggers: Sequence[Logger], choices: Mapping[str, str | None], config: Mapping[str, Any]
) -> Iterator[None]:
    """Log the configuration at the start of a run, and finish the loggers however the run ends.

    Args:
        loggers: Loggers of the run.
        choices: Group -> the selected file.
        config: The resolved configuration.
    """
    is_failed = True
    try:
        with _blocked_signal(TIME_LIMIT_WARNING):
            for logger in loggers:
                connect(logger)
                logger.log_hyperparams(columns(choices, config))
        yield
        is_failed = False
    except Preempted:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the loggers
        for logger in loggers:
            run: Any = getattr(logger, "_experiment", None)
            if hasattr(run, "mark_preempting"):  # W&B restarts such a run of a search and does not fail it
                _ignoring_lost_connection(run.mark_preempting)()
        raise
    finally:
        close(loggers, is_failed)


@contextmanager
def _blocked_signal(number: int) -> Iterator[None]:
    """Start child processes with a signal blocked, which SLURM sends to all processes of a job.

    W&B's process ignores SIGUSR1, but its child, which monitors the machine, would exit. SIGTERM cannot be
    blocked this way: W&B's process exits on it in any case.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def columns(choices: Mapping[str, str | None], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a table of runs: the groups' choices, the plain values, and all `settings`.

    Args:
        choices: Group -> the selected file.
        config: The resolved configuration.
    """
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    return {**plain, **choices, "settings": config}


def log_scores(loggers: Sequence[Logger], name: str, scores: Scores) -> None:
    """Log an evaluation: the benchmark's measures, speed, memory, and a table with a row per object."""
    metrics = {
        **scores.columns,
        "frames_per_second": scores.frames_per_second,
        "peak_memory_mb": scores.peak_mb,
    }
    for logger in loggers:
        logger.log_metrics({f"{name}/{key}": value for key, value in metrics.items()})
    log_sequences(loggers, f"{name}/sequences", scores)


def close(loggers: Iterable[Logger], failed: bool) -> None:
    """Finish every logger, and log the checkpoints of a successful run as artifacts."""
    for logger in loggers:
        logger.finalize("failed" if failed else "success")
        run: Any = getattr(logger, "_experiment", None)
        if run is not None and hasattr(run, "finish"):  # W&B's; a CSV file needs nothing
            paths = [] if failed else [path for path in getattr(logger, ARTIFACTS, ()) if path.exists()]
            for path in paths:
                _ignoring_lost_connection(_log_checkpoint)(run, path)
            _ignoring_lost_connection(run.finish)(exit_code=1 if failed else 0)


def _log_checkpoint(run: Any, path: Path) -> None:
    """Log a checkpoint as an artifact, which refers to the file itself until it is synced."""
    import wandb

    artifact = wandb.Artifact(f"{path.stem}-{run.id}", type="model")
    artifact.add_file(str(path), policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=["latest", path.stem])
