"""The checkpoints of a run: which are kept, when and how they are written."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from stm.evaluation.scores import protocol_of
from stm.training.preemption import EndSignals, exit_preempted
from stm.training.resume import changed_score_settings

log = logging.getLogger(__name__)


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint straight to its path; Lightning's needs room in memory and the temporary folder."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: The file cannot be written.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(checkpoint, path)
        except RuntimeError as error:  # torch's writer reports a full disk this way
            raise OSError(str(error)) from error


class SaveLastAndBest(Checkpoint):
    """Keeps `last.ckpt`, to resume from, and `best.ckpt`, selected by validation.

    Lightning's ModelCheckpoint saves a step before its validation, which a run killed meanwhile would skip.

    `last.ckpt` is written every few steps, after each validation, after an end signal and at the end of the
    run; its predecessor is kept as `previous.ckpt`. Files are written atomically.

    Args:
        folder: Folder of the checkpoints.
        every: Optimizer steps between two `last.ckpt`.
        monitor: Validation metric whose largest value selects `best.ckpt`, such as `val/J_tr`; None for the
            headline measure of the benchmark.
        mirror: Address of a folder, such as `s3://bucket/run`, to which the two files are also copied.

    Raises:
        ValueError: `every` is less than 1; or, after a validation, there is no metric of that name.
    """

    def __init__(
        self,
        folder: str | Path,
        every: int = 500,
        monitor: str | None = None,
        mirror: str | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"save_every={every}: must be at least 1")
        self.folder, self.every, self.monitor, self.mirror = Path(folder), every, monitor, mirror
        self.best: float | None = None
        self._saved_step = -1
        self._signals = EndSignals()
        # acted on before the next batch, when the metrics of this step have been logged
        self._end_signals: frozenset[int] = frozenset()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value of the metric so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value of the metric."""
        self.best = state_dict["best"]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adapt the checkpoint of a run whose `steps` has grown, and drop a score that is not comparable."""
        if checkpoint["global_step"] < trainer.max_steps:
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
        if checkpoint["callbacks"].get(self.state_key, {}).get("best") is None:
            return
        changed = changed_score_settings(checkpoint["config"], pl_module.config)  # type: ignore[arg-type]
        if changed or not (self.folder / "best.ckpt").exists():
            checkpoint["callbacks"][self.state_key]["best"] = None
            reason = f"{', '.join(changed)} changed" if changed else "this folder has none"
            log.info("best.ckpt is selected anew by the coming validations: %s", reason)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Install the checkpoint writer, and find the metric where none is configured."""
        if self.monitor is None:
            benchmark: Any = pl_module.benchmark
            self.monitor = f"val/{protocol_of(benchmark.protocol).headline_heading}"
        trainer.strategy.checkpoint_io = DirectCheckpointIO()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers, after Lightning has installed its own."""
        self._saved_step = trainer.global_step
        self._signals.listen()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Exit where a signal arrived during the last step."""
        if self._end_signals:
            exit_preempted(trainer, self._end_signals | self._signals.received)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a step that is due and is not followed by a validation."""
        batches, step = batch_idx + 1, trainer.global_step
        interval = trainer.val_check_batch if trainer.enable_validation else None
        if batches % trainer.accumulate_grad_batches or (interval is not None and batches % interval == 0):
            return  # within an optimizer step; or saved after the validation
        if interval is not None and step == trainer.max_steps:
            return  # the last step is followed by a validation
        self._end_signals = self._signals.gather(trainer)
        if self._end_signals or step % self.every == 0 or step == trainer.max_steps:
            self._save(trainer, "last")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after a validation."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self._is_best(trainer):
            self._save(trainer, "best")
        self._save(trainer, "last")
        self._end_signals = self._signals.gather(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save a run that was stopped before its last step, and exit where a signal arrived."""
        if trainer.global_step != self._saved_step:
            self._save(trainer, "last")
        if self._end_signals:
            exit_preempted(trainer, self._end_signals | self._signals.received)

    def _is_best(self, trainer: L.Trainer) -> bool:
        """Return whether this validation beats all earlier ones, by the scores of the first process."""
        metrics = trainer.callback_metrics
        assert self.monitor is not None
        if trainer.is_global_zero and self.monitor not in metrics:
            raise ValueError(f"monitor={self.monitor}: must be one of {', '.join(sorted(metrics))}")
        is_best, value = False, self.best
        if trainer.is_global_zero:
            value = float(metrics[self.monitor])
            is_best = self.best is None or value > self.best
        is_best, value = trainer.strategy.broadcast((is_best, value))
        if is_best:
            self.best = value
        return is_best

    def _save(self, trainer: L.Trainer, name: str) -> None:
        """Write a checkpoint in the first process; all processes must call this together.

        Raises:
            OSError: The file cannot be written, as on a full disk; the earlier checkpoints are unchanged.
        """
        part, path = self.folder / f"{name}.part", self.folder / f"{name}.ckpt"
        try:
            trainer.save_checkpoint(part)
            if trainer.is_global_zero:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                if name == "last" and path.exists():
                    path.replace(self.folder / "previous.ckpt")
                part.replace(path)
                if self.mirror is not None:
                    copy_to_address(path, f"{self.mirror.rstrip('/')}/{name}.ckpt")
        except OSError as error:
            part.unlink(missing_ok=True)
            free = shutil.disk_usage(self.folder).free / 2**20
            raise OSError(
                f"{path} of step {trainer.global_step} cannot be written ({error}); {free:.0f} MiB are free "
                f"there; free some space, and resume=auto continues from step {max(self._saved_step, 0)}"
            ) from error
        trainer.strategy.barrier()
        if name == "last":
            self._saved_step = trainer.global_step


def copy_to_address(path: Path, address: str) -> None:
    """Copy a file to an address of fsspec; a failure is a warning, since the file itself is there."""
    try:
        files, target = fsspec.core.url_to_fs(address)
        files.makedirs(target.rpartition("/")[0], exist_ok=True)
        files.put_file(str(path), target)
    except (OSError, ValueError, ImportError) as error:
        log.warning("%s could not be copied to %s: %s", path, address, error)
