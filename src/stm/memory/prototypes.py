"""What stays of frames that leave a memory: their most looked at cells (XMem)."""

from __future__ import annotations

import math

import torch

from stm.memory.kv_store import KeyValueStore


def consolidate(cells: KeyValueStore, place: slice, earlier: int, most: int) -> int:
    """Keep the most looked at cells of a frame that leaves, beside or in place of earlier ones.

    A prototype keeps its cell's key; its value is the mean of the frame's values, weighted by how near
    their keys are to it ("potentiation").

    Args:
        place: where the frame lies.
        earlier: how many prototypes there are; they end at `most`.
        most: how many there may be.

    Returns:
        How many there are then.
    """
    keys, values = cells.keys[..., place], cells.values[..., place]
    apart = torch.cdist(keys.mT, keys.mT).square() / math.sqrt(keys.shape[-2])
    smooth = values @ torch.softmax(-apart, dim=-1).mT
    before = slice(most - earlier, most)
    usage = torch.cat([cells.usage(before), cells.usage(place)])
    chosen = usage.topk(min(most, len(usage))).indices
    parts = ((cells.keys, keys), (cells.values, smooth), (cells.notes, cells.notes[:, place]))
    for part, leaving in parts:
        kept = torch.cat([part[..., before], leaving], dim=-1)[..., chosen]
        part[..., most - len(chosen) : most] = kept
    return len(chosen)
