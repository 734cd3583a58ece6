"""Lightning callbacks: how fast it goes; pictures and tables for loggers that take them (W&B does)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from stm.evaluation.peak_memory import PeakMemory
from stm.evaluation.scores import Scores
from stm.inference import Segmenter
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import ClipBatch
from stm.visualization import overlay


class LogClipImages(L.Callback):
    """Now and then, log what the network makes of the training batch, truth above prediction.

    Args:
        every: optimizer steps between two pictures.
        clips: how many clips of the batch.
    """

    def __init__(self, every: int = 1000, clips: int = 2) -> None:
        self.every, self.clips = every, clips

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not trainer.is_global_zero or not stepped or step % self.every:
            return
        loggers = [logger for logger in trainer.loggers if hasattr(logger, "log_image")]
        if not loggers:
            return
        shown = min(self.clips, len(batch))
        pictures = render_clips(pl_module.network, batch, shown)  # type: ignore[arg-type]
        for logger in loggers:
            logger.log_image("train/clips", pictures, step=step, caption=list(batch.sources[:shown]))


class LogSequenceTable(L.Callback):
    """After each validation, log a table with a row an object."""

    # not at the epoch's end, where callbacks come before the module, which makes the scores there
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module.scores, Scores):
            log_sequences(trainer.loggers, "val/sequences", pl_module.scores, trainer.global_step)


def log_sequences(loggers: Iterable[Logger], name: str, scores: Scores, step: int | None = None) -> None:
    """Log a table with a row an object to the loggers that take tables; nothing where there is no truth."""
    rows = [row.row() for row in scores.objects]
    for logger in loggers if rows else ():
        if hasattr(logger, "log_table"):
            logger.log_table(name, list(rows[0]), [list(row.values()) for row in rows], step=step)


class Throughput(L.Callback):
    """How fast does training go? Log clips and frames a second over all processes, and the peak of memory.

    It counts from one line of the log to the next and leaves validations out. It asks nothing of the GPU
    that would wait for it. (Lightning's ThroughputMonitor synchronizes at every step.)
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._clips = self._frames = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = None  # at the first step's end: what comes before happens once

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        if self._began is None:
            return self._begin(pl_module)
        self._clips += len(batch) * trainer.world_size
        self._frames += len(batch) * batch.frames.shape[1] * trainer.world_size
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not stepped or trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return None
        seconds = time.perf_counter() - self._began
        told = {
            "clips_per_second": self._clips / seconds,
            "frames_per_second": self._frames / seconds,
            "peak_memory_mb": self._peak.bytes() / 2**20,
        }
        pl_module.log_dict({f"train/{key}": value for key, value in told.items()}, rank_zero_only=True)
        return self._begin(pl_module)

    def _begin(self, pl_module: L.LightningModule) -> None:
        self._began, self._clips, self._frames = time.perf_counter(), 0, 0
        self._peak = PeakMemory(pl_module.device)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._began is not None:
            self._began += time.perf_counter() - self._paused


@torch.no_grad()
def render_clips(network: STM, batch: ClipBatch, clips: int) -> list[np.ndarray]:
    """Each clip's frames side by side, uint8 (2 H, T W, 3): truth above, prediction below."""
    segmenter = Segmenter(network, MemoryPolicy(every=1))
    predicted: list[Tensor] = [segmenter.step(batch.frames[:, 0], batch.object_masks(0))]
    predicted += [segmenter.step(batch.frames[:, t]) for t in range(1, batch.frames.shape[1])]
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
