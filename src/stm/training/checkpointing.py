"""Which checkpoints does a run keep, and when are they written?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from stm.training.preemption import EndSignals, exit_preempted


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to its place; Lightning's own goes through memory and the temporary folder."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write it.

        Raises:
            OSError: it cannot be written.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(checkpoint, path)
        except RuntimeError as error:  # torch's writer tells of a full disk by it
            raise OSError(str(error)) from error


class SaveLastAndBest(Checkpoint):
    """Keep `last.ckpt`, from which an interrupted run goes on, and `best.ckpt`, picked by validation.

    `last.ckpt` is written every so many steps, after each validation, when the run is told to end, and at
    its end; the one before it stays as `previous.ckpt`. A step that is validated is saved after its
    validation, so that a run killed meanwhile comes to that validation again. A file is written beside its
    name and then renamed: whatever kills the run, the name holds a whole checkpoint.

    Args:
        folder: where they are written.
        every: optimizer steps between two `last.ckpt`.
        monitor: the metric of validation whose largest value picks `best.ckpt`.

    Raises:
        ValueError: `every` is less than 1; later, validation gives no metric of that name.
    """

    def __init__(self, folder: str | Path, every: int = 500, monitor: str = "val/J&F") -> None:
        if every < 1:
            raise ValueError(f"save_every={every}: must be at least 1")
        self.folder, self.every, self.monitor = Path(folder), every, monitor
        self.best: float | None = None
        self._saved = -1
        self._signals = EndSignals()
        # the signals that end the run before its next batch, when this step's numbers are logged
        self._end: frozenset[int] = frozenset()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Where `steps` has grown, the run's last batch is its last no more, and its schedule is longer."""
        if checkpoint["global_step"] < trainer.max_steps:
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
        for schedule in checkpoint["lr_schedulers"]:
            for name in ("total_steps", "_schedule_phases"):  # OneCycleLR's, made anew from `steps`
                schedule.pop(name, None)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = DirectCheckpointIO()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = trainer.global_step
        self._signals.listen()  # Lightning has set its own answers by now

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._end:
            exit_preempted(trainer, self._end | self._signals.received)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done, step = batch_idx + 1, trainer.global_step
        interval = trainer.val_check_batch if trainer.enable_validation else None
        if done % trainer.accumulate_grad_batches or (interval is not None and done % interval == 0):
            return  # within a step; or after the validation
        self._end = self._signals.agreed(trainer)
        if self._end or step % self.every == 0 or step == trainer.max_steps:
            self._save(trainer, "last")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self._is_best(trainer):
            self._save(trainer, "best")
        self._save(trainer, "last")
        self._end = self._signals.agreed(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step != self._saved:  # it was stopped before its last step
            self._save(trainer, "last")
        if self._end:
            exit_preempted(trainer, self._end | self._signals.received)

    def _is_best(self, trainer: L.Trainer) -> bool:
        """Whether this validation beats the earlier ones; told by the first process, which has the scores."""
        metrics = trainer.callback_metrics
        if trainer.is_global_zero and self.monitor not in metrics:
            raise ValueError(f"monitor={self.monitor}: validation gives {', '.join(sorted(metrics))}")
        value = float(metrics[self.monitor]) if trainer.is_global_zero else None
        value = trainer.strategy.broadcast(value)
        assert value is not None
        better = self.best is None or value > self.best
        if better:
            self.best = value
        return better

    def _save(self, trainer: L.Trainer, name: str) -> None:
        """Write a checkpoint; all processes come here together, the first one writes.

        Raises:
            OSError: it cannot be written, as on a full disk; the earlier ones are as they were.
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
        except OSError as error:
            part.unlink(missing_ok=True)
            free = shutil.disk_usage(self.folder).free / 2**20
            raise OSError(
                f"{path} of step {trainer.global_step} cannot be written ({error}); {free:.0f} MiB are free "
                f"there; make room, and resume=auto goes on from step {max(self._saved, 0)}"
            ) from error
        trainer.strategy.barrier()
        if name == "last":
            self._saved = trainer.global_step
