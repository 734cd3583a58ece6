"""Types that data, training and evaluation share: Video, Clip, ClipBatch.

An *object id* is an object's label in a file (1..254, in 16-bit masks 1..65534; gaps allowed). A *slot* is
the object's channel in a clip or a network (0..O-1). The masks of a clip hold slot + 1 for objects, 0 for
background, and VOID where losses and metrics ignore the pixel.
"""

from __future__ import annotations

import hashlib
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
"""Label of the pixels that losses and metrics ignore, in 8-bit masks and in clips."""
WIDE_VOID = 65_535
"""The same in 16-bit masks."""


def void_label(mask: np.ndarray) -> int:
    """Return the label of an index mask's void pixels: 65535 in uint16, where 255 is an id, else 255."""
    return WIDE_VOID if mask.dtype == np.uint16 else VOID


class Video(ABC):
    """Ordered frames, index masks for some of them, and the frame at which each object enters.

    Frames and masks are read on access, possibly by several threads at once. A video holds only names, so it
    is cheap to pickle.
    """

    name: str
    """Name of the video, unique in its data set, and of the folder that its masks are written to."""
    frame_names: Sequence[str]
    """Names of the frames without suffix, in order: `00000`, `00005`, ..."""
    object_folders: Mapping[int, str] | None = None
    """Object id -> folder of its masks, if objects overlap and have masks of their own (SA-V)."""
    frame_ranges: Mapping[int, tuple[int, int, int]] | None = None
    """Object id -> number of its first file, end, and number of its frames, if listed (LVOS)."""

    def __len__(self) -> int:
        return len(self.frame_names)

    @abstractmethod
    def frame(self, t: int) -> np.ndarray:
        """Read frame t, uint8 (H, W, 3), RGB."""

    @abstractmethod
    def mask(self, t: int) -> np.ndarray | None:
        """Read the index mask of frame t, uint8 or uint16 (H, W) of object ids; None without one."""

    def annotated_mask(self, t: int) -> np.ndarray:
        """Read the index mask of a frame that must have one, uint8 or uint16 (H, W)."""
        mask = self.mask(t)
        assert mask is not None, f"{self.name}: frame {t} is annotated but has no mask"
        return mask

    def truth(self, t: int) -> np.ndarray:
        """Read the ground truth of an annotated frame, (H, W), or (O, H, W) with one mask an object."""
        return self.annotated_mask(t)

    @cached_property
    def annotated(self) -> Sequence[int]:
        """Indices of the frames that have a mask, ascending."""
        return range(len(self))

    @cached_property
    def first_frames(self) -> Mapping[int, int]:
        """Object id -> index of the frame whose mask introduces the object to the segmenter.

        By default, as in DAVIS, the objects are those of the first annotated frame.
        """
        first = self.annotated[0]
        mask = self.annotated_mask(first)
        return {int(label): first for label in np.unique(mask) if label not in (0, void_label(mask))}

    @cached_property
    def scored_objects(self) -> Sequence[int]:
        """Ids of the objects to score: those that enter, unless the data set lists them (MOSE)."""
        return sorted(self.first_frames)

    @cached_property
    def categories(self) -> Mapping[int, str]:
        """Object id -> category name, if the data set provides it (YouTube-VOS; LVOS: seen or unseen)."""
        return {}

    @cached_property
    def output_frames(self) -> Sequence[int]:
        """Indices of the frames to write masks for: all, or those that the evaluation server expects."""
        return range(len(self))

    def prompt_mask(self, t: int) -> np.ndarray | None:
        """Return an index mask (H, W) of only the objects that enter at frame t; None if none enters."""
        entering = [label for label, frame in self.first_frames.items() if frame == t]
        if not entering:
            return None
        mask = self.annotated_mask(t)
        return mask * np.isin(mask, entering)

    def fingerprint(self) -> str:
        """Return a short hash of the video's content: its names, and frames and masks where objects enter."""
        digest = hashlib.sha256("\n".join([self.name, *self.frame_names, ""]).encode())
        for t in sorted(set(self.first_frames.values())):
            digest.update(self.frame(t).tobytes() + self.annotated_mask(t).tobytes())
        return digest.hexdigest()[:16]


