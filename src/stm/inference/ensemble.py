"""Test-time augmentation: averaged probabilities of flips, of several sizes and of several networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stm.inference.inputs import ArrayLike, PreparedFrame
from stm.inference.segmenter import Segmenter
from stm.memory import MemoryPolicy
from stm.network import STM


@dataclass(frozen=True)
class PreparedFrames:
    """A frame and its mask as each member of an ensemble takes them."""

    members: tuple[PreparedFrame, ...]

    @property
    def full_mask(self) -> np.ndarray | Tensor | None:
        """The given mask at the frame's own size."""
        return self.members[0].full_mask

    @property
    def shape(self) -> tuple[int, int]:
        """The frame's own (H, W)."""
        return self.members[0].shape


@dataclass(frozen=True)
class Augmentation:
    """What is averaged at test time.

    Args:
        flip: also segment the mirrored video.
        sizes: short sides at which the networks see the frames; None for the benchmark's alone.
        networks: further networks, on the device of the first one.
        names: identify the further networks, such as by the hashes of their checkpoints.
    """

    flip: bool = False
    sizes: tuple[int, ...] | None = None
    networks: tuple[STM, ...] = ()
    names: tuple[str, ...] = ()

    def settings(self) -> dict[str, object]:
        """Return plain values, which are recorded with the scores."""
        return {"flip": self.flip, "sizes": list(self.sizes or ()), "networks": list(self.names)}

    def segmenter(
        self, network: STM, memory: MemoryPolicy | None, size: int | None, *, length: int | None
    ) -> Ensemble:
        """Return the ensemble of a network and the further ones."""
        return Ensemble((network, *self.networks), memory, self.sizes or (size,), self.flip, length=length)


class Ensemble:
    """Segmenters whose probabilities are averaged; it is used like a `Segmenter`.

    Each member has a memory of its own. Only frames of one video, not batches, are segmented.

    Args:
        networks: one or more, on one device.
        memory: which past frames are remembered.
        sizes: short sides at which the networks see the frames; None in it is the frames' own size.
        flip: also segment the mirrored video.
        length: number of frames of the video, where known.
    """

    def __init__(
        self,
        networks: Sequence[STM],
        memory: MemoryPolicy | None = None,
        sizes: Sequence[int | None] = (None,),
        flip: bool = False,
        *,
        length: int | None = None,
    ) -> None:
        self.network = networks[0]
        self._members = [
            (Segmenter(network, memory, size, length=length), is_flipped)
            for network in networks
            for size in sizes
            for is_flipped in ((False, True) if flip else (False,))
        ]
        self._probabilities: Tensor | None = None

    @property
    def object_ids(self) -> list[int]:
        """Slot -> object id, in order of entry."""
        return self._members[0][0].object_ids

    @property
    def network_probabilities(self) -> Tensor:
        """Probabilities (1, O + 1, H, W) of the last frame, at its own size."""
        assert self._probabilities is not None, "no frame was segmented yet: call step first"
        return self._probabilities[None]

    def prepare(self, frame: ArrayLike, mask: ArrayLike | None = None) -> PreparedFrames:
        """Check and resize a frame and its mask for `step` ahead of time, such as in another thread."""
        return PreparedFrames(
            tuple(
                member.prepare(_flipped(frame), None if mask is None else _flipped(mask))
                if is_flipped
                else member.prepare(frame, mask)
                for member, is_flipped in self._members
            )
        )

    def step(self, frame: ArrayLike | PreparedFrames, mask: ArrayLike | None = None) -> Tensor:
        """Segment the next frame; see `Segmenter.step`.

        Returns:
            Probabilities (O + 1, H, W) at the frame's own size, background first: the members' mean.
        """
        prepared = frame if isinstance(frame, PreparedFrames) else self.prepare(frame, mask)
        parts = []
        for (member, is_flipped), own in zip(self._members, prepared.members, strict=True):
            probabilities = member.step(own)
            parts.append(probabilities.flip(-1) if is_flipped else probabilities)
        self._probabilities = torch.stack(parts).mean(0) if len(parts) > 1 else parts[0]
        return self._probabilities

    def labels(self, probabilities: Tensor) -> np.ndarray:
        """Return the likeliest object id of each pixel; see `Segmenter.labels`."""
        return self._members[0][0].labels(probabilities)


def _flipped(image: ArrayLike) -> ArrayLike:
    """Mirror a frame or mask from left to right."""
    if isinstance(image, Tensor):
        return image.flip(-1)
    return np.ascontiguousarray(np.asarray(image)[:, ::-1])
