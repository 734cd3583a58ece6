"""Eviction rules for a full memory, one function per rule.

A new rule is a function here with an entry in `EVICTION_RULES`, and a file in `conf/memory/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stm.memory.descriptors import appearance_similarity


@dataclass(frozen=True)
class EvictionContext:
    """Frames in memory, in temporal order, as seen by an eviction rule.

    Attributes:
        frame_ids: frame numbers.
        next_id: number of the frame to make room for.
        candidates: indices of the frames that may be evicted; at least one.
        usage: mean attention per frame on the objects in each frame since it was written, recent frames
            weighted more; 0 unless the policy counts usage.
        appearances: (frames, O, C), the objects' mean keys; None unless the policy compares appearances.
    """

    frame_ids: Sequence[int]
    next_id: int
    candidates: Sequence[int]
    usage: Sequence[float]
    appearances: Tensor | None


def oldest(context: EvictionContext) -> int:
    """Evict first in, first out (Cutie, with a permanent first frame)."""
    return context.candidates[0]


def least_used(context: EvictionContext) -> int:
    """Evict the frame whose objects received the least attention per frame (after AFB-URR and XMem)."""
    return min(context.candidates, key=lambda i: context.usage[i])


def most_redundant_in_time(context: EvictionContext) -> int:
    """Evict the frame whose neighbors in time are closest, which spreads the kept frames over the past.

    Since the length of a stream is unknown, the density of the past is halved again and again.
    """
    t = [context.frame_ids[0], *context.frame_ids, context.next_id]
    return min(context.candidates, key=lambda i: t[i + 2] - t[i])


def most_similar(context: EvictionContext) -> int:
    """Evict the frame whose objects are most similar to those of another, which keeps varied appearances."""
    assert context.appearances is not None
    similarity = appearance_similarity(context.appearances[:, None], context.appearances[None])
    similarity.fill_diagonal_(-torch.inf)
    nearest = similarity.amax(dim=1).tolist()
    return max(context.candidates, key=lambda i: nearest[i])


EVICTION_RULES: dict[str, Callable[[EvictionContext], int]] = {
    "oldest": oldest,
    "least_used": least_used,
    "most_redundant_in_time": most_redundant_in_time,
    "most_similar": most_similar,
}
