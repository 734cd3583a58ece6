"""Where does an interrupted run go on, and is it still the same run?"""

from __future__ import annotations

import logging
import os
import socket
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import lightning as L
import torch

from stm.training.distributed import all_gather_object

SAME = ("seed", "batch_size", "trainer.accumulate_grad_batches", "network", "loss", "optimizer", "data")
"""What a run that goes on must not change: the clips, their order, and what is made of them."""

log = logging.getLogger(__name__)


def find_resume_checkpoint(resume: str | None, folder: Path) -> Path | None:
    """The checkpoint to go on with: 'auto' looks into the run folder, a path is taken as it is, None starts.

    A job that SLURM has requeued goes on without being told. Where `last.ckpt` is cut off, `previous.ckpt` is
    taken, and that is said.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the checkpoint is broken; or nothing was said about resuming, but the folder holds a run.
    """
    if resume is None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        resume = "auto"
    last, previous = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    there = [path for path in (last, previous) if path.is_file()]
    if resume is None:
        if there:
            raise ValueError(
                f"{folder} already holds a run: resume=auto goes on with it, name=NEW_NAME starts another"
            )
        return None
    if resume != "auto":
        there = [Path(resume)]
        if not there[0].is_file():
            raise FileNotFoundError(f"resume={resume}: no such file; allowed: auto, or a checkpoint's path")
    if not there:
        log.info("resume=auto: a new run")
        return None
    for path in there:
        if is_zipfile(path):  # its directory is at its end: a file cut off has none
            if path != there[0]:
                log.warning("%s is no whole checkpoint", there[0])
            log.info("resume=%s: going on with %s", resume, path)
            return path
    raise ValueError(f"resume={resume}: {' and '.join(map(str, there))} is no whole checkpoint")


def check_same_run(checkpoint: Path, config: dict[str, Any]) -> int:
    """Refuse to go on with a run under settings that would make it neither the old run nor a new one.

    Returns:
        The step from which it goes on.

    Raises:
        ValueError: a setting of the network, the clips, the loss or the optimizer differs; or the file holds
            weights alone.
    """
    held = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if "optimizer_states" not in held:
        raise ValueError(
            f"resume={checkpoint}: holds weights alone; a run begins with them by init={checkpoint}"
        )
    began = held["config"]
    for key in SAME:
        then, now = (_amounts(reduce(getitem, key.split("."), one)) for one in (began, config))
        if then != now:
            raise ValueError(
                f"resume={checkpoint}: that run began with {key}={then}, this command says {key}={now}; "
                "go on with its own settings, or start another run with name=NEW_NAME init=CHECKPOINT"
            )
    return held["global_step"]


class CheckSameResumeStep(L.Callback):
    """Refuses to train where the processes would go on from different steps, before any checkpoint is read.

    Args:
        checkpoint: what this process goes on from; None where it begins.
        step: the checkpoint's.
    """

    def __init__(self, checkpoint: Path | None, step: int) -> None:
        self.checkpoint, self.step = checkpoint, step

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ask all processes.

        Raises:
            ValueError: the steps differ, with the first process that differs from rank 0.
        """
        (first, there), *others = all_gather_object(
            (self.step, f"{self.checkpoint} on {socket.gethostname()}")
        )
        for rank, (step, where) in enumerate(others, start=1):
            if step != first:
                raise ValueError(
                    f"the processes would go on from different steps: rank 0 from step {first} ({there}), "
                    f"rank {rank} from step {step} ({where}); all nodes must see one run folder (output_root "
                    "on a disk that they share), or give resume=CHECKPOINT that all see"
                )


def _amounts(values: Any) -> Any:
    """Settings without those that change no clip: folders and other words, workers, ImageNet's weights."""
    if not isinstance(values, dict):
        return values
    telling = ("_target_", "key_input", "similarity", "backbone", "memory_backbone", "norm")
    return {
        key: _amounts(value)
        for key, value in values.items()
        if key not in ("num_workers", "pretrained") and (key in telling or not isinstance(value, str))
    }
