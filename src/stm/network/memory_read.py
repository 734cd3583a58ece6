"""Section 3.2: the space-time memory read, equations 1 and 2.

Shape suffixes: B clips, O objects, K key channels, V value channels, N memory cells (T * h * w), Q query
cells (h * w). G is O, or 1 where all objects share their keys.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SIMILARITIES = ("dot", "scaled_dot", "l2")
ATTENTION_CHUNK = {"cpu": 2**22, "cuda": 2**27}
"""Weights computed at once without gradients: 16 MB, about a CPU's cache, where 60 frames at 480p have 640 MB
an object; 512 MB on a GPU, whose kernels need large matrices."""


class SpatialPrior(NamedTuple):
    """How far is each query cell from each memory cell, and how far may things have moved?

    Attributes:
        memory_N2: where the memory cells lie, in any unit of length.
        variance_N: how far what they show may have moved since, squared.
        query_Q2: where the query cells lie.
    """

    memory_N2: Tensor
    variance_N: Tensor
    query_Q2: Tensor


def similarity(keys_BGKN: Tensor, query_BKQ: Tensor, kind: str) -> Tensor:
    """How alike is each memory cell to each query cell? The logarithm of f in equation 2, (B, G, N, Q).

    Args:
        kind: 'dot' is equation 2 as printed; 'scaled_dot' divides by sqrt(K), as the published code; 'l2' is
            the negative squared distance over sqrt(K) (STCN), without the query's own norm, which cancels
            in the softmax.
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"similarity={kind!r} is unknown; available: {', '.join(SIMILARITIES)}")
    if kind != "dot":
        query_BKQ = query_BKQ / math.sqrt(keys_BGKN.shape[-2])
    dot = keys_BGKN.transpose(-1, -2) @ query_BKQ[:, None]
    if kind != "l2":
        return dot
    norm_BGN1 = keys_BGKN.square().sum(-2)[..., None] / math.sqrt(keys_BGKN.shape[-2])
    return (2 * dot - norm_BGN1) if torch.is_grad_enabled() else dot.mul_(2).sub_(norm_BGN1)


def read_weights(
    keys_BGKN: Tensor,
    query_BKQ: Tensor,
    kind: str,
    top_k: int | None = None,
    near: SpatialPrior | None = None,
) -> Tensor:
    """Which memory cells does each query cell look at? Weights (B, G, N, Q) that sum to 1 over the memory.

    Args:
        top_k: each query cell looks at so many of the likest cells only (Mask-Propagation); cells as like
            as the last of them count too.
        near: memory cells count less the farther away they lie.
    """
    logits = similarity(keys_BGKN, query_BKQ, kind)
    if near is not None:
        apart_NQ = torch.cdist(near.memory_N2, near.query_Q2, compute_mode="donot_use_mm_for_euclid_dist")
        logits = logits - apart_NQ.square_() / (2 * near.variance_N[:, None])
    if top_k is not None and top_k < logits.shape[-2]:
        last = logits.topk(top_k, dim=-2, sorted=True).values[..., -1:, :]
        logits = logits.masked_fill(logits < last, float("-inf"))
    if torch.is_grad_enabled():
        return torch.softmax(logits, dim=-2)
    return torch.softmax(logits, dim=-2, out=logits)


def read_memory(
    keys_BGKN: Tensor,
    values_BOVN: Tensor,
    query_BKQ: Tensor,
    kind: str,
    top_k: int | None = None,
    mass_BGN: Tensor | None = None,
    near: SpatialPrior | None = None,
) -> Tensor:
    """What does the memory say at each query cell? The weighted sum of equation 1, (B, O, V, Q).

    Without gradients a large memory is read a part of the query cells at a time, which changes no value.

    Args:
        top_k: see `read_weights`.
        mass_BGN: where given, each memory cell's weights, summed over the query cells, are added to it.
        near: where given, memory cells count less the farther away they lie.
    """
    cells = query_BKQ.shape[-1]
    at_once = ATTENTION_CHUNK.get(query_BKQ.device.type, ATTENTION_CHUNK["cpu"])
    part = cells if torch.is_grad_enabled() else max(1, at_once // max(1, keys_BGKN[:, :, 0].numel()))
    readout = []
    for begin in range(0, cells, part):
        some = slice(begin, begin + part)
        near_some = None if near is None else near._replace(query_Q2=near.query_Q2[some])
        weights_BGNQ = read_weights(keys_BGKN, query_BKQ[..., some], kind, top_k, near_some)
        if mass_BGN is not None:
            mass_BGN += weights_BGNQ.sum(-1)
        if weights_BGNQ.shape[1] == 1:  # one affinity for all objects
            objects = values_BOVN.shape[1]
            read_BOVQ = (values_BOVN.flatten(1, 2) @ weights_BGNQ[:, 0]).unflatten(1, (objects, -1))
        else:
            read_BOVQ = values_BOVN @ weights_BGNQ
        readout.append(read_BOVQ)
    return torch.cat(readout, dim=-1) if len(readout) > 1 else readout[0]
