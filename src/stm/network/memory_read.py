"""The space-time memory read (section 3.2, equations 1 and 2).

Shape suffixes: B clips, O objects, K key channels, V value channels, N memory cells (T * h * w), Q query
cells (h * w). G is O, or 1 if all objects share their keys.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SIMILARITIES = ("dot", "scaled_dot", "l2")
ATTENTION_CHUNK = {"cpu": 2**22, "cuda": 2**27}
"""Maximum number of weights computed at once without gradients, by device type.

16 MB fit about a CPU's cache, while all weights of 60 frames at 480p take 640 MB per object. GPU kernels need
large matrices, hence 512 MB."""


class SpatialPrior(NamedTuple):
    """Gaussian prior on the distance between memory and query cells.

    Attributes:
        memory_N2: positions of the memory cells, in any unit of length.
        variance_N: variance of the motion since each memory cell's frame, in that unit squared.
        query_Q2: positions of the query cells.
    """

    memory_N2: Tensor
    variance_N: Tensor
    query_Q2: Tensor


def similarity(keys_BGKN: Tensor, query_BKQ: Tensor, kind: str) -> Tensor:
    """Compute the log-similarity between memory and query cells (log f in equation 2).

    Args:
        keys_BGKN: memory keys.
        query_BKQ: query keys.
        kind: 'dot' is equation 2 as printed; 'scaled_dot' divides by sqrt(K), as in the published code; 'l2'
            is the negative squared distance over sqrt(K) (STCN), without the query's own norm, which cancels
            in the softmax.

    Returns:
        (B, G, N, Q).

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"similarity={kind}: must be one of {', '.join(SIMILARITIES)}")
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
    prior: SpatialPrior | None = None,
) -> Tensor:
    """Compute the attention of query cells on memory cells, the softmax of equation 1.

    Args:
        keys_BGKN: memory keys.
        query_BKQ: query keys.
        kind: see `similarity`.
        top_k: each query cell reads only its k most similar memory cells (Mask-Propagation), and any that
            tie with the last of them.
        prior: weighting of memory cells by their distance.

    Returns:
        (B, G, N, Q), with sum 1 over the memory cells.
    """
    logits = similarity(keys_BGKN, query_BKQ, kind)
    if prior is not None:
        distance_NQ = torch.cdist(
            prior.memory_N2, prior.query_Q2, compute_mode="donot_use_mm_for_euclid_dist"
        )
        logits = logits - distance_NQ.square_() / (2 * prior.variance_N[:, None])
    if top_k is not None and top_k < logits.shape[-2]:
        threshold = logits.topk(top_k, dim=-2, sorted=True).values[..., -1:, :]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
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
    prior: SpatialPrior | None = None,
) -> Tensor:
    """Read the memory: attention-weighted sum of values (equation 1).

    Without gradients, a large memory is read by chunks of query cells, which does not change the result.

    Args:
        keys_BGKN: memory keys.
        values_BOVN: memory values.
        query_BKQ: query keys.
        kind: see `similarity`.
        top_k: see `read_weights`.
        mass_BGN: if given, the attention on each memory cell, summed over the query cells, is added in place.
        prior: see `read_weights`.

    Returns:
        (B, O, V, Q).
    """
    cells = query_BKQ.shape[-1]
    max_weights = ATTENTION_CHUNK.get(query_BKQ.device.type, ATTENTION_CHUNK["cpu"])
    step = cells if torch.is_grad_enabled() else max(1, max_weights // max(1, keys_BGKN[:, :, 0].numel()))
    readout = []
    for start in range(0, cells, step):
        chunk = slice(start, start + step)
        chunk_prior = None if prior is None else prior._replace(query_Q2=prior.query_Q2[chunk])
        weights_BGNQ = read_weights(keys_BGKN, query_BKQ[..., chunk], kind, top_k, chunk_prior)
        if mass_BGN is not None:
            mass_BGN += weights_BGNQ.sum(-1)
        if weights_BGNQ.shape[1] == 1:  # one attention matrix for all objects
            objects = values_BOVN.shape[1]
            read_BOVQ = (values_BOVN.flatten(1, 2) @ weights_BGNQ[:, 0]).unflatten(1, (objects, -1))
        else:
            read_BOVQ = values_BOVN @ weights_BGNQ
        readout.append(read_BOVQ)
    return torch.cat(readout, dim=-1) if len(readout) > 1 else readout[0]
