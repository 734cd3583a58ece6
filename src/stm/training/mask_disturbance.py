"""Disturbed masks in memory: short clips of training show the errors of long videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_VISIBLE = 0.3
"""Probability from which a pixel counts as one of an object."""


@dataclass(frozen=True)
class MaskDisturbance:
    """Shifts and scales predicted masks, and swaps labels, before they are memorized.

    Each disturbance is a function of the seed, the clip's index and the frame alone.

    Args:
        warp: Probability that the masks of a frame are shifted and scaled.
        max_shift: Largest shift, as a share of the frame's sides.
        max_scale: Largest change of size: 0.1 for sizes of 0.9 to 1.1.
        swap: Probability that two objects exchange their labels within a box.
        box: Smallest and largest side of the box, as a share of the frame's.
        seed: At least 0.

    Raises:
        ValueError: a value is out of range.
    """

    warp: float = 0.5
    max_shift: float = 0.03
    max_scale: float = 0.08
    swap: float = 0.25
    box: Sequence[float] = (0.15, 0.4)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("warp", "max_shift", "swap"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"mask_disturbance.{name}={value}: must be in 0..1")
        if not 0 <= self.max_scale < 1:
            raise ValueError(f"mask_disturbance.max_scale={self.max_scale}: must be at least 0, and below 1")
        if len(self.box) != 2 or not 0 < self.box[0] <= self.box[1] <= 1:
            raise ValueError(
                f"mask_disturbance.box={list(self.box)}: must be a smallest and a largest share in 0..1"
            )
        if self.seed < 0:
            raise ValueError(f"mask_disturbance.seed={self.seed}: must be at least 0")

    def __call__(self, probabilities: Tensor, indices: Sequence[int], t: int) -> Tensor:
        """Return disturbed probabilities; gradients pass through.

        Args:
            probabilities: (B, O + 1, H, W), background first.
            indices: index of each clip in the training sequence.
            t: the frame.
        """
        clips = zip(probabilities, indices, strict=True)
        return torch.stack([self._disturbed(p, np.random.default_rng([self.seed, i, t])) for p, i in clips])

    def _disturbed(self, p: Tensor, rng: np.random.Generator) -> Tensor:
        if rng.random() < self.warp:
            p = _warped(p, rng.uniform(-1, 1, 2) * self.max_shift, 1 + rng.uniform(-1, 1) * self.max_scale)
        return self._swapped(p, rng) if rng.random() < self.swap else p

    def _swapped(self, p: Tensor, rng: np.random.Generator) -> Tensor:
        """Swap two objects within a box around a pixel of the first."""
        visible = (p[1:] > _VISIBLE).cpu().numpy()
        present = np.flatnonzero(visible.any(axis=(1, 2)))
        if len(present) < 2:
            return p
        first, second = rng.permutation(present)[:2].tolist()
        y, x = rng.choice(np.argwhere(visible[first]))
        smallest, largest = self.box
        height, width = (max(1, round(side * rng.uniform(smallest, largest))) for side in p.shape[1:])
        top, left = max(0, y - height // 2), max(0, x - width // 2)
        box = torch.zeros(p.shape[1:], dtype=torch.bool, device=p.device)
        box[top : top + height, left : left + width] = True
        order = list(range(len(p)))
        order[first + 1], order[second + 1] = second + 1, first + 1
        return torch.where(box, p[order], p)


def _warped(p: Tensor, shift: np.ndarray, scale: float) -> Tensor:
    """Move content by a share (dx, dy) of the sides after scaling it about the center."""
    dx, dy = (-2 * shift / scale).tolist()
    theta = torch.tensor([[[1 / scale, 0, dx], [0, 1 / scale, dy]]], dtype=p.dtype, device=p.device)
    grid = F.affine_grid(theta, [1, *p.shape], align_corners=False)
    return F.grid_sample(p[None], grid, padding_mode="border", align_corners=False)[0]