class ArrayVideo(Video):
    """A video held in memory.

    Args:
        name: see `Video.name`.
        frames: uint8 (T, H, W, 3), RGB.
        masks: uint8 or uint16 (T, H, W), object ids as labels.
        first_frames: see `Video.first_frames`; by default the objects are those of the first frame.

    Raises:
        ValueError: the shapes of frames and masks do not match.
    """

    def __init__(
        self, name: str, frames: np.ndarray, masks: np.ndarray, first_frames: Mapping[int, int] | None = None
    ) -> None:
        if frames.shape[:3] != masks.shape or frames.shape[3:] != (3,):
            raise ValueError(
                f"{name}: frames and masks must be (T, H, W, 3) and (T, H, W); "
                f"got {frames.shape} and {masks.shape}"
            )
        self.name = name
        self.frame_names = [f"{t:05d}" for t in range(len(frames))]
        self._frames, self._masks = frames, masks
        if first_frames is not None:
            self.first_frames = first_frames

    def fingerprint(self) -> str:
        """Return a short hash of all frames and masks."""
        digest = hashlib.sha256("\n".join([self.name, *self.frame_names, ""]).encode())
        digest.update(
            np.ascontiguousarray(self._frames).tobytes() + np.ascontiguousarray(self._masks).tobytes()
        )
        return digest.hexdigest()[:16]

    def frame(self, t: int) -> np.ndarray:
        """Return frame t, uint8 (H, W, 3), RGB."""
        return self._frames[t]

    def mask(self, t: int) -> np.ndarray:
        """Return the index mask of frame t, uint8 or uint16 (H, W)."""
        return self._masks[t]


@dataclass(frozen=True)
class Clip:
    """One training sample: a few ordered frames of a video or a still, with the masks of some objects.

    Attributes:
        frames: uint8 (T, 3, H, W), RGB.
        masks: uint8 (T, H, W): 0 background, 1..objects, VOID.
        objects: number of objects; each is visible in the first frame.
        index: index of the clip in the training sequence; together with the seed it determines the clip.
        source: origin of the clip, such as `davis2017/bear:00000,00004,00009`.
    """

    frames: Tensor
    masks: Tensor
    objects: int
    index: int
    source: str


@dataclass  # not frozen, because Lightning converts its tensors for trainer.precision=64-true
class ClipBatch:
    """Clips of equal size, stacked for a training step.

    Attributes:
        frames: uint8 (B, T, 3, H, W), RGB.
        masks: uint8 (B, T, H, W): 0 background, 1..objects[b], VOID.
        objects: int64 (B,), number of objects of each clip; on the host, as the shapes depend on it.
        indices: int64 (B,), index of each clip in the training sequence; on the host.
        sources: origin of each clip.
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
        """Stack clips of equal size."""
        import torch

        return cls(
            frames=torch.stack([clip.frames for clip in clips]),
            masks=torch.stack([clip.masks for clip in clips]),
            objects=torch.tensor([clip.objects for clip in clips]),
            indices=torch.tensor([clip.index for clip in clips]),
            sources=tuple(clip.source for clip in clips),
        )

    def object_masks(self, t: int) -> Tensor:
        """Return the masks of frame t with one channel per slot: float (B, O, H, W); unused slots are 0."""
        import torch

        slots = torch.arange(1, max(self.objects.tolist()) + 1, device=self.masks.device, dtype=torch.uint8)
        return (self.masks[:, t, None] == slots[:, None, None]).float()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """Return a copy of the batch whose frames and masks are on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ClipBatch:
        """Return a copy of the batch in page-locked memory, which a GPU reads asynchronously."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> ClipBatch:
        return ClipBatch(
            function(self.frames),
            function(self.masks),
            self.objects,
            self.indices,
            self.sources,
        )
