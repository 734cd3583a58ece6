"""Throughput of a training: clips, frames and operations per second, and the peak of memory."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch._subclasses.fake_tensor import FakeTensorMode  # torch has no public name for it yet
from torch.utils.flop_counter import FlopCounterMode

from stm.evaluation.peak_memory import PeakMemory
from stm.inference import Segmenter
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import ClipBatch


class Throughput(L.Callback):
    """Logs clips, frames and floating-point operations per second over all processes, and the peak of memory.

    It measures from one log step to the next, without validations. The operations of a step are those of its
    first batch; `train/mfu` is their rate relative to the peak of a device that Lightning knows.
    Lightning's ThroughputMonitor synchronizes with the GPU at every step; this never does.
    """

    def __init__(self) -> None:
        self._start: float | None = None
        self._clips = self._frames = self._batches = 0
        self._flops: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exclude the first step, which includes one-time work, from the first measurement."""
        self._start = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        """Count the batch, and log at each log step."""
        if self._start is None:
            network = getattr(pl_module, "network", None)
            is_compiled = any(module._compiled_call_impl is not None for module in pl_module.modules())
            if isinstance(network, STM) and not is_compiled:
                self._flops = count_flops(network, batch)
            return self._restart(pl_module)
        self._batches += 1
        self._clips += len(batch) * trainer.world_size
        self._frames += len(batch) * batch.frames.shape[1] * trainer.world_size
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not is_step or every == 0 or trainer.global_step % every:
            return None
        seconds = time.perf_counter() - self._start
        metrics = {
            "train/clips_per_second": self._clips / seconds,
            "train/frames_per_second": self._frames / seconds,
            "train/peak_memory_mb": self._peak.bytes() / 2**20,
        }
        if self._flops:
            per_second = self._flops * self._batches / seconds  # of each process
            metrics["train/tflops_per_second"] = per_second * trainer.world_size / 1e12
            dtype = torch.get_autocast_dtype("cuda") if "16" in trainer.precision else torch.float32
            if pl_module.device.type == "cuda" and (peak := get_available_flops(pl_module.device, dtype)):
                metrics["train/mfu"] = per_second / peak
        pl_module.log_dict(metrics, rank_zero_only=True)
        return self._restart(pl_module)

    def _restart(self, pl_module: L.LightningModule) -> None:
        self._start, self._clips, self._frames, self._batches = time.perf_counter(), 0, 0, 0
        self._peak = PeakMemory(pl_module.device)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pause the clock."""
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Resume the clock."""
        if self._start is not None:
            self._start += time.perf_counter() - self._pause


def count_flops(network: STM, batch: ClipBatch) -> int | None:
    """Count the floating-point operations of a training step, forward and backward, without computing it.

    Only shapes are traced, since counting changes the rounding of a real step. The backward pass counts as
    two forward passes. None for a network that reads values from a device.
    """
    segmenter = Segmenter(network, MemoryPolicy(every=1))
    masks = batch.object_masks(0)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
            for t in range(batch.frames.shape[1]):
                segmenter.step(batch.frames[:, t], masks if t == 0 else None)
    except RuntimeError:
        return None
    return 3 * counter.get_total_flops()
