"""Section 3.2: the space-time memory read, equations 1 and 2.

Shape suffixes: B clips, O objects, K key channels, V value channels, N memory cells (T * h * w), Q query
cells (h * w). G is O, or 1 where all objects share their keys.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIMILARITIES = ("dot", "scaled_dot", "l2")
AT_ONCE = 2**24
"""Weights computed at once without gradients: 64 MB, where 60 frames at 480p have 640 MB an object."""


def similarity(keys_BGKN: Tensor, query_BKQ: Tensor, kind: str) -> Tensor:
    """How alike is each memory cell to each query cell? The logarithm of f in equation 2, (B, G, N, Q).

    Args:
        kind: 'dot' is equation 2 as printed; 'scaled_dot' divides by sqrt(K), as the published code; 'l2' is
            the negative squared distance over sqrt(K) (STCN), without the query's own norm, which cancels
            in the softmax.
    """
    dot = keys_BGKN.transpose(-1, -2) @ query_BKQ[:, None]
    if kind == "dot":
        return dot
    if kind == "scaled_dot":
        return dot / math.sqrt(keys_BGKN.shape[-2])
    if kind == "l2":
        norm_BGN1 = keys_BGKN.square().sum(-2)[..., None]
        return (2 * dot - norm_BGN1) / math.sqrt(keys_BGKN.shape[-2])
    raise ValueError(f"similarity={kind!r} is unknown; available: {', '.join(SIMILARITIES)}")


def read_weights(keys_BGKN: Tensor, query_BKQ: Tensor, kind: str) -> Tensor:
    """Which memory cells does each query cell look at? Weights (B, G, N, Q) that sum to 1 over the memory."""
    return torch.softmax(similarity(keys_BGKN, query_BKQ, kind), dim=-2)


def read(keys_BGKN: Tensor, values_BOVN: Tensor, query_BKQ: Tensor, kind: str) -> Tensor:
    """What does the memory say at each query cell? The weighted sum of equation 1, (B, O, V, Q).

    Without gradients a large memory is read a part of the query cells at a time, which changes no value.
    """
    cells = query_BKQ.shape[-1]
    part = max(1, AT_ONCE // (keys_BGKN[:, :, 0].numel()))
    if part < cells and not torch.is_grad_enabled():
        parts = [read(keys_BGKN, values_BOVN, some, kind) for some in query_BKQ.split(part, dim=-1)]
        return torch.cat(parts, dim=-1)
    weights_BGNQ = read_weights(keys_BGKN, query_BKQ, kind)
    if weights_BGNQ.shape[1] == 1:  # one affinity for all objects
        objects = values_BOVN.shape[1]
        return (values_BOVN.flatten(1, 2) @ weights_BGNQ[:, 0]).unflatten(1, (objects, -1))
    return values_BOVN @ weights_BGNQ
