"""Reading of a memory bank as its policy says."""

from __future__ import annotations

import torch
from torch import Tensor

from stm.memory import MemoryBank
from stm.memory.kv_store import cell_centers
from stm.network import STM
from stm.network.encoders import Query
from stm.network.memory_read import SpatialPrior


def read_bank(network: STM, query: Query, bank: MemoryBank, t: int, counts_usage: bool) -> Tensor:
    """Read a bank's memory for frame t.

    Args:
        network: computes the read.
        query: the frame's.
        bank: of objects that share their memory frames.
        t: number of the frame.
        counts_usage: whether the attention counts as use of the memory, for policies that depend on it.

    Returns:
        (B, O, C_v, h, w).
    """
    keys, values = bank.read()
    mass = None
    if bank.policy.counts_usage and counts_usage:
        mass = keys.new_zeros((*keys.shape[:2], keys.shape[-1]), dtype=torch.float32)
    readout = network.read(query, keys, values, bank.policy.top_k, mass, spatial_prior(bank, t, query.key))
    if mass is not None:
        bank.update_usage(mass)
    return readout


def spatial_prior(bank: MemoryBank, t: int, query: Tensor) -> SpatialPrior | None:
    """Return the prior of the bank's policy for the query key (B, C_k, h, w) of frame t, if it has one."""
    if bank.policy.motion_sigma is None:
        return None
    positions, variance = bank.cell_positions(t)
    return SpatialPrior(positions, variance, cell_centers(query.shape[-2:], query.device))
