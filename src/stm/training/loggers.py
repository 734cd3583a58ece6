"""Run names and loggers: what a run is called, and where its numbers go."""

from __future__ import annotations

import csv
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from stm.atomic_io import atomic_path
from stm.config.schema import PLAN
from stm.evaluation.scores import Scores
from stm.training.callbacks import log_sequences
from stm.training.preemption import TIME_IS_UP, Preempted

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

ARTIFACTS = "artifacts"
"""The attribute of a logger with the paths that become artifacts when the run has come to its end."""

log = logging.getLogger(__name__)


class CSVLogger(Logger):
    """`logs/metrics.csv` in the run folder: a line a call, written at once, so that a killed run loses none.

    A resumed run goes on below its earlier lines, but for those of steps that it does again. (Lightning's own
    logger deletes the file.)

    Args:
        directory: the run folder.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__()
        self.file = Path(directory) / "logs" / "metrics.csv"
        self._columns: list[str] | None = None

    name = "csv"
    version = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": "" if step is None else step, **metrics}
        if self._columns is None or not row.keys() <= set(self._columns):
            self._rewrite(row, None if self._columns else step)
        assert self._columns is not None
        with self.file.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration lies in the run folder and in every checkpoint."""

    def _rewrite(self, row: Mapping[str, Any], again: int | None) -> None:
        """Give the file the row's columns too, without its lines from step `again` on."""
        earlier: list[dict[str, str]] = []
        if self.file.exists():
            with self.file.open(newline="") as file:
                earlier = [line for line in csv.DictReader(file) if None not in line.values()]
        if again is not None:
            earlier = [line for line in earlier if line["step"] and int(line["step"]) < again]
        names = {name for line in earlier for name in line} | row.keys()
        self._columns = ["step", *sorted(names - {"step"})]
        with atomic_path(self.file) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(earlier)


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
    """A Weights & Biases logger whose run goes on when the run folder does.

    Args:
        directory: the run folder; the run's id lies there as `wandb_id.txt`.
        mode: 'offline' (sync later with `wandb sync`), 'online' or 'disabled'.
        project: and the following: as W&B has them.
        group: None is the sweep's folder for a job of a sweep.
        checkpoints: 'best', 'last': which become artifacts when the run has come to its end.

    Raises:
        ValueError: an unknown mode or checkpoint.
    """
    if mode not in ("offline", "online", "disabled"):
        raise ValueError(f"logger.wandb.mode={mode!r}: must be offline, online or disabled")
    if unknown := set(checkpoints) - {"best", "last"}:
        raise ValueError(f"logger.wandb.checkpoints: {', '.join(sorted(unknown))}: must be best or last")
    from lightning.pytorch.loggers import WandbLogger  # W&B takes a second to import

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    # `mode` and not `offline=True`, which would leak into later jobs of the process through the environment.
    logger = WandbLogger(
        save_dir=folder,
        mode=mode,
        id=run_id(folder),
        resume="allow",
        project=project,
        entity=entity,
        name=name,
        group=group or _sweep_of(folder),
        job_type=job_type,
        tags=list(tags),
        notes=notes,
        # It writes down what it holds every 15 seconds else, and SLURM's SIGTERM ends it, too.
        settings={"x_transaction_log_flush_interval": 1.0},
    )
    setattr(logger, ARTIFACTS, [folder / "checkpoints" / f"{name}.ckpt" for name in checkpoints])
    for name in ("log_metrics", "log_image", "log_table", "log_hyperparams", "finalize"):
        setattr(logger, name, _whatever_happens(getattr(logger, name)))
    return logger


def _whatever_happens(tell: Callable[..., Any]) -> Callable[..., Any]:
    """W&B's own process may die, as by the SIGTERM that SLURM sends to all of a job: the training goes on."""
    import wandb

    lost = False

    @wraps(tell)
    def told(*args: Any, **kwargs: Any) -> None:
        nonlocal lost
        try:
            if not lost:
                tell(*args, **kwargs)
        except (wandb.Error, OSError) as error:
            lost = True
            log.warning("W&B is lost (%s); logs/metrics.csv has the numbers", error)

    return told


