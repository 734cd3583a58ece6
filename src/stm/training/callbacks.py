"""Lightning callbacks: pictures and tables for those loggers that take them (W&B does)."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from stm.clip import ClipBatch
from stm.evaluation.scores import Scores
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.segmenter import Segmenter
from stm.viz import overlay


class ClipPictures(L.Callback):
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
        pictures = clip_pictures(pl_module.network, batch, shown)  # type: ignore[arg-type]
        for logger in loggers:
            logger.log_image("train/clips", pictures, step=step, caption=list(batch.sources[:shown]))


class SequenceTable(L.Callback):
    """After each validation, log a table with a row an object."""

    # not at the epoch's end, where callbacks come before the module, which makes the scores there
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scores = pl_module.scores
        if not trainer.is_global_zero or not isinstance(scores, Scores) or not scores.objects:
            return
        rows = [row.row() for row in scores.objects]
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                columns, step = list(rows[0]), trainer.global_step
                values = [[row[column] for column in columns] for row in rows]
                logger.log_table("val/sequences", columns, values, step=step)


@torch.no_grad()
def clip_pictures(network: STM, batch: ClipBatch, clips: int) -> list[np.ndarray]:
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
