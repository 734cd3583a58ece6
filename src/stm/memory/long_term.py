"""Long-term memory: frames of a full working memory become prototypes (XMem)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stm.memory.kv_store import READS, USAGE, KeyValueStore
from stm.memory.policy import MemoryPolicy

Potentiate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Keys, values and indices of chosen cells -> the chosen cells' keys and values, read from all cells."""


def consolidate_frames(
    store: KeyValueStore,
    prototypes: int,
    candidates: Sequence[slice],
    remaining: Sequence[slice],
    policy: MemoryPolicy,
    potentiate: Potentiate,
) -> int:
    """Replace frames by the prototypes of their cells with the most attention per read.

    If the long-term memory has no room for them, its least used prototypes are evicted first, with all that
    tie.

    Args:
        store: the memory, whose first cells are the prototypes; it then holds the prototypes and the
            remaining frames in order.
        prototypes: number of prototypes.
        candidates: the cells of the frames to replace.
        remaining: the cells of the other frames.
        policy: `num_prototypes` and `long_term`.
        potentiate: computes keys and values of prototypes.

    Returns:
        The new number of prototypes.
    """
    assert policy.long_term is not None
    index = torch.arange(len(store), device=store.metadata.device)
    held = index[:prototypes]
    excess = prototypes - (policy.long_term - policy.num_prototypes)
    if excess > 0:
        usage = store.attention_per_read(held)
        held = held[usage > usage.topk(excess, largest=False).values.max()]
    cells = torch.cat([index[frame] for frame in candidates])
    chosen = store.attention_per_read(cells).topk(min(policy.num_prototypes, len(cells))).indices
    keys, values = potentiate(store.keys[..., cells], store.values[..., cells], chosen)
    metadata = store.metadata[:, cells[chosen]]
    metadata[[USAGE, READS]] = 0
    rest = torch.cat([index[frame] for frame in remaining])
    store.replace_all(
        *(
            torch.cat([stored[..., held], new, stored[..., rest]], dim=-1)
            for stored, new in ((store.keys, keys), (store.values, values), (store.metadata, metadata))
        )
    )
    return len(held) + len(chosen)