def _sweep_of(folder: Path) -> str | None:
    """The name of the sweep that has a job in this folder."""
    return folder.parent.name if (folder.parent / PLAN).exists() else None


def run_id(folder: Path) -> str:
    """The W&B id of a run folder: made at the first call, the same ever after."""
    file = folder / "wandb_id.txt"
    if not file.exists():
        made = secrets.token_hex(4)
        part = folder / f"wandb_id.{made}.part"  # the process's number may be another node's, too
        part.write_text(made)
        with suppress(FileExistsError):
            os.link(part, file)  # whole at once, and never over another process's
        part.unlink()
    return file.read_text().strip()


@contextmanager
def logging_session(
    loggers: Sequence[Logger], choices: Mapping[str, str | None], config: Mapping[str, Any]
) -> Iterator[None]:
    """While a run goes on: its configuration is logged first, the loggers are finished however it ends."""
    failed = True
    try:
        with _kept_from_children(TIME_IS_UP):
            for logger in loggers:
                logger.log_hyperparams(columns(choices, config))
        yield
        failed = False
    except Preempted:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another one, while the loggers finish
        for logger in loggers:
            run: Any = getattr(logger, "_experiment", None)
            if hasattr(run, "mark_preempting"):  # W&B hands a search's run out again, and calls none failed
                _whatever_happens(run.mark_preempting)()
        raise
    finally:
        close(loggers, failed)


@contextmanager
def _kept_from_children(number: int) -> Iterator[None]:
    """The processes that begin meanwhile do not hear a signal, which SLURM sends to all of a job.

    W&B's own one does not mind SIGUSR1, but the one that measures the machine for it would end. (By SIGTERM
    W&B's ends whatever it inherits.)
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def columns(choices: Mapping[str, str | None], config: Mapping[str, Any]) -> dict[str, Any]:
    """What a table of runs is sorted by: the groups' choices (`memory`, `backbone`, `data`) and plain values.

    Args:
        choices: group -> the file that was chosen.
        config: the resolved configuration, which is put below `settings`.
    """
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    return {**plain, **choices, "settings": config}


def log_scores(loggers: Sequence[Logger], name: str, scores: Scores) -> None:
    """Log what an evaluation gave, under its name: J, F, J&F (and G), speed, memory, a row an object."""
    measures = {key.removesuffix("-Mean"): value for key, value in scores.overall.items()}
    told = {key: measures[key] for key in measures.keys() & {"J&F", "J", "F", "G"}}
    told |= {"frames_per_second": scores.frames_per_second, "peak_memory_mb": scores.peak_mb}
    for logger in loggers:
        logger.log_metrics({f"{name}/{key}": value for key, value in told.items()})
    log_sequences(loggers, f"{name}/sequences", scores)


def close(loggers: Iterable[Logger], failed: bool) -> None:
    """Finish every logger, whether the run ended well or not."""
    for logger in loggers:
        logger.finalize("failed" if failed else "success")
        run: Any = getattr(logger, "_experiment", None)
        if run is not None and hasattr(run, "finish"):  # W&B's; a CSV file needs no more
            kept = [] if failed else [path for path in getattr(logger, ARTIFACTS, ()) if path.exists()]
            for path in kept:
                _whatever_happens(_log_checkpoint)(run, path)
            _whatever_happens(run.finish)(exit_code=1 if failed else 0)


def _log_checkpoint(run: Any, path: Path) -> None:
    """A checkpoint as an artifact; it is not copied, so it must stay where it is until it is synced."""
    import wandb

    artifact = wandb.Artifact(f"{path.stem}-{run.id}", type="model")
    artifact.add_file(str(path), policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=["latest", path.stem])
