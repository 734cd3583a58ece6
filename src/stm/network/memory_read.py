"""The space-time memory read (section 3.2, equations 1 and 2).

Shape suffixes: B clips, O objects, K key channels, V value channels, N memory cells (T * h * w), Q query
cells (h * w). G is O, or 1 if all objects share their keys.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stm.network.blocks import at_least_float32

SIMILARITIES = ("dot", "scaled_dot", "l2", "anisotropic_l2")
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


def stored_channels(key_channels: int, kind: str) -> int:
    """Return the channels of a key with what the similarity needs beside it.

    For 'anisotropic_l2' these are the key, its shrinkage (1 channel) and its selection (as many as the key).
    """
    return 2 * key_channels + 1 if kind == "anisotropic_l2" else key_channels


def split_key(keys: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split the keys of 'anisotropic_l2' into key, shrinkage and selection along a dimension."""
    channels = keys.shape[dim] // 2
    key, shrinkage, selection = keys.split([channels, 1, channels], dim=dim)
    return key, shrinkage, selection


def activate_key(projection: Tensor, kind: str) -> Tensor:
    """Return the key of a projection (B, stored channels, h, w).

    For 'anisotropic_l2', shrinkage is x^2 + 1 and selection sigmoid(x) (XMem).
    """
    if kind != "anisotropic_l2":
        return projection
    key, shrinkage, selection = split_key(projection, dim=1)
    return torch.cat([key, shrinkage.square() + 1, torch.sigmoid(selection)], dim=1)


def similarity(keys_BGKN: Tensor, query_BKQ: Tensor, kind: str) -> Tensor:
    """Compute the log-similarity between memory and query cells (log f in equation 2).

    Each kind is a dot product of two embeddings, one of the memory's keys m and one of the query's keys q.

    Args:
        keys_BGKN: memory keys.
        query_BKQ: query keys.
        kind: 'dot' is equation 2 as printed; 'scaled_dot' divides by sqrt(K), as in the published code; 'l2'
            is the negative squared distance over sqrt(K) (STCN), without the query's own norm, which cancels
            in the softmax; 'anisotropic_l2' weights the channels of the squared distance by the query's
            selection e, and the whole by the memory's shrinkage s (XMem). K then counts all stored channels.

    Returns:
        (B, G, N, Q).

    Raises:
        ValueError: an unknown kind.
    """
    return _logits(*_embed(keys_BGKN, query_BKQ, kind)).mT


def _embed(keys_BGKN: Tensor, query_BKQ: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return embeddings (B, G, E, N) and (B, E, Q) whose dot product is the log-similarity.

    Distances are small differences of large numbers, so they are embedded in float32 at least.
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"similarity={kind}: must be one of {', '.join(SIMILARITIES)}")
    if kind == "dot":
        return keys_BGKN, query_BKQ
    if kind == "scaled_dot":
        return keys_BGKN, query_BKQ / math.sqrt(query_BKQ.shape[1])
    keys_BGKN, query_BKQ = at_least_float32(keys_BGKN), at_least_float32(query_BKQ)
    if kind == "l2":
        memory_BGEN = torch.cat([keys_BGKN, keys_BGKN.square().sum(-2, keepdim=True)], dim=-2)
        embedded_BEQ = torch.cat([2 * query_BKQ, -torch.ones_like(query_BKQ[:, :1])], dim=1)
        return memory_BGEN, embedded_BEQ / math.sqrt(query_BKQ.shape[1])
    m, s, _ = split_key(keys_BGKN, dim=-2)
    q, _, e = split_key(query_BKQ, dim=1)
    memory_BGEN = torch.cat([2 * m * s, -m.square() * s, -s], dim=-2)
    embedded_BEQ = torch.cat([q * e, e, (e * q.square()).sum(1, keepdim=True)], dim=1)
    return memory_BGEN, embedded_BEQ / math.sqrt(q.shape[1])


def _logits(memory_BGEN: Tensor, embedded_BEQ: Tensor, prior: SpatialPrior | None = None) -> Tensor:
    """Return the log-similarity of embedded keys, (B, G, Q, N), with the spatial prior."""
    with torch.autocast(memory_BGEN.device.type, enabled=False):
        logits_BGQN = embedded_BEQ[:, None].mT @ memory_BGEN
    if prior is None:
        return logits_BGQN
    distance_QN = torch.cdist(prior.query_Q2, prior.memory_N2, compute_mode="donot_use_mm_for_euclid_dist")
    return logits_BGQN - distance_QN.square_() / (2 * prior.variance_N)


