"""Lightning callbacks: progress, an average of the weights, and images and tables for the loggers."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ProgressBar, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor

from stm.evaluation.scores import Scores
from stm.inference import Segmenter
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import ClipBatch, Video
from stm.visualization import overlay

log = logging.getLogger(__name__)


def build_progress(seconds: float = 60.0) -> ProgressBar:
    """Return a progress bar where the output is a terminal, else a callback that logs lines.

    Args:
        seconds: Time between two lines.
    """
    return RichProgressBar(refresh_rate=10) if sys.stdout.isatty() else ProgressLog(seconds)


class ProgressLog(ProgressBar):
    """Logs the progress of training and validation as lines, for output that is not a terminal.

    It logs after the first and the last step, after each validation, and whenever `seconds` have passed.

    Args:
        seconds: Time between two lines.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.is_enabled = True
        self._last_line = 0.0

    def disable(self) -> None:
        """Log nothing; Lightning calls this in all processes but the first."""
        self.is_enabled = False

    def enable(self) -> None:
        """Log again."""
        self.is_enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the clock of the remaining time, which begins after the first step of this process."""
        self._first_step: int | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: ClipBatch, batch_idx: int
    ) -> None:
        """Remember the learning rate of the step, which its end changes; that of the trunks may be lower."""
        self._learning_rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        """Log step, loss, learning rate, speed, memory and remaining time."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step, total, now = trainer.global_step, trainer.max_steps, time.monotonic()
        if self._first_step is None:
            self._first_step, self._start = step, now
        elif step < total and not self._is_due():
            return
        metrics = trainer.callback_metrics
        parts = [f"step {step}/{total}", f"loss {metrics['train/loss']:.4f}"]
        parts.append(f"learning rate {self._learning_rate:.2e}")
        if "train/clips_per_second" in metrics:
            parts.append(f"{metrics['train/clips_per_second']:.1f} clips/s")
            parts.append(f"{metrics['train/peak_memory_mb']:.0f} MB")
        if step > self._first_step:
            left = (now - self._start) / (step - self._first_step) * (total - step)
            parts.append(f"{timedelta(seconds=round(left))} left")
        self._write(", ".join(parts))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the validation."""
        self._validation_start = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Video,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the number of validated videos and the last one's score."""
        done, total = batch_idx + 1, int(trainer.num_val_batches[dataloader_idx])
        if done == total or not self._is_due():
            return
        left = (time.monotonic() - self._validation_start) / done * (total - done)
        score = "".join(
            f"{name} {outputs[name]:.3f}, " for name in ("J&F", "J_tr", "J&Fdot") if name in outputs
        )
        place = f"validation at step {trainer.global_step}: video {done}/{total}"
        self._write(f"{place}, {batch.name}: {score}{timedelta(seconds=round(left))} left")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the scores over all videos."""
        if not isinstance(pl_module.scores, Scores):
            return
        values, headline = pl_module.scores.columns, pl_module.scores.protocol.headline_heading
        names = sorted((name for name in values if name[-2:] not in ("_d", "_r")), key=headline.__ne__)
        scores = ", ".join(f"{name} {values[name]:.3f}" for name in names)
        videos, seconds = len(pl_module.scores.sequences), round(time.monotonic() - self._validation_start)
        place = f"validation at step {trainer.global_step}"
        self._write(f"{place}: {scores} on {videos} videos in {timedelta(seconds=seconds)}")

    def _is_due(self) -> bool:
        return time.monotonic() - self._last_line >= self.seconds

    def _write(self, line: str) -> None:
        self._last_line = time.monotonic()
        if self.is_enabled:
            log.info(line)


class ExponentialMovingAverage(EMAWeightAveraging):
    """Lightning's average of the weights: validated, stored as a checkpoint's weights, and resumed.

    Lightning's replaces the weights with their average before the last checkpoint of a run that stops early,
    from which the run could not be resumed exactly; this one does not.

    Args:
        decay: Weight of the earlier average in each step.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"callbacks.average.decay={decay}: must be between 0 and 1, such as 0.999")
        super().__init__(decay=decay)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the weights; the checkpoints hold their average."""


class LogClipImages(L.Callback):
    """Logs images of training clips at intervals, ground truth above prediction.

    Args:
        every: Optimizer steps between two images.
        clips: Number of clips of the batch.

    Raises:
        ValueError: One of them is below 1.
    """

    def __init__(self, every: int = 1000, clips: int = 2) -> None:
        for name, value in {"every": every, "clips": clips}.items():
            if value < 1:
                raise ValueError(f"callbacks.images.{name}={value}: must be at least 1")
        self.every, self.clips = every, clips

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        """Log images where a step is due and a logger accepts them (W&B's and TensorBoard's do)."""
        step = trainer.global_step
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not trainer.is_global_zero or not is_step or step % self.every:
            return
        loggers = [
            logger
            for logger in trainer.loggers
            if hasattr(logger, "log_image") or isinstance(logger, TensorBoardLogger)
        ]
        if not loggers:
            return
        count = min(self.clips, len(batch))
        images = render_clips(pl_module.network, batch, count)  # type: ignore[arg-type]
        for logger in loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("train/clips", images, step=step, caption=list(batch.sources[:count]))
                continue
            for k, image in enumerate(images):
                logger.experiment.add_image(f"train/clips/{k}", image, step, dataformats="HWC")  # type: ignore[attr-defined]


class LogSequenceTable(L.Callback):
    """Logs a table with a row per object after each validation."""

    # not in on_validation_epoch_end, which callbacks run before the module computes its scores there
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the table of the module's scores."""
        if trainer.is_global_zero and isinstance(pl_module.scores, Scores):
            log_sequences(trainer.loggers, "val/sequences", pl_module.scores, trainer.global_step)


def log_sequences(loggers: Iterable[Logger], name: str, scores: Scores, step: int | None = None) -> None:
    """Log a table with a row per object to the loggers that accept tables; nothing without ground truth."""
    rows: list[Mapping[str, Any]] = [row.row() for row in scores.objects]
    heads = list(dict.fromkeys(head for row in rows for head in row))
    for logger in loggers if rows else ():
        if hasattr(logger, "log_table"):
            logger.log_table(name, heads, [[row.get(head) for head in heads] for row in rows], step=step)


@torch.no_grad()
def render_clips(network: STM, batch: ClipBatch, clips: int) -> list[np.ndarray]:
    """Return each clip's frames side by side, uint8 (2 H, T W, 3): ground truth above, prediction below."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()  # batch normalization is folded into convolutions in this mode alone
    try:
        segmenter = Segmenter(network, MemoryPolicy(every=1))
        predicted: list[Tensor] = [segmenter.step(batch.frames[:, 0], batch.object_masks(0))]
        predicted += [segmenter.step(batch.frames[:, t]) for t in range(1, batch.frames.shape[1])]
    finally:
        for module, is_training in modes:
            module.training = is_training
    labels = torch.stack(predicted, dim=1).argmax(2).byte().cpu().numpy()  # (B, T, H, W)
    truth = batch.masks.cpu().numpy()
    frames = batch.frames.permute(0, 1, 3, 4, 2).cpu().numpy()
    return [
        np.concatenate(
            [
                np.concatenate([overlay(f, m) for f, m in zip(frames[b], masks[b], strict=True)], axis=1)
                for masks in (truth, labels)
            ]
        )
        for b in range(clips)
    ]
