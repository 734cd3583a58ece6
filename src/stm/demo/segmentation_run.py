"""Segmentation of a video with one policy that can return to any frame."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from stm.inference import Attention, Segmenter
from stm.inference.attention import At
from stm.masks import object_ids
from stm.memory import MemoryPolicy
from stm.network import STM

NUM_SAVED_STATES, MIN_STATE_INTERVAL = 12, 5
"""A run saves its state about so many times, and at most once per so many frames."""
MAX_SAVED_BYTES = 2**30
"""Bytes of the saved states of a run; beyond them, returning to a frame takes longer."""


@dataclass(frozen=True)
class Correction:
    """A mask of some objects in a frame, and the objects that the frame does not show."""

    mask: np.ndarray
    absent: frozenset[int] = frozenset()


@dataclass
class FrameRecord:
    """Values of a segmented frame.

    Attributes:
        scores: Object -> confidence in its mask.
        shares: Object -> memory frame -> its share of the memory read over the object's mask, or over the
            whole frame if the object was not found.
    """

    scores: dict[int, float]
    shares: dict[int, dict[int, float]] = field(default_factory=dict)


class SegmentationRun:
    """Segments a video frame by frame, and can return to any segmented frame.

    Args:
        network: Network in eval mode, which runs may share.
        policy: Memory policy.
        frames: uint8 (T, H, W, 3).
        first_mask: Mask of the first frame, uint8 (H, W).
        folder: Folder of the run for its masks and states.

    Attributes:
        masks: Predicted masks, uint8 (T, H, W), memory-mapped from disk.
        records: Record of each segmented frame.
        corrections: Frame -> correction; the first mask counts as one.
        max_memory_bytes: Largest size of the memory so far.
        seconds: Time spent on segmentation.
    """

    def __init__(
        self, network: STM, policy: MemoryPolicy, frames: np.ndarray, first_mask: np.ndarray, folder: Path
    ) -> None:
        self.network, self.policy, self.frames, self.folder = network, policy, frames, folder
        path = folder / "masks.npy"
        # Allocated now: a full disk raises an error here, but would kill the process in a mapping.
        np.save(path, np.zeros(frames.shape[:3], np.uint8))
        self.masks = np.load(path, mmap_mode="r+")
        self.records: list[FrameRecord] = []
        self.corrections: dict[int, Correction] = {0: Correction(first_mask)}
        self.max_memory_bytes, self.seconds = 0, 0.0
        self._saved_states: list[int] = []
        self._segmenter = Segmenter(network, policy, length=len(frames))

    @property
    def num_done(self) -> int:
        """Number of segmented frames."""
        return len(self.records)

    @property
    def is_finished(self) -> bool:
        """Whether all frames are segmented."""
        return self.num_done == len(self.frames)

    def advance(self) -> None:
        """Segment the next frame."""
        start, t = perf_counter(), self.num_done
        segmenter = self._segmenter_after(t - 1)
        self._record(segmenter, t, self._segment(segmenter, t))
        self.seconds += perf_counter() - start
        self.max_memory_bytes = max(self.max_memory_bytes, segmenter.memory_bytes())
        if t and t % max(MIN_STATE_INTERVAL, len(self.frames) // NUM_SAVED_STATES) == 0:
            self._save_state(segmenter, t)

    def correct(self, t: int, mask: np.ndarray, labels: Collection[int]) -> None:
        """Correct some objects of a segmented frame and discard it and all later frames.

        Args:
            t: Frame.
            mask: uint8 (H, W); objects of `labels` that it does not show are absent from the frame.
            labels: Corrected objects; the others remain predictions.
        """
        earlier = self.corrections.get(t, Correction(np.zeros_like(mask)))
        corrected = {*labels, *object_ids(earlier.mask)}
        kept = np.where(np.isin(mask, list(corrected)), mask, 0).astype(np.uint8)
        absent = frozenset({*labels, *earlier.absent} - set(object_ids(mask)))
        self.corrections[t] = Correction(kept, absent)
        self._saved_states = [saved for saved in self._saved_states if saved < t]
        del self.records[t:]
        if self._segmenter.t >= t:
            self._segmenter = Segmenter(self.network, self.policy, length=len(self.frames))

    def attention(self, t: int, label: int, at: At | None) -> Attention:
        """Return the attention of a segmented frame to the memory; see `Segmenter.attention`.

        Raises:
            ValueError: The memory of the object was not read at that frame.
        """
        return self._segmenter_after(t).attention(label, at)

    def _segment(self, segmenter: Segmenter, t: int) -> Tensor:
        torch.set_flush_denormal(True)  # holds for one thread, and each event may run in another one
        correction = self.corrections.get(t)
        if t == 0:
            assert correction is not None
            return segmenter.step(self.frames[t], correction.mask)
        probabilities = segmenter.step(self.frames[t])
        if correction is None:
            return probabilities
        return segmenter.correct(correction.mask, correction.absent.intersection(segmenter.object_ids))

    def _record(self, segmenter: Segmenter, t: int, probabilities: Tensor) -> None:
        labels = segmenter.labels(probabilities)
        self.masks[t] = labels
        confidences = segmenter.confidence(probabilities)
        record = FrameRecord({label: confidence.score for label, confidence in confidences.items()})
        tracked = self.records[-1].scores.keys() if self.records else ()
        for label in tracked:
            region = labels == label
            record.shares[label] = segmenter.attention(label, region if region.any() else None).shares
        self.records.append(record)

    def _segmenter_after(self, t: int) -> Segmenter:
        """Return the segmenter in its state after frame t; -1 for the initial state."""
        segmenter = self._segmenter
        saved = max((state for state in self._saved_states if state <= t), default=-1)
        if segmenter.t > t or segmenter.t < saved:
            segmenter = self._load_state(saved)
        while segmenter.t < t:
            self._segment(segmenter, segmenter.t + 1)
        self._segmenter = segmenter
        return segmenter

    def _load_state(self, t: int) -> Segmenter:
        if t < 0:
            return Segmenter(self.network, self.policy, length=len(self.frames))
        return Segmenter.load(self._state_file(t), self.network)

    def _save_state(self, segmenter: Segmenter, t: int) -> None:
        num_bytes = sum(self._state_file(saved).stat().st_size for saved in self._saved_states)
        if num_bytes + segmenter.memory_bytes() < MAX_SAVED_BYTES:
            segmenter.save(self._state_file(t))
            self._saved_states.append(t)

    def _state_file(self, t: int) -> Path:
        return self.folder / f"{t}.pth"
