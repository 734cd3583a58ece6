"""A video segmented under one policy, and how to go back to any of its frames."""

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

POINTS, CLOSEST = 12, 5
"""A run saves its memory about so many times, and not more often than every so many frames."""
KEPT_BYTES = 2**30
"""What a run saves at most; beyond, going back takes longer."""


@dataclass(frozen=True)
class Correction:
    """What the visitor says of a frame: a mask of some objects, and those that it does not show."""

    mask: np.ndarray
    absent: frozenset[int] = frozenset()


@dataclass
class FrameRecord:
    """What is kept of a frame that is done.

    Attributes:
        scores: of each object, the confidence in its mask.
        shares: of each object, memory frame -> its share of what was read over the object's mask, or over
            the whole frame where the object is not found.
    """

    scores: dict[int, float]
    shares: dict[int, dict[int, float]] = field(default_factory=dict)


class SegmentationRun:
    """Segments a video frame by frame, and remembers enough to answer for any frame that is done.

    Args:
        network: in eval mode; runs may share it.
        policy: which past frames are remembered.
        frames: uint8 (T, H, W, 3).
        first: mask of the first frame, uint8 (H, W).
        folder: its own, for what it keeps.
    """

    def __init__(
        self, network: STM, policy: MemoryPolicy, frames: np.ndarray, first: np.ndarray, folder: Path
    ) -> None:
        self.network, self.policy, self.frames, self.folder = network, policy, frames, folder
        path = folder / "masks.npy"
        np.save(path, np.zeros(frames.shape[:3], np.uint8))  # takes its room while there is an error for it
        self.masks = np.load(path, mmap_mode="r+")
        self.seen: list[FrameRecord] = []
        self.told: dict[int, Correction] = {0: Correction(first)}
        self.most_bytes, self.seconds = 0, 0.0
        self._points: list[int] = []
        self._segmenter = Segmenter(network, policy, len(frames))

    @property
    def done(self) -> int:
        """Frames that are segmented."""
        return len(self.seen)

    @property
    def finished(self) -> bool:
        return self.done == len(self.frames)

    def advance(self) -> None:
        """Segment the next frame."""
        began, t = perf_counter(), self.done
        segmenter = self._standing(t - 1)
        probabilities = self._take(segmenter, t)
        self._note(segmenter, t, probabilities)
        self.seconds += perf_counter() - began
        self.most_bytes = max(self.most_bytes, segmenter.memory_bytes())
        if t and t % max(CLOSEST, len(self.frames) // POINTS) == 0:
            self._save(segmenter, t)

    def correct(self, t: int, mask: np.ndarray, labels: Collection[int]) -> None:
        """Say what some objects of a frame that is done should have been; what follows is to be done again.

        Args:
            mask: uint8 (H, W); one of the objects that it does not show is absent from the frame.
            labels: the objects; the others stay a prediction.
        """
        shown, earlier = set(object_ids(mask)), self.told.get(t, Correction(np.zeros_like(mask)))
        telling = {*labels, *object_ids(earlier.mask)}
        told = np.where(np.isin(mask, list(telling)), mask, 0).astype(np.uint8)
        self.told[t] = Correction(told, frozenset({*labels, *earlier.absent} - shown))
        self._points = [point for point in self._points if point < t]
        del self.seen[t:]
        if self._segmenter.t >= t:
            self._segmenter = Segmenter(self.network, self.policy, len(self.frames))

    def attention(self, t: int, label: int, at: At | None) -> Attention:
        """Where in memory a frame that is done looked for an object; `at` as in `Segmenter.attention`.

        Raises:
            ValueError: the object's memory was not read at that frame.
        """
        return self._standing(t).attention(label, at)

    def _take(self, segmenter: Segmenter, t: int) -> Tensor:
        torch.set_flush_denormal(True)  # holds for a thread, and the page's threads change
        told = self.told.get(t)
        if t == 0:
            assert told is not None
            return segmenter.step(self.frames[t], told.mask)
        probabilities = segmenter.step(self.frames[t])
        if told is None:
            return probabilities
        return segmenter.correct(told.mask, told.absent.intersection(segmenter.object_ids))

    def _note(self, segmenter: Segmenter, t: int, probabilities: Tensor) -> None:
        labels = segmenter.labels(probabilities)
        self.masks[t] = labels
        seen = FrameRecord({label: sure.score for label, sure in segmenter.confidence(probabilities).items()})
        entered = self.seen[-1].scores.keys() if self.seen else ()
        for label in entered:
            region = labels == label
            seen.shares[label] = segmenter.attention(label, region if region.any() else None).shares
        self.seen.append(seen)

    def _standing(self, t: int) -> Segmenter:
        """The segmenter as it was after frame t; -1 for none."""
        now = self._segmenter
        saved = max((point for point in self._points if point <= t), default=-1)
        if now.t > t or now.t < saved:
            now = self._at_point(saved)
        while now.t < t:
            self._take(now, now.t + 1)
        self._segmenter = now
        return now

    def _at_point(self, t: int) -> Segmenter:
        if t < 0:
            return Segmenter(self.network, self.policy, len(self.frames))
        return Segmenter.load(self._point(t), self.network)

    def _save(self, segmenter: Segmenter, t: int) -> None:
        held = sum(self._point(point).stat().st_size for point in self._points)
        if held + segmenter.memory_bytes() < KEPT_BYTES:
            segmenter.save(self._point(t))
            self._points.append(t)

    def _point(self, t: int) -> Path:
        return self.folder / f"{t}.pth"
