"""The plain frame loop of STCN and Mask-Propagation: a memory of whole frames, concatenated anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.plain_blocks import aggregate, crop, given_masks, padding, prepare, top_k_softmax
from helpers.plain_mask_propagation import MaskPropagation
from helpers.plain_stcn import STCN


@dataclass
class Group:
    """Objects that entered in the same frame, and their memory.

    Attributes:
        objects: their channels, from 0.
        keys: (1 or O, C, N).
        values: (O, C, N).
    """

    objects: slice
    keys: Tensor
    values: Tensor


class PlainFrameMemory:
    """Segment a video frame by frame with the memory rules of STCN and Mask-Propagation.

    Args:
        network: in eval mode.
        mem_every: frames between two memory frames; the count restarts at a frame with a given mask.
        top_k: memory positions that a query position attends to.
        include_last: whether the memory also holds the frame before the current one.
    """

    def __init__(
        self, network: STCN | MaskPropagation, mem_every: int = 5, top_k: int = 20, include_last: bool = False
    ) -> None:
        self.network, self.mem_every, self.top_k = network, mem_every, top_k
        self.include_last = include_last
        self.t = self.last_memorized = -1
        self.groups: list[Group] = []
        self.previous: tuple[Tensor, Tensor] | None = None
        self.first_memory: dict[str, Tensor] = {}  # key and value of frame 0

    @torch.no_grad()
    def step(self, frame: Tensor, mask: Tensor | None = None, last: bool = False) -> Tensor:
        """Segment the next frame.

        Args:
            frame: (3, H, W) in 0..1.
            mask: labels (H, W) of the objects that enter; new labels continue the count from 1.
            last: whether the video ends here, so that the frame is not memorized.

        Returns:
            Probabilities (O + 1, H, W), background first.
        """
        self.t += 1
        image = prepare(frame)
        query = self.network.encode(image)
        probabilities = self._segment(query) if self.groups else None
        if mask is not None:
            labels = F.pad(mask, padding(frame)).long()
            probabilities = given_masks(labels, None if probabilities is None else probabilities[1:])
        assert probabilities is not None
        is_permanent = mask is not None or self.t - self.last_memorized >= self.mem_every
        if not last and (is_permanent or self.include_last):
            key, value = self.network.memorize(image, probabilities[1:], query)
            self._write(key.flatten(2), value.flatten(2), is_permanent)
            if self.t == 0:
                self.first_memory = {"key": key, "value": value}
        return crop(probabilities, frame)

    def _segment(self, query: tuple[Tensor, ...]) -> Tensor:
        readouts = []
        for group in self.groups:
            keys, values = group.keys, group.values
            if self.previous is not None:
                key, value = self.previous
                keys = torch.cat([keys, key if len(key) == 1 else key[group.objects]], dim=2)
                values = torch.cat([values, value[group.objects]], dim=2)
            attention = top_k_softmax(self.network.similarity(keys, query), self.top_k)
            readouts.append((values @ attention).unflatten(2, query[0].shape[-2:]))
        return aggregate(self.network.segment(query, torch.cat(readouts)))

    def _write(self, key: Tensor, value: Tensor, is_permanent: bool) -> None:
        self.previous = None if is_permanent else (key, value)
        if not is_permanent:
            return
        self.last_memorized = self.t
        for group in self.groups:
            of_group = key if len(key) == 1 else key[group.objects]
            group.keys = torch.cat([group.keys, of_group], dim=2)
            group.values = torch.cat([group.values, value[group.objects]], dim=2)
        known = self.groups[-1].objects.stop if self.groups else 0
        if known < len(value):  # objects that entered in this frame
            entering = slice(known, len(value))
            self.groups.append(Group(entering, key if len(key) == 1 else key[entering], value[entering]))
