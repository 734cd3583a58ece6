"""The vocabulary that data, training and evaluation share: Video, Clip, ClipBatch.

An *object id* is the label a file gives an object (1..254, gaps allowed). A *slot* is the object's
channel inside a clip or a network (0..O-1). A clip's masks use the labels slot + 1, 0 for background
and VOID for pixels that count neither way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import, and listing or checking files needs none of it
    import torch
    from torch import Tensor

VOID = 255


class Video(ABC):
    """What is a video to us? Ordered frames, index masks for some of them, and when each object enters.

    Frames and masks are read when they are asked for, by several threads at once. A Video holds names
    only and is cheap to pickle.
    """

    name: str
    """Unique in its data set; the name of the folder that its masks are written to."""
    frame_names: Sequence[str]
    """Names without suffix, in order: `00000`, `00005`, ..."""

    def __len__(self) -> int:
        return len(self.frame_names)

    @abstractmethod
    def frame(self, t: int) -> np.ndarray:
        """Frame t, uint8 (H, W, 3) in RGB."""

    @abstractmethod
    def mask(self, t: int) -> np.ndarray | None:
        """Index mask of frame t with object ids as labels, uint8 (H, W); None where there is none."""

    @cached_property
    def annotated(self) -> Sequence[int]:
        """Frames that have a mask, in order."""
        return range(len(self))

    @cached_property
    def first_frames(self) -> Mapping[int, int]:
        """Object id -> the frame whose mask introduces it to the segmenter.

        By default the DAVIS rule: the objects are those of the first annotated frame.
        """
        first = self.annotated[0]
        mask = self.mask(first)
        assert mask is not None, f"{self.name}: frame {first} is annotated but has no mask"
        return {int(label): first for label in np.unique(mask) if label not in (0, VOID)}

    @cached_property
    def categories(self) -> Mapping[int, str]:
        """Object id -> category name, where the data set tells (YouTube-VOS)."""
        return {}

    @cached_property
    def output_frames(self) -> Sequence[int]:
        """Frames whose masks are asked for: all, or those that the data set's server wants."""
        return range(len(self))

    def prompt_mask(self, t: int) -> np.ndarray | None:
        """The mask that the segmenter gets at frame t: only the objects that enter there; None if none do."""
        entering = [label for label, frame in self.first_frames.items() if frame == t]
        if not entering:
            return None
        mask = self.mask(t)
        assert mask is not None, f"{self.name}: objects enter at frame {t}, which has no mask"
        return np.where(np.isin(mask, entering), mask, 0).astype(np.uint8)


class ArrayVideo(Video):
    """A video held in memory, as the procedural sets and notebooks have it.

    Args:
        name: see `Video.name`.
        frames: uint8 (T, H, W, 3), RGB.
        masks: uint8 (T, H, W), object ids as labels.
        entries: object id -> frame, where objects enter later than the first frame.
    """

    def __init__(
        self, name: str, frames: np.ndarray, masks: np.ndarray, entries: Mapping[int, int] | None = None
    ) -> None:
        if frames.shape[:3] != masks.shape or frames.shape[3:] != (3,):
            raise ValueError(
                f"{name}: frames {frames.shape} and masks {masks.shape} must be (T, H, W, 3) and (T, H, W)"
            )
        self.name = name
        self.frame_names = [f"{t:05d}" for t in range(len(frames))]
        self._frames, self._masks = frames, masks
        if entries is not None:
            self.first_frames = entries

    def frame(self, t: int) -> np.ndarray:
        return self._frames[t]

    def mask(self, t: int) -> np.ndarray | None:
        return self._masks[t]


@dataclass(frozen=True)
class Clip:
    """What is one training sample? A few ordered frames of one video with the masks of some objects.

    Attributes:
        frames: uint8 (T, 3, H, W), RGB.
        masks: uint8 (T, H, W): 0 background, 1..objects, VOID.
        objects: how many objects the clip has; each is visible in the first frame.
        index: the clip's place in the training sequence; with the seed it determines all of the clip.
        source: where the clip comes from, such as `davis2017/bear:00000,00004,00009`.
    """

    frames: Tensor
    masks: Tensor
    objects: int
    index: int
    source: str


@dataclass(frozen=True)
class ClipBatch:
    """What does a training step get? Clips of equal size, side by side.

    Attributes:
        frames: uint8 (B, T, 3, H, W), RGB.
        masks: uint8 (B, T, H, W): 0 background, 1..objects[b], VOID.
        objects: int64 (B,), the number of objects of each clip.
        indices: int64 (B,), each clip's place in the training sequence.
        sources: where each clip comes from.
    """

    frames: Tensor
    masks: Tensor
    objects: Tensor
    indices: Tensor
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def collate(cls, clips: Sequence[Clip]) -> ClipBatch:
        """Lay clips of equal size side by side."""
        import torch

        return cls(
            frames=torch.stack([clip.frames for clip in clips]),
            masks=torch.stack([clip.masks for clip in clips]),
            objects=torch.tensor([clip.objects for clip in clips]),
            indices=torch.tensor([clip.index for clip in clips]),
            sources=tuple(clip.source for clip in clips),
        )

    def object_masks(self, t: int) -> Tensor:
        """Masks of frame t, one channel a slot: float (B, O, H, W) of 0 and 1; padded slots are all 0."""
        import torch

        slots = torch.arange(1, int(self.objects.max()) + 1, device=self.masks.device, dtype=torch.uint8)
        return (self.masks[:, t, None] == slots[:, None, None]).float()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory, from which a GPU copies without waiting."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> ClipBatch:
        return ClipBatch(
            function(self.frames),
            function(self.masks),
            function(self.objects),
            function(self.indices),
            self.sources,
        )