def _softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last dimension, in place without gradients."""
    if torch.is_grad_enabled():
        return torch.softmax(logits, dim=-1)
    return torch.softmax(logits, dim=-1, out=logits)


def _top_k(logits_BGQN: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return the k most similar memory cells of each query cell and their weights, both (B, G, Q, k)."""
    top, cells = logits_BGQN.topk(top_k, dim=-1, sorted=False)
    return cells, torch.softmax(top, dim=-1)


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
        top_k: each query cell reads exactly its k most similar memory cells (Mask-Propagation); the memory
            may hold fewer.
        prior: weighting of memory cells by their distance.

    Returns:
        (B, G, N, Q), with sum 1 over the memory cells.
    """
    logits_BGQN = _logits(*_embed(keys_BGKN, query_BKQ, kind), prior)
    if top_k is None or top_k >= logits_BGQN.shape[-1]:
        return _softmax(logits_BGQN).mT
    cells, weights = _top_k(logits_BGQN, top_k)
    return torch.zeros_like(logits_BGQN).scatter(-1, cells, weights).mT


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
    memory_BGEN, embedded_BEQ = _embed(keys_BGKN, query_BKQ, kind)
    readout = []
    for start in range(0, cells, step):
        chunk = slice(start, start + step)
        chunk_prior = None if prior is None else prior._replace(query_Q2=prior.query_Q2[chunk])
        logits_BGQN = _logits(memory_BGEN, embedded_BEQ[..., chunk], chunk_prior)
        if top_k is None or top_k >= logits_BGQN.shape[-1]:
            readout.append(_read_all(logits_BGQN, values_BOVN, mass_BGN))
        else:
            readout.append(_read_top_k(logits_BGQN, values_BOVN, top_k, mass_BGN))
    return torch.cat(readout, dim=-1) if len(readout) > 1 else readout[0]


def _read_all(logits_BGQN: Tensor, values_BOVN: Tensor, mass_BGN: Tensor | None) -> Tensor:
    """Read all memory cells, (B, O, V, Q)."""
    weights_BGQN = _softmax(logits_BGQN)
    if mass_BGN is not None:
        mass_BGN += weights_BGQN.sum(-2)
    weights_BGNQ = weights_BGQN.mT.to(values_BOVN.dtype)
    if weights_BGNQ.shape[1] == 1:  # one attention matrix for all objects
        read_BXQ = values_BOVN.flatten(1, 2) @ weights_BGNQ[:, 0]
        return read_BXQ.unflatten(1, values_BOVN.shape[1:3])
    return values_BOVN @ weights_BGNQ


def _read_top_k(logits_BGQN: Tensor, values_BOVN: Tensor, top_k: int, mass_BGN: Tensor | None) -> Tensor:
    """Read the k most similar memory cells, (B, O, V, Q), without a matrix of weights.

    Values are fastest to read if each cell's channels are adjacent in memory.
    """
    cells_BGQk, weights_BGQk = _top_k(logits_BGQN, top_k)
    if mass_BGN is not None:
        mass_BGN.scatter_add_(-1, cells_BGQk.flatten(2), weights_BGQk.flatten(2).to(mass_BGN.dtype))
    batch, objects = values_BOVN.shape[:2]
    groups = cells_BGQk.shape[1]
    read = [
        F.embedding_bag(
            cells_BGQk[b, o % groups],
            values_BOVN[b, o].mT,
            per_sample_weights=weights_BGQk[b, o % groups].to(values_BOVN.dtype),
            mode="sum",
        )
        for b in range(batch)
        for o in range(objects)
    ]
    return torch.stack(read).mT.unflatten(0, (batch, objects))


def potentiate(keys_BGKN: Tensor, values_BOVN: Tensor, chosen_P: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return some memory cells with their values, and shrinkage, read from all cells (XMem).

    The read is a full softmax with the keys of the chosen cells as queries.

    Args:
        keys_BGKN: memory keys.
        values_BOVN: memory values.
        chosen_P: indices of the chosen cells.
        kind: see `similarity`.

    Returns:
        Keys (B, G, K, P) and values (B, O, V, P).
    """
    chosen_BGKP = keys_BGKN[..., chosen_P]
    groups = keys_BGKN.shape[1]
    weights_BGNP = torch.cat(
        [read_weights(keys_BGKN[:, [g]], chosen_BGKP[:, g], kind) for g in range(groups)], dim=1
    )
    if kind == "anisotropic_l2":
        key, _, selection = split_key(chosen_BGKP, dim=-2)
        shrinkage = split_key(keys_BGKN, dim=-2)[1] @ weights_BGNP.to(keys_BGKN.dtype)
        chosen_BGKP = torch.cat([key, shrinkage, selection], dim=-2)
    return chosen_BGKP, values_BOVN @ weights_BGNP.to(values_BOVN.dtype)
