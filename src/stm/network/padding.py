"""Padding of frames to multiples of 16."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def _padding(size: Sequence[int]) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom) padding to a multiple of 16; an odd pixel goes right or below."""
    height, width = -size[0] % 16, -size[1] % 16
    return width // 2, width - width // 2, height // 2, height - height // 2


def pad(maps: Tensor) -> Tensor:
    """Pad maps (..., H, W) with zeros on all sides to multiples of 16."""
    padding = _padding(maps.shape[-2:])
    return F.pad(maps, padding) if any(padding) else maps


def crop(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Undo `pad`: crop padded maps to the area of a frame of size (H, W)."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    left, _, top, _ = _padding(size)
    return maps[..., top : top + size[0], left : left + size[1]]
