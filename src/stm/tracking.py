"""Run names and loggers: what a run is called, and where its numbers go."""

from __future__ import annotations

import csv
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


class CSVLog(Logger):
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
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(earlier)
        part.replace(self.file)


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
) -> WandbLogger:
    """A Weights & Biases logger whose run goes on when the run folder does.

    Args:
        directory: the run folder; the run's id lies there as `wandb_id.txt`.
        mode: 'offline' (sync later with `wandb sync`), 'online' or 'disabled'.
        project: and the following: as W&B has them.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in ("offline", "online", "disabled"):
        raise ValueError(f"logger.wandb.mode={mode!r}: must be offline, online or disabled")
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
        group=group,
        job_type=job_type,
        tags=list(tags),
        notes=notes,
    )
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


def run_id(folder: Path) -> str:
    """The W&B id of a run folder: made at the first call, the same ever after."""
    file = folder / "wandb_id.txt"
    if not file.exists():
        part = folder / f"wandb_id.{os.getpid()}.part"
        part.write_text(secrets.token_hex(4))
        with suppress(FileExistsError):
            os.link(part, file)  # whole at once, and never over another process's
        part.unlink()
    return file.read_text().strip()


def close(loggers: Iterable[Logger], failed: bool) -> None:
    """Finish every logger, whether the run ended well or not."""
    for logger in loggers:
        logger.finalize("failed" if failed else "success")
        run: Any = getattr(logger, "_experiment", None)
        if run is not None and hasattr(run, "finish"):  # W&B's; a CSV file needs no more
            _whatever_happens(run.finish)(exit_code=1 if failed else 0)
