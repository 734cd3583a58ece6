"""Memory policies as plain values: which past frames are kept (a row of Table 5), and how they are read."""

from __future__ import annotations

from dataclasses import dataclass, fields

from stm.memory.eviction import EVICTION_RULES

MEGABYTE = 2**20


@dataclass(frozen=True)
class MemoryPolicy:
    """Policy that decides which frames the memory holds and how it is read.

    Frames are admitted by `first`, `previous`, `every` or `num_uniform`; `min_confidence` and `min_novelty`
    reject frames that `every` or `num_uniform` would keep. If `max_frames` or `max_mb` leaves no room, the
    rule `eviction` chooses among the frames without a given mask, and `prototypes` keeps some of its cells.

    Args:
        first: keep frames with a given mask, such as the first. Where these alone exceed `max_frames` or
            `max_mb`, the first stays, and the oldest of the others makes room.
        previous: hold frame t - 1 while frame t is segmented.
        every: keep frames 0, N, 2N, ... (section 3.6); None for none of them.
        every_from: 'start' counts `every` from the start of the video. 'last' counts it from the last frame
            kept, and keeps a frame with a given mask for all objects (Mask-Propagation, STCN, XMem).
        num_uniform: keep this many frames, evenly spaced over the video, whose length must be known.
        min_confidence: keep a frame only if its masks are confident: the mean probability over the mask,
            averaged over visible objects, must be at least this, 0..1 (a quality gate, which QDMN learns).
        min_novelty: keep a frame only if its objects have a new appearance: 1 - cosine between their mean
            keys and those of any kept frame must be at least this, 0..2.
        max_frames: maximum number of frames, including permanent ones and the previous one (Cutie: 5).
        max_mb: maximum size of the keys and values of all objects in MB (2^20 bytes).
        eviction: a rule of `stm.memory.eviction.EVICTION_RULES`.
        decay: factor per frame on the past attention that counts as usage.
        prototypes: number of cells to keep of all evicted frames: the object cells with the most attention
            (XMem, which does not distinguish objects from background).
        top_k: each query cell reads only its k most similar memory cells (Mask-Propagation).
        long_term: maximum number of prototypes in a long-term memory (XMem), or None for none. Once
            `max_working_frames` frames are kept, all but the first and the newest `min_working_frames` - 1
            are replaced by `num_prototypes` of their cells, those with the most attention per read. Before
            that, the least used prototypes are evicted to make room.
        num_prototypes: number of prototypes of each consolidation.
        min_working_frames: frames left by a consolidation, the first and the newest.
        max_working_frames: frames that cause a consolidation.
        deep_update_every: update the sensory memory by a frame's value every this many frames, after the
            decoder's update. None: at every kept frame, in place of the decoder's update (XMem).
        motion_sigma: standard deviation of the objects' motion per frame, in short sides of the frame. Memory
            cells are weighted by a Gaussian of their distance to the query cell, with a variance that grows
            with the age of the memory frame (a random walk; after KMN's Gaussian kernel).

    Raises:
        ValueError: the memory would hold nothing, or a value is outside the above.
    """

    first: bool = True
    previous: bool = True
    every: int | None = 5
    every_from: str = "start"
    num_uniform: int | None = None
    min_confidence: float | None = None
    min_novelty: float | None = None
    max_frames: int | None = None
    max_mb: float | None = None
    eviction: str = "oldest"
    decay: float = 0.95
    prototypes: int = 0
    long_term: int | None = None
    num_prototypes: int = 128
    min_working_frames: int = 5
    max_working_frames: int = 10
    deep_update_every: int | None = None
    top_k: int | None = None
    motion_sigma: float | None = None

    def __post_init__(self) -> None:
        if not (self.first or self.previous or self.every or self.num_uniform):
            raise ValueError(
                "memory: first, previous, every and num_uniform are all off; at least one must be set"
            )
        if self.every is not None and self.num_uniform is not None:
            raise ValueError(
                f"memory.num_uniform={self.num_uniform}: must be null with memory.every={self.every}"
            )
        if self.every_from not in ("start", "last"):
            raise ValueError(f"memory.every_from={self.every_from}: must be start or last")
        for name in ("every", "num_uniform", "top_k", "deep_update_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"memory.{name}={value}: must be at least 1, or null")
        for name, low, high in (("min_confidence", 0, 1), ("min_novelty", 0, 2), ("decay", 0, 1)):
            if (value := getattr(self, name)) is not None and not low <= value <= high:
                raise ValueError(f"memory.{name}={value}: must be in {low}..{high}")
        if self.max_frames is not None and self.max_frames < self.min_frames:
            raise ValueError(f"memory.max_frames={self.max_frames}: must be at least {self.min_frames}")
        for name in ("max_mb", "motion_sigma"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"memory.{name}={value}: must be above 0, or null")
        if self.eviction not in EVICTION_RULES:
            raise ValueError(f"memory.eviction={self.eviction}: must be one of {', '.join(EVICTION_RULES)}")
        if self.prototypes < 0 or (self.prototypes and not self.is_bounded):
            raise ValueError(
                f"memory.prototypes={self.prototypes}: must not be negative, and needs max_frames or max_mb, "
                "because prototypes are cells of evicted frames"
            )

        if self.long_term is not None:
            self._check_long_term()

    def _check_long_term(self) -> None:
        if self.is_bounded:
            bound = "max_mb" if self.max_frames is None else "max_frames"
            raise ValueError(
                f"memory.long_term={self.long_term}: must be null with memory.{bound}; long_term and "
                "max_working_frames bound the memory"
            )
        if not 2 <= self.min_working_frames < self.max_working_frames:
            raise ValueError(
                f"memory.min_working_frames={self.min_working_frames}: must be at least 2 and below "
                f"memory.max_working_frames={self.max_working_frames}"
            )
        if not 1 <= self.num_prototypes <= (self.long_term or 0):
            raise ValueError(
                f"memory.num_prototypes={self.num_prototypes}: must be at least 1 and at most "
                f"memory.long_term={self.long_term}"
            )

    @property
    def is_bounded(self) -> bool:
        """Whether the memory has a maximum size."""
        return self.max_frames is not None or self.max_mb is not None

    @property
    def min_frames(self) -> int:
        """Number of frames that the memory must have room for."""
        return max(1, int(self.first) + int(self.previous))

    @property
    def counts_usage(self) -> bool:
        """Whether the policy depends on the attention that memory cells receive."""
        return self.long_term is not None or (
            self.is_bounded and (self.eviction == "least_used" or self.prototypes > 0)
        )

    @property
    def compares_appearance(self) -> bool:
        """Whether the policy depends on the appearance of the objects."""
        return self.min_novelty is not None or (self.is_bounded and self.eviction == "most_similar")

    def keeps(
        self, t: int, given: bool = False, length: int | None = None, last_kept: int | None = None
    ) -> bool:
        """Return whether frame t is kept once the next one is written, judging by its number only.

        Args:
            t: frame number.
            given: whether its mask was given, not predicted.
            length: number of frames of the video, if known.
            last_kept: number of the last frame that was kept; None before the first.
        """
        if given and (self.first or self.every_from == "last"):
            return True
        if self.num_uniform is not None:
            assert length is not None
            return any(t == number * length // self.num_uniform for number in range(self.num_uniform))
        if self.every is None:
            return False
        if self.every_from == "last":
            return last_kept is None or t - last_kept >= self.every
        return t % self.every == 0

    def frame_limit(self, frame_bytes: int, prototype_bytes: int = 0) -> int | None:
        """Return the maximum number of frames; None for no limit.

        Args:
            frame_bytes: size of the keys and values of a frame, for all objects together.
            prototype_bytes: size of the prototypes.

        Raises:
            ValueError: `max_mb` is too small for `min_frames` frames.
        """
        if self.max_mb is None:
            return self.max_frames
        limit = int((self.max_mb * MEGABYTE - prototype_bytes) // frame_bytes)
        if limit < self.min_frames:
            needed = (self.min_frames * frame_bytes + prototype_bytes) / MEGABYTE
            raise ValueError(
                f"memory.max_mb={self.max_mb:g}: {self.min_frames} frames of these objects at this size need "
                f"{needed:.1f} MB"
            )
        return limit if self.max_frames is None else min(limit, self.max_frames)

    def peak_frames(self, length: int, entry: int = 0) -> int:
        """Return the maximum number of frames held for objects that are not corrected later.

        `max_mb`, which depends on sizes, and rejection, which depends on content, are ignored.

        Args:
            length: number of frames of the video.
            entry: frame at which the objects enter.
        """
        frames, _ = self._peak(length, entry)
        return frames if self.max_frames is None else min(frames, self.max_frames)

    def peak_prototypes(self, length: int, entry: int = 0) -> int:
        """Return the maximum number of prototypes held; see `peak_frames`."""
        if self.long_term is None:
            return self.prototypes
        _, consolidations = self._peak(length, entry)
        return min(self.long_term, consolidations * self.num_prototypes)

    def _peak(self, length: int, entry: int) -> tuple[int, int]:
        """Return the maximum number of frames without a bound, and the number of consolidations."""
        kept, peak, consolidations, last_kept = 0, 1, 0, None
        for t in range(entry, length - 1):
            if is_kept := self.keeps(t, t == entry, length, last_kept):
                kept, last_kept = kept + 1, t
            peak = max(peak, kept + (self.previous and not is_kept))
            if self.long_term is not None and kept == self.max_working_frames:
                kept, consolidations = self.min_working_frames, consolidations + 1
        return peak, consolidations

    def __str__(self) -> str:
        """Return the values that differ from the paper's policy, such as `every=3, top_k=20`."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return ", ".join(f"{f.name}={getattr(self, f.name)}" for f in changed) or "every=5"
