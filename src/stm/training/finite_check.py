"""Checks that values are finite, without making the host wait for the device in a training step."""

from __future__ import annotations

from torch import Tensor

from stm.evaluation.device_timestamp import DeviceTimestamp
from stm.video import ClipBatch


class FiniteCheck:
    """A value of a training step that must be finite.

    Args:
        name: Such as `train/loss`.
        value: One number, on any device.
        step: The optimizer step, from 1.
        batch: The step's clips.
        logits: (B, O + 1, H, W); clips whose logits are NaN are named alone.
    """

    def __init__(
        self, name: str, value: Tensor, step: int, batch: ClipBatch, logits: Tensor | None = None
    ) -> None:
        self._name, self._step = name, step
        self._clips = [
            f"{k} ({source})" for k, source in zip(batch.indices.tolist(), batch.sources, strict=True)
        ]
        self._value = value.detach().to("cpu", non_blocking=True)
        self._is_nan = None
        if logits is not None:
            self._is_nan = logits.detach().isnan().flatten(1).any(1).to("cpu", non_blocking=True)
        self._copied = DeviceTimestamp(value.device) if value.is_cuda else None

    def require(self) -> None:
        """Wait for the value.

        Raises:
            ValueError: It is not finite; the message names the clips.
        """
        if self._copied is not None:
            self._copied.wait()
        if self._value.isfinite():
            return
        flags = [False] * len(self._clips) if self._is_nan is None else self._is_nan.tolist()
        clips = [clip for clip, is_nan in zip(self._clips, flags, strict=True) if is_nan] or self._clips
        raise ValueError(
            f"{self._name} is {self._value.item()} in step {self._step}, with clip {', '.join(clips)}; clips "
            "depend only on seed and index, so resume=auto trainer.detect_anomaly=true reproduces the step"
        )
