"""Procedural videos and stills with exact masks, made on access: nothing to download.

Video number n of a set is a pure function of (seed, split, kind, n, size, frames): the same bytes in every
process, on every run and in any order of access. Splits never share random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from stm.data.synthetic.objects import VideoSpec
from stm.data.synthetic.rendering import Scene, render
from stm.data.synthetic.scenarios import SCENARIOS, sample_scene
from stm.video import Video

SPLITS = ("train", "val", "test")
FRAMES = {"plain": 24, "event": 40, "distractor": 40, "still": 1}
SHORTEST, SMALLEST_SIDE = {"plain": 2, "event": 20, "distractor": 20, "still": 1}, 32


class SyntheticVideo(Video):
    """One procedural video: its scene and frames are made on first access, kept, and left out of pickles.

    Args:
        kind: a name in `stm.data.synthetic.scenarios.SCENARIOS`.
        number: which video of the kind, from 0.
        seed: of the set, from 0.
        split: one of `SPLITS`.
        size: (H, W) in pixels.
        frames: how many.
    """

    def __init__(
        self, kind: str, number: int, seed: int, split: str, size: tuple[int, int], frames: int
    ) -> None:
        self.kind, self.number, self.seed, self.split, self.size = kind, number, seed, split, size
        self.name = f"{kind}-{split}-{seed}-{number:04d}"
        self.frame_names = [f"{t:05d}" for t in range(frames)]

    def frame(self, t: int) -> np.ndarray:
        return self._drawn[0][t]

    def mask(self, t: int) -> np.ndarray:
        return self._drawn[1][t]

    @cached_property
    def scene(self) -> Scene:
        """The values that the video is drawn from."""
        # text as bytes: Python's hash() differs from process to process
        rng = np.random.default_rng([self.number, self.seed, *f"{self.split}/{self.kind}".encode()])
        unit = (self.size[0] * self.size[1]) ** 0.5
        stage = VideoSpec(len(self), width=self.size[1] / unit, height=self.size[0] / unit)
        return sample_scene(SCENARIOS[self.kind], rng, stage, self.number)

    @cached_property
    def first_frames(self) -> Mapping[int, int]:
        return dict.fromkeys(self.scene.labels, 0)

    @property
    def absence(self) -> tuple[int, int] | None:
        """First frame without any object and the frame of their return, in an event video; None in others."""
        return self.scene.absence

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        return render(self.scene, self.size)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("scene", "_drawn")}


class SyntheticStills:
    """A set of procedural stills: `len`, `name` and `read`; each is drawn anew whenever it is read.

    Args:
        count: how many.
        seed: of the set, from 0.
        split: one of `SPLITS`.
        size: (H, W) in pixels.
    """

    def __init__(self, count: int, seed: int, split: str, size: tuple[int, int]) -> None:
        self.name = f"synthetic-stills-{split}-{seed}"
        self.count, self.seed, self.split, self.size = count, seed, split, size

    def __len__(self) -> int:
        return self.count

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture i, uint8 (H, W, 3) in RGB, and its index mask, uint8 (H, W)."""
        if not 0 <= i < self.count:
            raise IndexError(f"{self.name} has {self.count} stills, there is no number {i}")
        still = SyntheticVideo("still", i, self.seed, self.split, self.size, 1)
        return still.frame(0), still.mask(0)


def synthetic_videos(
    count: int,
    seed: int = 0,
    split: str = "train",
    kind: str = "mixed",
    size: int | tuple[int, int] = 96,
    frames: int | None = None,
) -> list[SyntheticVideo]:
    """The first `count` procedural videos of a seed and a split.

    Args:
        count: how many.
        seed: from 0.
        split: `train`, `val` or `test`.
        kind: `plain` (motion, deformation, occlusion), `event` (objects change their look, are absent and
            return), `distractor` (an event beside something in the first look), `mixed` (plain and event
            in turns).
        size: (H, W) in pixels, or the side of a square.
        frames: a video's length; None: 24 for plain, 40 for the others.

    Raises:
        ValueError: no such split or kind, or a size, seed or length that is too small.
    """
    kinds = ("plain", "event") if kind == "mixed" else (kind,)
    if kind not in (*FRAMES, "mixed") or kind == "still":
        raise ValueError(f"kind={kind!r} must be plain, event, distractor or mixed")
    size = _checked(seed, split, size)
    for one in kinds:
        if frames is not None and frames < SHORTEST[one]:
            raise ValueError(f"frames={frames}: a video of kind {one} needs at least {SHORTEST[one]} frames")
    turns = [(kinds[i % len(kinds)], i // len(kinds)) for i in range(count)]
    return [SyntheticVideo(one, n, seed, split, size, frames or FRAMES[one]) for one, n in turns]


def synthetic_stills(
    count: int, seed: int = 0, split: str = "train", size: int | tuple[int, int] = 96
) -> SyntheticStills:
    """The first `count` procedural stills of a seed and a split; arguments as in `synthetic_videos`."""
    return SyntheticStills(count, seed, split, _checked(seed, split, size))


def _checked(seed: int, split: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """The size as (H, W)."""
    height, width = (size, size) if isinstance(size, int) else size
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"size={size}: each side needs at least {SMALLEST_SIDE} pixels, for example 96 or (96, 160)"
        )
    return int(height), int(width)
