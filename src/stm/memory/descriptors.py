"""What do the masks of a frame show, and how sure are they?"""

from __future__ import annotations

from torch import Tensor


def appearance_descriptor(key: Tensor, covered: Tensor) -> Tensor:
    """What the objects look like: the mean key over each mask, (O, C_k); 0 where it covers under half a cell.

    Args:
        key: (O or 1, C_k, h * w).
        covered: (O, h * w), how much of each cell each mask covers, 0..1.
    """
    area = covered.sum(-1, keepdim=True)
    return (key * covered[:, None]).sum(-1) / area.clamp(min=0.5) * (area >= 0.5)


def mask_confidence(masks: Tensor) -> float:
    """The mean probability over the mask (where it is above one half), averaged over objects that are seen.

    Args:
        masks: (1, O, H, W) in 0..1.

    Returns:
        0 where no object is seen.
    """
    inside = masks > 0.5
    area = inside.sum(dim=(-2, -1))
    sure = (masks * inside).sum(dim=(-2, -1)) / area.clamp(min=1)
    return float(sure.sum() / (area > 0).sum().clamp(min=1))
