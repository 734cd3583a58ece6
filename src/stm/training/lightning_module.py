"""The Lightning module: training with dynamic memory (section 3.5), validation on whole videos."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from stm.evaluation.evaluate import Benchmark, validate
from stm.evaluation.scores import Scores, SequenceScores
from stm.evaluation.sharding import all_gather_object
from stm.evaluation.tally import scored_frames
from stm.inference import Segmenter
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.training.finite_check import FiniteCheck
from stm.training.loss import SegmentationLoss
from stm.training.parameter_groups import freeze_stages, parameter_groups
from stm.video import ClipBatch, Video

EVERY_FRAME = MemoryPolicy(first=True, previous=True, every=1, deep_update_every=5)
"""Memorizes every frame. A sensory memory is updated by values and by the decoder, so that both learn."""

log = logging.getLogger(__name__)


class STMModule(L.LightningModule):
    """Trains a network on clips.

    Args:
        network: The network.
        loss: Loss of one predicted frame.
        optimizer: Parameters -> optimizer.
        scheduler: Optimizer -> learning rate schedule by optimizer steps; None for a fixed rate.
        benchmark: Whole videos to validate on; None for no validation.
        policy: Memory policy of validation.
        config: The resolved configuration as plain values, stored in every checkpoint.
        trunk_lr: Learning rate of the trunks, relative to the others'; 0 freezes them.
        frozen_stages: Stages of the trunks that are frozen; see `freeze_stages`.
        decay_norms: Apply weight decay to biases and norms, too.
        mask_disturbance: Probabilities of a frame, indices of the clips and frame -> what is memorized; None
            for the probabilities themselves, as in the paper.
    """

    def __init__(
        self,
        network: STM,
        loss: SegmentationLoss,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        benchmark: Benchmark | None = None,
        policy: MemoryPolicy | None = None,
        config: dict[str, Any] | None = None,
        trunk_lr: float = 1.0,
        frozen_stages: int = 0,
        decay_norms: bool = False,
        mask_disturbance: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.build_optimizer, self.build_scheduler = optimizer, scheduler
        self.benchmark, self.policy = benchmark, policy
        self.config = config or {}
        self.trunk_lr, self.decay_norms = trunk_lr, decay_norms
        self.mask_disturbance = mask_disturbance
        freeze_stages(network, frozen_stages if trunk_lr else 3)
        self.scores: Scores | None = None
        """Scores of the last validation."""
        self._validated: list[SequenceScores] = []
        self._batch: ClipBatch | None = None
        self._checks: list[FiniteCheck] = []

    def on_fit_start(self) -> None:
        """Log the size of the network, and reject a benchmark without ground truth before training starts.

        Raises:
            ValueError: No video of the benchmark has ground truth.
        """
        sizes = [(p.numel(), p.requires_grad) for p in self.parameters()]
        total, trainable = sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
        log.info("network: %.2f M parameters, %.2f M of them trainable", total / 1e6, trainable / 1e6)
        benchmark = self.benchmark
        if benchmark is None or not self.trainer.limit_val_batches:
            return
        if not any(scored_frames(video, benchmark.protocol) for video in benchmark.videos):
            raise ValueError(
                f"benchmark={benchmark.name}: must have ground truth to validate on; it has none"
            )

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Segment clips frame by frame; each soft prediction becomes memory for the next frame."""
        segmenter = Segmenter(self.network, EVERY_FRAME)
        segmenter.step(batch.frames[:, 0], batch.object_masks(0))
        losses = []
        for t in range(1, batch.frames.shape[1]):
            segmenter.step(batch.frames[:, t])
            assert segmenter.logits is not None
            losses.append(self.loss(segmenter.logits, batch.masks[:, t], self.global_step))
            if self.mask_disturbance is not None:
                segmenter.disturb(partial(self.mask_disturbance, indices=batch.indices.tolist(), t=t))
        loss = torch.stack(losses).sum()
        self._batch = batch
        self._require_finite("train/loss", loss, segmenter.logits)
        frame_loss = loss.detach() / len(losses)
        self.log("train/loss", frame_loss, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        """Check the values of the step before, which a GPU has computed by now.

        Raises:
            ValueError: One of them is not finite; the message names the clips.
        """
        self._check_values()

    def on_train_batch_end(self, outputs: Any, batch: ClipBatch, batch_idx: int) -> None:
        """Validate after the last step, whatever the interval between validations."""
        if self.global_step == self.trainer.max_steps:
            self.trainer.should_stop = True  # Lightning validates before it stops

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient norm before clipping; it must be finite."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # with 16-bit precision, the gradient scaler skips steps that are not finite
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            self._require_finite("the gradient norm", norm)
        self.log("train/gradient_norm", norm)

    def _require_finite(self, name: str, value: Tensor, logits: Tensor | None = None) -> None:
        """Check a value: on a CPU at once, on a GPU before the next step or checkpoint."""
        assert self._batch is not None
        self._checks.append(FiniteCheck(name, value, self.global_step + 1, self._batch, logits))
        if not value.is_cuda:
            self._check_values()

    def _check_values(self) -> None:
        checks, self._checks = self._checks, []
        for check in checks:
            check.require()

    def validation_step(self, video: Video, batch_idx: int) -> dict[str, float]:
        """Segment a whole video from its given masks and score it, as evaluation does.

        Returns:
            Heading -> measure of the video, such as `J&F` in 0..1; empty without ground truth.
        """
        assert self.benchmark is not None
        scores = validate(self.network, self.policy, replace(self.benchmark, videos=[video]))
        self._validated.extend(scores.sequences)
        return scores.columns

    def on_validation_epoch_end(self) -> None:
        """Log the benchmark's measures over the objects of all videos, and keep the scores.

        Raises:
            ValueError: No validated video has ground truth.
        """
        assert self.benchmark is not None
        gathered = [sequence for sequences in all_gather_object(self._validated) for sequence in sequences]
        by_name = {sequence.name: sequence for sequence in gathered}
        sequences = tuple(by_name[name] for name in sorted(by_name))
        self.scores = scores = Scores({}, sequences, self.benchmark.seen)
        self._validated.clear()
        if not scores.overall:
            raise ValueError(f"benchmark={self.benchmark.name}: no validated video has ground truth")
        for name, value in scores.columns.items():
            is_headline = name == scores.protocol.headline_heading
            self.log(f"val/{name}", value, prog_bar=is_headline, rank_zero_only=True)
        self.log("val/frames_per_second", scores.frames_per_second, rank_zero_only=True)
        self.log("val/peak_memory_mb", scores.peak_mb, rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        """Build the optimizer of the trainable parameters, and the schedule.

        Raises:
            ValueError: The schedule does not depend on the step alone, or ends before the run.
        """
        defaults = _build("optimizer", self.build_optimizer, self.network.parameters()).defaults
        groups = parameter_groups(self.network, defaults, self.trunk_lr, self.decay_norms)
        optimizer = _build("optimizer", self.build_optimizer, groups)
        if self.build_scheduler is None:
            return optimizer
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler = _build("scheduler", self.build_scheduler, optimizer)
        if self.trunk_lr != 1 and rates != [group.get("initial_lr") for group in optimizer.param_groups]:
            raise ValueError(
                f"trunk_lr={self.trunk_lr}: must be 1 for this schedule, which sets one rate for all layers; "
                "scheduler=warmup_linear, step, cosine and constant keep the ratio of the rates"
            )
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(
                "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau: must be a schedule by steps"
            )
        total, steps = getattr(scheduler, "total_steps", None), self.config.get("steps", 0)
        if total is not None and total < steps:
            raise ValueError(f"scheduler.total_steps={total}: must be at least steps={steps}")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replace the checkpoint's schedule with the configured one at the checkpoint's step.

        The run continues with the rates that it would have had with the configured schedule from its start,
        whatever schedule or number of steps it had before.
        """
        configured = self.configure_optimizers()
        optimizer, schedulers = configured, []
        if isinstance(configured, dict):
            optimizer, schedulers = configured["optimizer"], [configured["lr_scheduler"]["scheduler"]]
        optimizer.step()  # changes nothing without gradients; schedulers warn where it has not been called
        for scheduler in schedulers:
            for _ in range(checkpoint["global_step"]):
                scheduler.step()
        checkpoint["lr_schedulers"] = [scheduler.state_dict() for scheduler in schedulers]
        checkpoint["optimizer_states"][0]["param_groups"] = optimizer.state_dict()["param_groups"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the configuration in the checkpoint.

        Raises:
            ValueError: A value of the last step is not finite, so that the weights are lost.
        """
        self._check_values()
        checkpoint["config"] = self.config


def _build(key: str, build: Callable[..., Any], argument: Any) -> Any:
    """Build the optimizer or scheduler; torch's errors for a wrong value become the user's."""
    try:
        return build(argument)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {error}") from error
