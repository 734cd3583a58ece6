"""Endless synthetic video for measurements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Stream:
    """Endless synthetic video of textured objects that move and slowly change color.

    Args:
        size: (H, W).
        objects: number of objects, labeled from 1.
    """

    def __init__(self, size: tuple[int, int], objects: int) -> None:
        import numpy as np

        rng = np.random.default_rng(7)
        self.size, self.objects = size, objects
        self.background = _texture(rng, (2 * size[0], 2 * size[1]))
        self.textures = [_texture(rng, size) for _ in range(objects)]

    def __call__(self, t: int) -> tuple[Tensor, Tensor]:
        """Return frame t, float (3, H, W) in 0..1, and its labels, uint8 (H, W)."""
        import cv2
        import numpy as np
        import torch

        height, width = self.size
        top = round(height * (0.5 + 0.5 * math.sin(t / 90)))
        left = round(width * (0.5 + 0.5 * math.sin(t / 70)))
        frame = self.background[top : top + height, left : left + width].copy()
        labels = np.zeros(self.size, np.uint8)
        for number, texture in enumerate(self.textures):
            phase = 2 * math.pi * number / self.objects
            center = (
                round(width * (0.5 + 0.33 * math.cos(t / 31 + phase))),
                round(height * (0.5 + 0.33 * math.sin(t / 23 + phase))),
            )
            axes = (max(2, round(0.17 * width)), max(2, round(0.13 * height)))
            shape = np.zeros(self.size, np.uint8)
            cv2.ellipse(shape, center, axes, t / 2, 0, 360, 1, -1)
            tint = 0.75 + 0.25 * np.sin(t / 150 + phase + np.arange(3, dtype=np.float32))
            frame[shape > 0] = (texture * tint)[shape > 0]
            labels[shape > 0] = number + 1
        return torch.from_numpy(frame).permute(2, 0, 1).contiguous(), torch.from_numpy(labels)


def _texture(rng: Any, size: tuple[int, int]) -> Any:
    """Return smooth random colors, float32 (H, W, 3) in 0..1."""
    import cv2
    import numpy as np

    coarse, fine = (
        cv2.resize(rng.random((cells, 2 * cells, 3), np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
        for cells in (5, 24)
    )
    return np.clip(0.6 * coarse + 0.4 * fine, 0, 1)
