"""How sure is a prediction of each object, and is the object lost?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Confidence(NamedTuple):
    """Two numbers in 0..1, both 0 where the object is the likeliest label nowhere; 1 for a given mask.

    Attributes:
        inside: the mean probability over the object's mask, which is where it is the likeliest label. It
            stays high while a small part of the object is seen clearly.
        score: the mask's expected overlap J with the object, were the probabilities right and the pixels
            independent: the probability inside the mask over the mask's area plus the probability outside
            of it. It is low as well where much of what may be the object lies outside of the mask: an
            object that is torn, half lost or taken by another.
    """

    inside: float
    score: float


def object_confidences(probabilities: Tensor, object_ids: Sequence[int]) -> dict[int, Confidence]:
    """Object id -> confidence, from probabilities (O + 1, H, W), background first; waits for a GPU."""
    return confidences_from_sums(mask_sums(probabilities), object_ids)


def mask_sums(probabilities: Tensor, likeliest: Tensor | None = None) -> Tensor:
    """Compute what `confidences_from_sums` needs of probabilities (O + 1, H, W), without synchronizing a GPU.

    Args:
        likeliest: (H, W), the likeliest channel of each pixel, where it is known already.

    Returns:
        Of each object the probability inside its mask, that everywhere, and the mask's area in pixels.
    """
    p = probabilities.float()
    if likeliest is None:
        likeliest = p.max(0).indices  # argmax(0) gives the same 10 times as slowly on a CPU
    sums = []
    for slot in range(1, len(p)):
        mask = likeliest == slot
        sums.append(torch.stack([(p[slot] * mask).sum(), p[slot].sum(), mask.sum()]))
    return torch.stack(sums)


def confidences_from_sums(sums: Tensor, object_ids: Sequence[int]) -> dict[int, Confidence]:
    """Object id -> confidence, from what `mask_sums` gave."""
    found = {}
    for label, (inside, everywhere, area) in zip(object_ids, sums.tolist(), strict=True):
        union = area + max(0.0, everywhere - inside)
        sure = (min(1.0, inside / area), min(1.0, inside / union)) if area else (0.0, 0.0)
        found[label] = Confidence(*sure)
    return found
