"""The published XMem code's memory of late objects, with its two defects: for comparison alone.

A late group keeps no keys. Its values are matched to the last keys of the first group's memory, which are not
the keys that they were written with once a consolidation has run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from helpers.plain_blocks import top_k_softmax
from helpers.plain_xmem import similarity
from helpers.plain_xmem_memory import GroupMemory, PlainXMem, Store


class LateValues:
    """The values of objects that entered after frame 0.

    Args:
        objects: their channels, from 0.
        first: the memory of the objects that entered in frame 0; it is read and written before this one.
    """

    def __init__(self, objects: slice, first: GroupMemory) -> None:
        self.objects, self.first = objects, first
        self.consolidations = len(first.prototypes)
        self.work = self.long = torch.zeros(objects.stop - objects.start, 512, 0)

    def read(self, key: Tensor, selection: Tensor) -> Tensor:
        """Read the values at keys (1, C, Q), matched to the first group's last keys. Returns (O, C, Q)."""
        keys, shrinkage = (
            torch.cat([self._last("long", name), self._last("work", name)], -1)
            for name in ("keys", "shrinkage")
        )
        attention = top_k_softmax(similarity(keys, shrinkage, key, selection), self.first.settings.top_k)
        return torch.cat([self.long, self.work], dim=-1) @ attention

    def _last(self, store: str, name: str) -> Tensor:
        part, count = getattr(self.first, store), getattr(self, store).shape[-1]
        if part is None:
            return getattr(self.first.work, name)[..., :0]
        return getattr(part, name)[..., len(part) - count :]

    def write(self, frame: Store) -> None:
        """Append a frame's values; follow the first group's consolidation if one has just run."""
        self.work = torch.cat([self.work, frame.values], dim=-1)
        if len(self.first.prototypes) > self.consolidations:
            self.consolidations += 1
            self._consolidate(len(frame))

    def _consolidate(self, positions: int) -> None:
        """Read the first group's prototypes as far as they have values here; drop the values."""
        newest = self.work.shape[-1] - (self.first.settings.min_mid_term_frames - 1) * positions
        values = self.work[..., positions:newest]
        chosen, candidates = self.first.prototypes[-1], self.first.candidates
        before = len(candidates) - values.shape[-1]  # candidates that are older than this group
        chosen = chosen[chosen >= before]
        scores = similarity(
            candidates.keys[..., before:],
            candidates.shrinkage[..., before:],
            candidates.keys[..., chosen],
            candidates.selection[..., chosen],
        )
        self.long = torch.cat([self.long, values @ torch.softmax(scores, dim=1)], dim=-1)
        self.work = torch.cat([self.work[..., :positions], self.work[..., newest:]], dim=-1)


class DefectiveXMem(PlainXMem):
    """XMem as published, defects included."""

    def _new_group(self, objects: slice) -> GroupMemory | LateValues:
        return LateValues(objects, self.groups[0]) if self.groups else super()._new_group(objects)
