"""Run names and loggers: what a run is called, and where its numbers go."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger, WandbLogger

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
    return WandbLogger(
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


def run_id(folder: Path) -> str:
    """The W&B id of a run folder: made at the first call, the same ever after."""
    file = folder / "wandb_id.txt"
    try:
        with file.open("x") as new:
            new.write(secrets.token_hex(4))
    except FileExistsError:
        pass
    return file.read_text().strip()


def close(loggers: Iterable[Logger], failed: bool) -> None:
    """Finish every logger, whether the run ended well or not."""
    for logger in loggers:
        logger.finalize("failed" if failed else "success")
        run: Any = getattr(logger, "_experiment", None)
        if run is not None and hasattr(run, "finish"):  # W&B's; a CSV file needs no more
            run.finish(exit_code=1 if failed else 0)
