"""A frame in memory: what is known of it beside its cells."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass
class MemoryFrame:
    """A frame in its slot.

    Attributes:
        t: its number.
        stays: it does not leave when the next frame comes.
        fixed: its mask was given, and such frames stay for good.
        size: (h, w) of its map of cells.
        look: (O, C), see `stm.memory.descriptors.appearance_descriptor`.
    """

    t: int
    stays: bool
    fixed: bool
    size: tuple[int, int]
    look: Tensor | None = None

    @property
    def cells(self) -> int:
        return math.prod(self.size)
