"""Procedural videos and stills with exact masks, rendered on access, so that nothing needs to be downloaded.

Video n of a set is a pure function of (seed, split, kind, n, size, frames): the same bytes in every process,
run and order of access. Splits never share random numbers.
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
DEFAULT_FRAMES = {"plain": 24, "event": 40, "distractor": 40, "still": 1}
MIN_FRAMES = {"plain": 2, "event": 20, "distractor": 20, "still": 1}
MIN_SIDE = 32


class SyntheticVideo(Video):
    """A procedural video; its scene and frames are computed on first access, cached, and left out of pickles.

    Args:
        kind: a key of `stm.data.synthetic.scenarios.SCENARIOS`.
        number: index of the video among those of its kind, from 0.
        seed: seed of the set, at least 0.
        split: one of `SPLITS`.
        size: (H, W) in pixels.
        frames: number of frames.
    """

    def __init__(
        self, kind: str, number: int, seed: int, split: str, size: tuple[int, int], frames: int
    ) -> None:
        self.kind, self.number, self.seed, self.split, self.size = kind, number, seed, split, size
        self.name = f"{kind}-{split}-{seed}-{number:04d}"
        self.frame_names = [f"{t:05d}" for t in range(frames)]

    def frame(self, t: int) -> np.ndarray:
        """Return frame t, uint8 (H, W, 3), RGB."""
        return self._rendered[0][t]

    def mask(self, t: int) -> np.ndarray:
        """Return the index mask of frame t, uint8 (H, W)."""
        return self._rendered[1][t]

    @cached_property
    def scene(self) -> Scene:
        """The scene that the video is rendered from."""
        # The names are encoded as bytes, since Python's hash() differs between processes.
        rng = np.random.default_rng([self.number, self.seed, *f"{self.split}/{self.kind}".encode()])
        unit = (self.size[0] * self.size[1]) ** 0.5
        spec = VideoSpec(len(self), width=self.size[1] / unit, height=self.size[0] / unit)
        return sample_scene(SCENARIOS[self.kind], rng, spec, self.number)

    @cached_property
    def first_frames(self) -> Mapping[int, int]:
        """Object id -> 0, since all objects are visible in the first frame."""
        return dict.fromkeys(self.scene.labels, 0)

    @property
    def absence(self) -> tuple[int, int] | None:
        """First frame without objects and the frame of their return in an event video; otherwise None."""
        return self.scene.absence

    @cached_property
    def _rendered(self) -> tuple[np.ndarray, np.ndarray]:
        return render(self.scene, self.size)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("scene", "_rendered")}


class SyntheticStills:
    """Procedural stills (see `stm.data.stills.Stills`), each rendered whenever it is read.

    Args:
        count: number of stills.
        seed: seed of the set, at least 0.
        split: one of `SPLITS`.
        size: (H, W) in pixels.
    """

    def __init__(self, count: int, seed: int, split: str, size: tuple[int, int]) -> None:
        self.name = f"synthetic-stills-{split}-{seed}"
        self.count, self.seed, self.split, self.size = count, seed, split, size

    def __len__(self) -> int:
        return self.count

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Render still i, uint8 (H, W, 3), RGB, and its index mask, uint8 (H, W).

        Raises:
            IndexError: there is no still i.
        """
        if not 0 <= i < self.count:
            raise IndexError(f"i={i}: must be in 0..{self.count - 1}, the stills of {self.name}")
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
    """List the first `count` procedural videos of a seed and a split.

    Args:
        count: number of videos.
        seed: at least 0.
        split: `train`, `val` or `test`.
        kind: `plain` (motion, deformation, occlusion), `event` (objects change their appearance, are absent
            and return), `distractor` (an event with a distractor that looks like an object at first), or
            `mixed` (alternating plain and event).
        size: (H, W) in pixels, or the side of a square.
        frames: number of frames; by default 24 for plain and 40 for the others.

    Raises:
        ValueError: an unknown split or kind, or a number that is too small.
    """
    kinds = ("plain", "event") if kind == "mixed" else (kind,)
    if kind not in (*DEFAULT_FRAMES, "mixed") or kind == "still":
        raise ValueError(f"kind={kind!r}: must be plain, event, distractor or mixed")
    size = _check_arguments(count, seed, split, size)
    for name in kinds:
        if frames is not None and frames < MIN_FRAMES[name]:
            raise ValueError(
                f"frames={frames}: must be at least {MIN_FRAMES[name]} for videos of kind {name}"
            )
    return [
        SyntheticVideo(name, i // len(kinds), seed, split, size, frames or DEFAULT_FRAMES[name])
        for i, name in ((i, kinds[i % len(kinds)]) for i in range(count))
    ]


def synthetic_stills(
    count: int, seed: int = 0, split: str = "train", size: int | tuple[int, int] = 96
) -> SyntheticStills:
    """List the first `count` procedural stills of a seed and a split; arguments as in `synthetic_videos`.

    Raises:
        ValueError: an unknown split, or a number that is too small.
    """
    return SyntheticStills(count, seed, split, _check_arguments(count, seed, split, size))


def _check_arguments(count: int, seed: int, split: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """Validate arguments and return the size as (H, W)."""
    height, width = (size, size) if isinstance(size, int) else size
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    if count < 1:
        raise ValueError(f"count={count}: must be at least 1")
    if seed < 0:
        raise ValueError(f"seed={seed}: must be at least 0")
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"size={size}: each side must have at least {MIN_SIDE} pixels, such as 96 or (96, 160)"
        )
    return int(height), int(width)
