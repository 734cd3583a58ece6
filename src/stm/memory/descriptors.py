"""Descriptors of a frame in memory: its record, its objects' appearance, the confidence of its masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class MemoryFrame:
    """Record of a frame in memory.

    Attributes:
        t: frame number.
        is_kept: the frame is kept when the next one is written.
        is_permanent: the frame's mask was given: it is evicted only if all frames are permanent.
        size: (h, w) of its map of cells.
        appearance: (O, C_k), see `appearance_descriptor`; None unless the policy compares appearances.
    """

    t: int
    is_kept: bool
    is_permanent: bool
    size: tuple[int, int]
    appearance: Tensor | None = None

    @property
    def cells(self) -> int:
        """Number of cells."""
        return math.prod(self.size)


def appearance_descriptor(key: Tensor, coverage: Tensor) -> Tensor:
    """Compute the mean key over each object's mask.

    Args:
        key: (O or 1, C_k, h * w).
        coverage: (O, h * w), the fraction of each cell that each mask covers, 0..1.

    Returns:
        (O, C_k); 0 for a mask that covers less than half a cell.
    """
    area = coverage.sum(-1, keepdim=True)
    return (key * coverage[:, None]).sum(-1) / area.clamp(min=0.5) * (area >= 0.5)


def appearance_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Compute the mean cosine similarity over the objects visible in the first frame.

    Args:
        first: (..., O, C), the mean key of each object; 0 for objects that are not visible.
        second: the same for another frame, broadcast against the first.

    Returns:
        (...) in -1..1; 1 for a frame without visible objects.
    """
    visible = first.abs().amax(-1) > 0
    cosine = F.cosine_similarity(first, second, dim=-1) * visible
    return torch.where(visible.any(-1), cosine.sum(-1) / visible.sum(-1).clamp(min=1), 1.0)


def mask_confidence(masks: Tensor) -> float:
    """Compute the mean probability over the mask (above one half), averaged over visible objects.

    Args:
        masks: (1, O, H, W) in 0..1.

    Returns:
        The confidence, 0 without visible objects.
    """
    inside = masks > 0.5
    area = inside.sum(dim=(-2, -1))
    confidence = (masks * inside).sum(dim=(-2, -1)) / area.clamp(min=1)
    return float(confidence.sum() / (area > 0).sum().clamp(min=1))
