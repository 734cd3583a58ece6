"""Which past frames are remembered, as plain values: a row of Table 5 is a file of a few lines."""

from __future__ import annotations

from dataclasses import dataclass, fields

from stm.memory.eviction import EVICTION_RULES

MEGABYTE = 2**20


@dataclass(frozen=True)
class MemoryPolicy:
    """Which frames does the memory hold while frame t is segmented, and how is it read?

    A frame comes in by `first`, `previous`, `every` or `num_uniform`; `min_confidence` and `min_novelty` turn away frames
    that would stay by `every` or `num_uniform`. Where there is no room left by `max_frames` or `max_mb`, the rule
    `eviction` says which of the frames that are not given goes, and `prototypes` keeps something of it.

    Args:
        first: frames whose mask was given, such as the first, stay for good.
        previous: frame t - 1 is there, and leaves when t is done.
        every: frames 0, N, 2N, ... stay (section 3.6); None for none of them.
        num_uniform: so many frames, evenly spaced over the video, stay; its length must be known.
        min_confidence: a frame stays only if its masks are sure: the mean probability over the mask of each
            object that is seen is at least this, 0..1 (a quality gate, as QDMN learns one).
        min_novelty: a frame stays only if an object's look is new: 1 - the cosine between the mean key over its
            mask and that of each frame held is at least this, 0..2.
        max_frames: frames held at most, given ones and the previous one included (Cutie: 5).
        max_mb: keys and values of all objects hold at most so many MB (2^20 bytes).
        eviction: a rule of `stm.memory.eviction.EVICTION_RULES`.
        decay: what a cell was looked at counts by this factor less with each further frame.
        prototypes: cells that are kept of all frames that left: those of objects that were looked at most
            (XMem, which does not tell objects from background).
        top_k: a query cell looks at its k likest memory cells only (Mask-Propagation).
        motion_sigma: objects move about so far from frame to frame, in short sides of the picture: a query cell
            looks the less at a memory cell the farther away it lies, by a Gaussian whose variance grows with
            the memory frame's age (a random walk; after KMN's Gaussian kernel).

    Raises:
        ValueError: the memory would hold nothing, or a value is outside of the above.
    """

    first: bool = True
    previous: bool = True
    every: int | None = 5
    num_uniform: int | None = None
    min_confidence: float | None = None
    min_novelty: float | None = None
    max_frames: int | None = None
    max_mb: float | None = None
    eviction: str = "oldest"
    decay: float = 0.95
    prototypes: int = 0
    top_k: int | None = None
    motion_sigma: float | None = None

    def __post_init__(self) -> None:
        if not (self.first or self.previous or self.every or self.num_uniform):
            raise ValueError(
                "memory: first, previous, every and num_uniform are all off: nothing is remembered"
            )
        if self.every is not None and self.num_uniform is not None:
            raise ValueError(
                f"memory.every={self.every} and memory.num_uniform={self.num_uniform} exclude each other"
            )
        for name in ("every", "num_uniform", "top_k"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"memory.{name}={value}: must be at least 1, or null")
        for name, least, most in (("min_confidence", 0, 1), ("min_novelty", 0, 2), ("decay", 0, 1)):
            if (value := getattr(self, name)) is not None and not least <= value <= most:
                raise ValueError(f"memory.{name}={value}: must be in {least}..{most}")
        if self.max_frames is not None and self.max_frames < self.fewest:
            raise ValueError(f"memory.max_frames={self.max_frames}: must be at least {self.fewest} here")
        if self.max_mb is not None and self.max_mb <= 0:
            raise ValueError(f"memory.max_mb={self.max_mb}: must be above 0, or null")
        if self.motion_sigma is not None and self.motion_sigma <= 0:
            raise ValueError(f"memory.motion_sigma={self.motion_sigma}: must be above 0, or null")
        if self.eviction not in EVICTION_RULES:
            raise ValueError(
                f"memory.eviction={self.eviction!r} is unknown; there are {', '.join(EVICTION_RULES)}"
            )
        if self.prototypes < 0 or (self.prototypes and not self.bounded):
            raise ValueError(
                f"memory.prototypes={self.prototypes}: must not be negative, and needs max_frames or max_mb, "
                "as they are made of frames that leave"
            )

    @property
    def bounded(self) -> bool:
        """Is there a limit to what is held?"""
        return self.max_frames is not None or self.max_mb is not None

    @property
    def fewest(self) -> int:
        """Frames that there must be room for."""
        return max(1, int(self.first) + int(self.previous))

    @property
    def counts_usage(self) -> bool:
        """Does it matter how much each memory cell is looked at?"""
        return self.bounded and (self.eviction == "least_used" or self.prototypes > 0)

    @property
    def compares_looks(self) -> bool:
        """Does it matter what the objects look like?"""
        return self.min_novelty is not None or (self.bounded and self.eviction == "most_similar")

    def stays(self, t: int, given: bool = False, length: int | None = None) -> bool:
        """Does frame t stay in memory after it was the previous frame, as far as its number tells?

        Args:
            given: its mask was given, not predicted.
            length: frames of the video, where known.
        """
        if self.first and given:
            return True
        if self.num_uniform is not None:
            assert length is not None
            return any(t == number * length // self.num_uniform for number in range(self.num_uniform))
        return self.every is not None and t % self.every == 0

    def room(self, frame_bytes: int, prototype_bytes: int = 0) -> int | None:
        """Frames that there is room for; None for no limit.

        Args:
            frame_bytes: what keys and values of a frame take, all objects together.
            prototype_bytes: what the prototypes take.

        Raises:
            ValueError: `max_mb` has no room for the fewest frames.
        """
        if self.max_mb is None:
            return self.max_frames
        fitting = int((self.max_mb * MEGABYTE - prototype_bytes) // frame_bytes)
        if fitting < self.fewest:
            needed = (self.fewest * frame_bytes + prototype_bytes) / MEGABYTE
            raise ValueError(
                f"memory.max_mb={self.max_mb:g}: {self.fewest} frames of these objects at this size need "
                f"{needed:.1f} MB"
            )
        return fitting if self.max_frames is None else min(fitting, self.max_frames)

    def most(self, length: int, entry: int = 0) -> int:
        """Frames held at most of objects that enter at frame `entry` of a video and are not corrected later.

        `max_mb`, which needs sizes, and gates, which need content, are not applied.
        """
        staying, most = 0, 1
        for t in range(entry, length - 1):
            stays = self.stays(t, t == entry, length)
            staying += stays
            most = max(most, staying + (self.previous and not stays))
        return most if self.max_frames is None else min(most, self.max_frames)

    def __str__(self) -> str:
        """The values that differ from the paper's policy, such as `every=3, top_k=20`."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return ", ".join(f"{f.name}={getattr(self, f.name)}" for f in changed) or "every=5"
