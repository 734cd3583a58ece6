"""Confidence of a prediction in each object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Confidence(NamedTuple):
    """Two numbers in 0..1; both are 0 where the object is nowhere the likeliest label, 1 for a given mask.

    Attributes:
        inside: the mean probability over the object's mask, which is where it is the likeliest label. It
            stays high while a small part of the object is seen clearly.
        score: the mask's expected overlap J with the object, were the probabilities right and the pixels
            independent: the probability inside the mask over the mask's area plus the probability outside
            of it. It is also low where much of the object's probability lies outside the mask: the object
            is torn, half lost or confused with another. The network's `score_exponent` calibrates it.
    """

    inside: float
    score: float


def object_confidences(
    probabilities: Tensor, object_ids: Sequence[int], exponent: float = 1.0
) -> dict[int, Confidence]:
    """Compute object id -> confidence from probabilities (O + 1, H, W), background first; synchronizes."""
    return confidences_from_sums(mask_sums(probabilities), object_ids, exponent)


def mask_sums(probabilities: Tensor, likeliest: Tensor | None = None) -> Tensor:
    """Compute the sums from which confidences follow, without synchronizing a GPU.

    Args:
        probabilities: (O + 1, H, W), background first.
        likeliest: (H, W), the likeliest channel of each pixel, where it is known already.

    Returns:
        (O, 3): the probability inside the object's mask, the probability everywhere, and the mask's area in
        pixels.
    """
    p = probabilities.float()
    if likeliest is None:
        likeliest = p.max(0).indices  # argmax(0) gives the same 10 times as slowly on a CPU
    sums = []
    for slot in range(1, len(p)):
        mask = likeliest == slot
        sums.append(torch.stack([(p[slot] * mask).sum(), p[slot].sum(), mask.sum()]))
    return torch.stack(sums)


def confidences_from_sums(
    sums: Tensor, object_ids: Sequence[int], exponent: float = 1.0
) -> dict[int, Confidence]:
    """Compute object id -> confidence from the result of `mask_sums`; `exponent` is applied to `score`."""
    confidences = {}
    for label, (inside, everywhere, area) in zip(object_ids, sums.tolist(), strict=True):
        union = area + max(0.0, everywhere - inside)
        values = (min(1.0, inside / area), min(1.0, inside / union) ** exponent) if area else (0.0, 0.0)
        confidences[label] = Confidence(*values)
    return confidences
