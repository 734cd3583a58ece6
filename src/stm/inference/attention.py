"""Attention over the memory, as in figure 5 of the paper.

Shape suffixes as in `stm.network.memory_read`: K key channels, N memory cells, Q query cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stm.inference.bank_reading import spatial_prior
from stm.inference.pending_frame import PendingFrame
from stm.memory import MemoryBank
from stm.network.memory_read import ATTENTION_CHUNK, SpatialPrior, read_weights
from stm.network.padding import crop, pad

At = tuple[int, int] | np.ndarray | Tensor


@dataclass(frozen=True)
class Attention:
    """The mean attention of some cells of a frame over the memory; all weights sum to 1.

    Attributes:
        maps: memory frame -> (h, w), the weight of each of its cells, in order of time.
        prototypes: (P,), the weights of cells kept from evicted frames.
    """

    maps: dict[int, Tensor]
    prototypes: Tensor

    @property
    def shares(self) -> dict[int, float]:
        """The share of each memory frame in what was read, 0..1."""
        return {t: float(weights.sum()) for t, weights in self.maps.items()}


def object_attention(
    bank: MemoryBank,
    index: int,
    frame: PendingFrame,
    at: At | None,
    similarity: str,
) -> Attention:
    """Return where in memory the cells of a frame read for one object.

    Args:
        bank: the memory of the object's group.
        index: the object's place in that group.
        frame: the frame that was segmented last.
        at: see `Segmenter.attention`.
        similarity: the network's.
    """
    keys, query = bank.read()[0], frame.query.key
    channel = min(index, keys.shape[1] - 1)  # or all objects share their keys
    region = frame_region(at, frame.shape, frame.network_shape)
    weights = query_weights(region, frame.network_shape, (query.shape[-2], query.shape[-1]), query.device)
    top_k, prior = bank.policy.top_k, spatial_prior(bank, frame.t, query)
    with torch.no_grad():
        return mean_attention(
            keys[0, channel], query[0].flatten(1), weights, bank.layout(), similarity, top_k, prior
        )


def mean_attention(
    keys_KN: Tensor,
    query_KQ: Tensor,
    weights_Q: Tensor,
    layout: Sequence[tuple[int, slice, tuple[int, int]]],
    kind: str,
    top_k: int | None,
    prior: SpatialPrior | None,
) -> Attention:
    """Compute the mean of the read's weights over query cells.

    Args:
        keys_KN: memory keys.
        query_KQ: query keys.
        weights_Q: how much each query cell counts; their sum is 1.
        layout: see `MemoryBank.layout`.
        kind: the network's similarity.
        top_k: see `stm.network.memory_read.read_weights`.
        prior: see `stm.network.memory_read.read_weights`.
    """
    cells = weights_Q.nonzero().flatten()
    chunk = max(1, ATTENTION_CHUNK.get(keys_KN.device.type, ATTENTION_CHUNK["cpu"]) // keys_KN.shape[-1])
    mean_N = torch.zeros(keys_KN.shape[-1], device=keys_KN.device)
    for part in cells.split(chunk):
        part_prior = None if prior is None else prior._replace(query_Q2=prior.query_Q2[part])
        weights_NQ = read_weights(keys_KN[None, None], query_KQ[None, :, part], kind, top_k, part_prior)[0, 0]
        mean_N += weights_NQ.float() @ weights_Q[part]
    maps = {t: mean_N[place].unflatten(0, size) for t, place, size in layout}
    return Attention(maps, mean_N[: len(mean_N) - sum(weights.numel() for weights in maps.values())])


def query_weights(
    at: At | None, size: tuple[int, int], cells: tuple[int, int], device: torch.device
) -> Tensor:
    """Compute how much each query cell counts, (h * w,) with sum 1.

    Args:
        at: a pixel (row, column) of the frame, a region (H, W) of it, or None for all of it.
        size: the frame's (H, W).
        cells: (h, w) of the query.
        device: of the result.

    Raises:
        ValueError: the pixel lies outside, or the region is of another size or empty.
    """
    if isinstance(at, tuple):
        row, column = at
        if not (0 <= row < size[0] and 0 <= column < size[1]):
            raise ValueError(f"at={at}: a pixel is (row, column) within {size}")
        region = torch.zeros(size, device=device)
        region[row, column] = 1
    elif at is None:
        region = torch.ones(size, device=device)
    else:
        region = torch.as_tensor(at).to(device, torch.float32)
        if region.shape != size or not region.any():
            raise ValueError(f"at: a region must be (H, W) = {size} and not empty; got {tuple(region.shape)}")
    covered = F.adaptive_avg_pool2d(pad(region[None, None]), cells).flatten()
    return covered / covered.sum()


def frame_region(at: At | None, shape: tuple[int, int], seen: tuple[int, int]) -> At | None:
    """Map a pixel or region of a frame of size `shape` to the size `seen` at which the network sees it.

    Raises:
        ValueError: the pixel lies outside the frame, or the region has another size.
    """
    if at is None or shape == seen:
        return at
    if isinstance(at, tuple):
        row, column = at
        if not (0 <= row < shape[0] and 0 <= column < shape[1]):
            raise ValueError(f"at={at}: a pixel is (row, column) within {shape}")
        return row * seen[0] // shape[0], column * seen[1] // shape[1]
    region = torch.as_tensor(at).float()
    if tuple(region.shape) != shape or not region.any():
        raise ValueError(f"at: a region must be (H, W) = {shape} and not empty; got {tuple(region.shape)}")
    return F.adaptive_avg_pool2d(region[None, None], seen)[0, 0]


def upsample_map(weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge a map (h, w) of a frame's cells to its pixels (H, W); each pixel takes its cell's weight."""
    padded = [side + -side % 16 for side in size]
    return crop(F.interpolate(weights[None, None], padded, mode="nearest"), size)[0, 0]
