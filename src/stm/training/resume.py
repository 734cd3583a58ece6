"""Resuming an interrupted run: its checkpoint, and checks that it is still the same run."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import lightning as L

from stm.evaluation.sharding import all_gather_object
from stm.network import local_path
from stm.network.published import download_problem, read_checkpoint

FIXED_SETTINGS = (
    *("seed", "batch_size", "trainer.accumulate_grad_batches", "trainer.gradient_clip_val"),
    *("network", "loss", "mask_disturbance", "optimizer", "data", "callbacks.average"),
    *("trunk_lr", "frozen_stages", "decay_norms"),
)
"""Settings that a resumed run must not change: they determine the clips, their order and their use.

Devices and their precision may change.
"""

SCORE_SETTINGS = ("monitor", "benchmark", "memory", "trainer.limit_val_batches")
"""Settings without which two scores of a validation are not comparable."""

_NOT_COMPARED = ("num_workers", "pretrained")
"""Keys that change no clip; nor do ImageNet weights, since a checkpoint replaces them."""
_PATHS = ("root", "stills", "images", "masks")
"""Ends of the keys of paths."""

log = logging.getLogger(__name__)


def find_resume_checkpoint(resume: str | None, folder: Path) -> Path | None:
    """Return the checkpoint to resume from; None for a new run.

    A job that SLURM has requeued resumes as with 'auto' where its folder holds a run. Where `last.ckpt` is
    truncated, `previous.ckpt` is used and a warning is logged.

    Args:
        resume: 'auto' for the last checkpoint in the folder, a checkpoint's path or its address
            (`s3://...`), or None for a new run.
        folder: Folder of the run.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: The checkpoint is truncated, or the folder holds a run that would not be continued.
    """
    last, previous = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    candidates = [path for path in (last, previous) if path.is_file()]
    if resume is not None and "://" in resume:
        resume = str(local_path(resume))
    is_requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    if is_requeued and (resume is None or candidates):
        resume = "auto"
    if resume is not None and resume != "auto" and not Path(resume).is_file():
        raise FileNotFoundError(f"resume={resume}: must be auto or the path of a checkpoint; no such file")
    if candidates and (resume is None or (resume != "auto" and not _is_in(resume, folder))):
        raise ValueError(
            f"{folder} already holds a run: continue it with resume=auto, or start another with name=NEW_NAME"
        )
    if resume is None:
        return None
    if resume != "auto":
        candidates = [Path(resume)]
        if problem := download_problem(candidates[0]):
            raise ValueError(f"resume={resume}: must be a complete checkpoint; the file {problem}")
    if not candidates:
        log.info("resume=auto: starting a new run")
        return None
    for path in candidates:
        if is_zipfile(path):  # the directory of a zip file is at its end: a truncated one has none
            if path != candidates[0]:
                log.warning("%s is truncated", candidates[0])
            log.info("resume=%s: continuing from %s", resume, path)
            return path
    names = " and ".join(map(str, candidates))
    raise ValueError(f"resume={resume}: must be a complete checkpoint; {names} is truncated")


def check_same_run(checkpoint: Path, config: dict[str, Any], folder: Path) -> int:
    """Check that a run resumes with the settings that it started with, and that it can.

    The number of steps and the schedule may change: see `STMModule.on_load_checkpoint`.

    Returns:
        The optimizer step from which it continues.

    Raises:
        ValueError: A setting of the network, the clips, the loss or the optimizer differs, no step is left
            where one is needed, the file only holds weights, or it is of another program.
    """
    contents = read_checkpoint(checkpoint)
    if "optimizer_states" not in contents:
        raise ValueError(
            f"resume={checkpoint}: must be the checkpoint of a run; it only holds weights, with which a new "
            f"run starts by init={checkpoint}"
        )
    if not {"config", "global_step"} <= contents.keys():
        raise ValueError(
            f"resume={checkpoint}: must be the checkpoint of a run of this project; it holds no configuration"
        )
    original = contents["config"]
    for key in FIXED_SETTINGS:
        before, now = (_relevant(_setting(settings, key), key) for settings in (original, config))
        if before != now:
            raise ValueError(
                f"resume={checkpoint}: that run started with {key}={before}; got {key}={now}; continue with "
                "the original settings, or start another run with name=NEW_NAME init=CHECKPOINT"
            )
    step, steps = contents["global_step"], config["steps"]
    if step > steps:
        raise ValueError(
            f"steps={steps}: must be at least {step}, the steps that resume={checkpoint} has done"
        )
    if step == steps:
        changed = changed_score_settings(original, config)
        if changed or not _is_in(checkpoint, folder):
            reason = f"another {' and '.join(changed)}" if changed else "another name"
            raise ValueError(
                f"steps={steps}: must be more than {step}, the steps that resume={checkpoint} has done, with "
                f"{reason}, since no validation would select best.ckpt; evaluate.py scores a trained network"
            )
    return step


def changed_score_settings(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the settings that differ and without which scores of a validation are not comparable."""
    return [key for key in SCORE_SETTINGS if _setting(before, key) != _setting(now, key)]


class CheckSameResumeStep(L.Callback):
    """Stops a training whose processes would resume from different steps, before any checkpoint is loaded.

    Args:
        checkpoint: Checkpoint that this process resumes from; None for a new run.
        step: Step of that checkpoint.
    """

    def __init__(self, checkpoint: Path | None, step: int) -> None:
        self.checkpoint, self.step = checkpoint, step

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compare the steps of all processes.

        Raises:
            ValueError: The steps differ; the message names the first process that differs from rank 0.
        """
        (first_step, first_place), *others = all_gather_object(
            (self.step, f"{self.checkpoint} on {socket.gethostname()}")
        )
        for rank, (step, place) in enumerate(others, start=1):
            if step != first_step:
                raise ValueError(
                    f"the processes would resume from different steps: rank 0 from step {first_step} "
                    f"({first_place}), rank {rank} from step {step} ({place}); all nodes must see one run "
                    "folder (output_root on a shared disk), or resume=CHECKPOINT must be visible to all"
                )


def _is_in(checkpoint: str | Path, folder: Path) -> bool:
    return Path(checkpoint).resolve().parent == (folder / "checkpoints").resolve()


def _setting(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = (value or {}).get(name)
    return value


def _relevant(values: Any, group: str) -> Any:
    """Return the settings of a group without those of `_NOT_COMPARED` and without paths: data may move."""
    if not isinstance(values, dict):
        return values
    return {
        key: _relevant(value, group)
        for key, value in values.items()
        if key not in _NOT_COMPARED and not (group == "data" and _is_path(key, value))
    }


def _is_path(key: str, value: Any) -> bool:
    return isinstance(value, str) and (key.endswith(_PATHS) or "/" in value)
