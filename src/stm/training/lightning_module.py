"""The Lightning module: training with dynamic memory (section 3.5), validation on whole videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stm.evaluation.evaluate import Benchmark, validate
from stm.evaluation.scores import Scores, SequenceScores, frames_that_count
from stm.inference import Segmenter
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.training.distributed import all_gather_object
from stm.training.loss import SegmentationLoss
from stm.video import ClipBatch, Video

EVERY_FRAME = MemoryPolicy(first=True, previous=True, every=1)


class STMModule(L.LightningModule):
    """Trains a network on clips.

    Args:
        network: the network.
        loss: of one predicted frame.
        optimizer: parameters -> optimizer.
        scheduler: optimizer -> schedule of the rate, stepped after each optimizer step; None: it stays fixed.
        benchmark: whole videos to validate on; None for no validation.
        policy: which frames are remembered in validation.
        config: the resolved configuration as plain values, carried by every checkpoint.
    """

    def __init__(
        self,
        network: STM,
        loss: SegmentationLoss,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        benchmark: Benchmark | None = None,
        policy: MemoryPolicy | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.build_optimizer, self.build_scheduler = optimizer, scheduler
        self.benchmark, self.policy = benchmark, policy
        self.config = config or {}
        self.scores: Scores | None = None
        """Of the last validation."""
        self._validated: list[SequenceScores] = []
        self._trained_on: ClipBatch | None = None

    def on_fit_start(self) -> None:
        """Refuse a benchmark without truth now, and not at the first validation."""
        benchmark = self.benchmark
        if benchmark is None or not self.trainer.limit_val_batches:
            return
        if not any(frames_that_count(video, benchmark.protocol) for video in benchmark.videos):
            raise ValueError(f"benchmark {benchmark.name} has no truth to validate on: choose another")

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Segment clips frame by frame; each prediction, unthresholded, becomes memory for the next frame."""
        segmenter = Segmenter(self.network, EVERY_FRAME)
        segmenter.step(batch.frames[:, 0], batch.object_masks(0))
        losses = []
        for t in range(1, batch.frames.shape[1]):
            segmenter.step(batch.frames[:, t])
            assert segmenter.logits is not None
            losses.append(self.loss(segmenter.logits, batch.masks[:, t], self.global_step))
        loss = torch.stack(losses).sum()
        self._trained_on = batch
        if not loss.isfinite():
            raise ValueError(self._diverged(f"train/loss is {loss.item()}", segmenter.logits))
        told = loss.detach() / len(losses)
        self.log("train/loss", told, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient's norm before it is clipped; one that is not finite must not reach the weights.

        Raises:
            ValueError: it is not finite, with the clips that gave it.
        """
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        scaled = (
            getattr(self.trainer.precision_plugin, "scaler", None) is not None
        )  # it skips such steps itself
        if not scaled and not norm.isfinite():
            raise ValueError(self._diverged(f"the gradient's norm is {norm.item()}"))
        self.log("train/gradient_norm", norm)

    def _diverged(self, what: str, logits: Tensor | None = None) -> str:
        """Which clips of this process made a number that is not finite, and how is that looked at again?"""
        batch = self._trained_on
        assert batch is not None
        alone = [b for b in range(len(batch)) if logits is not None and logits[b].isnan().any()]
        clips = [f"{int(batch.indices[b])} ({batch.sources[b]})" for b in alone or range(len(batch))]
        return (
            f"{what} in step {self.global_step + 1}, with clip {', '.join(clips)}; clips depend on "
            "seed and number alone: resume=auto trainer.detect_anomaly=true comes to them again"
        )

    def validation_step(self, video: Video, batch_idx: int) -> None:
        """Segment a whole video from its given masks and score it, as evaluation does."""
        assert self.benchmark is not None
        scores = validate(self.network, self.policy, replace(self.benchmark, videos=[video]))
        self._validated.extend(scores.sequences)

    def on_validation_epoch_end(self) -> None:
        """Log J, F and J&F over the objects of all videos; `scores` keeps each video's."""
        assert self.benchmark is not None
        self.scores = scores = Scores({}, tuple(self._gathered()), self.benchmark.seen)
        self._validated.clear()
        if not scores.overall:
            raise ValueError(f"benchmark {self.benchmark.name}: no validated video has any truth")
        for name in ("J&F", "J", "F"):
            self.log(
                f"val/{name}", scores.overall[f"{name}-Mean"], prog_bar=name == "J&F", rank_zero_only=True
            )
        self.log("val/frames_per_second", scores.frames_per_second, rank_zero_only=True)
        self.log("val/peak_memory_mb", scores.peak_mb, rank_zero_only=True)

    def _gathered(self) -> list[SequenceScores]:
        """The sequences that all ranks scored, each once, by name."""
        ranks = all_gather_object(self._validated)
        return sorted({s.name: s for rank in ranks for s in rank}.values(), key=lambda s: s.name)

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer(p for p in self.parameters() if p.requires_grad)
        if self.build_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.build_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
