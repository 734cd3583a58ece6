"""Prototypes: the most used cells of frames that were evicted (XMem)."""

from __future__ import annotations

import math

import torch

from stm.memory.kv_store import KeyValueStore


def consolidate(store: KeyValueStore, evicted: slice, count: int, max_count: int) -> int:
    """Keep the most used cells of an evicted frame and of the existing prototypes.

    A prototype keeps its cell's key. Its value is the mean of the frame's values, weighted by the similarity
    of their keys to its own ("potentiation").

    Args:
        store: the memory; its prototypes are overwritten.
        evicted: the cells of the frame.
        count: number of existing prototypes, which end at cell `max_count`.
        max_count: maximum number of prototypes.

    Returns:
        The new number of prototypes.
    """
    keys, values = store.keys[..., evicted], store.values[..., evicted]
    distance = torch.cdist(keys.mT, keys.mT).square() / math.sqrt(keys.shape[-2])
    smoothed = values @ torch.softmax(-distance, dim=-1).mT
    existing = slice(max_count - count, max_count)
    usage = torch.cat([store.usage(existing), store.usage(evicted)])
    chosen = usage.topk(min(max_count, len(usage))).indices
    parts = ((store.keys, keys), (store.values, smoothed), (store.metadata, store.metadata[:, evicted]))
    for stored, new in parts:
        kept = torch.cat([stored[..., existing], new], dim=-1)[..., chosen]
        stored[..., max_count - len(chosen) : max_count] = kept
    return len(chosen)
