"""Who leaves a memory that is full? One small function a rule; add one here and a file in `conf/memory/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class EvictionContext:
    """The frames in memory, in order of time, as a rule sees them.

    Attributes:
        t: their numbers.
        coming: the number of the frame that there is to be room for.
        free: indices of those that may leave; at least one.
        usage: how much the objects in each were looked at per frame since it came, recent frames counting
            more; 0 unless the policy counts it.
        looks: the objects' looks in each, (frames, O, C); nothing unless the policy compares them.
    """

    t: Sequence[int]
    coming: int
    free: Sequence[int]
    usage: Sequence[float]
    looks: Tensor | None


def oldest(held: EvictionContext) -> int:
    """First in, first out (Cutie, with a permanent first frame)."""
    return held.free[0]


def least_used(held: EvictionContext) -> int:
    """The one whose objects are looked at least, per frame since it came (after AFB-URR and XMem)."""
    return min(held.free, key=lambda i: held.usage[i])


def most_redundant_in_time(held: EvictionContext) -> int:
    """The one whose neighbors in time are closest: what stays is spread over the past, dense or not.

    The past of a stream is halved in density again and again, as the length is not known.
    """
    t = [held.t[0], *held.t, held.coming]
    return min(held.free, key=lambda i: t[i + 2] - t[i])


def most_similar(held: EvictionContext) -> int:
    """The one whose objects look most as they do in another: what stays shows as many looks as it can."""
    assert held.looks is not None
    alike = descriptor_similarity(held.looks[:, None], held.looks[None])
    alike.fill_diagonal_(-torch.inf)
    nearest = alike.amax(dim=1).tolist()
    return max(held.free, key=lambda i: nearest[i])


def descriptor_similarity(look: Tensor, others: Tensor) -> Tensor:
    """How much of what a frame shows is shown by others? Mean cosine over the objects seen in it, -1..1.

    Args:
        look: (..., O, C), each object's mean key; 0 where it isn't seen.
        others: the same, broadcast against it.

    Returns:
        (...); 1 for a frame that shows no object.
    """
    seen = look.abs().amax(-1) > 0
    cosine = F.cosine_similarity(look, others, dim=-1) * seen
    return torch.where(seen.any(-1), cosine.sum(-1) / seen.sum(-1).clamp(min=1), 1.0)


EVICTION_RULES: dict[str, Callable[[EvictionContext], int]] = {
    "oldest": oldest,
    "least_used": least_used,
    "most_redundant_in_time": most_redundant_in_time,
    "most_similar": most_similar,
}
