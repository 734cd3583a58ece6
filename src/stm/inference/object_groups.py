"""Groups of objects that share their memory frames, and their channels of a map."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stm.memory import MemoryBank


@dataclass(frozen=True)
class ObjectGroup:
    """Objects that entered together and were corrected together."""

    bank: MemoryBank
    slots: list[int]


def select_slots(maps: Tensor, slots: Sequence[int]) -> Tensor:
    """Return some objects' channels of (B, O, ...); a view where they are adjacent."""
    if list(slots) == list(range(slots[0], slots[-1] + 1)):
        return maps[:, slots[0] : slots[-1] + 1]
    return torch.stack([maps[:, slot] for slot in slots], dim=1)  # a list as an index would synchronize a GPU


def concatenate_groups(parts: Sequence[Tensor], groups: Sequence[ObjectGroup]) -> Tensor:
    """Join the maps of all groups, (B, O of the group, ...), to (B, O, ...) in the order of the slots."""
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
    order = [slot for group in groups for slot in group.slots]
    return select_slots(whole, [order.index(slot) for slot in range(len(order))])


def split_groups(groups: Sequence[ObjectGroup], slots: Collection[int]) -> list[ObjectGroup]:
    """Split groups so that the given slots and the others have memories of their own."""
    result = []
    for group in groups:
        parts = [[i for i, s in enumerate(group.slots) if (s in slots) == inside] for inside in (True, False)]
        if all(parts):
            result += [
                ObjectGroup(group.bank.select_objects(part), [group.slots[i] for i in part]) for part in parts
            ]
        else:
            result.append(group)
    return result


def remove_slot(groups: Sequence[ObjectGroup], slot: int) -> list[ObjectGroup]:
    """Return the groups without a slot; later slots move up."""
    result = []
    for group in groups:
        kept = [i for i, other in enumerate(group.slots) if other != slot]
        if kept:
            bank = group.bank if len(kept) == len(group.slots) else group.bank.select_objects(kept)
            result.append(ObjectGroup(bank, [group.slots[i] - (group.slots[i] > slot) for i in kept]))
    return result


def drop_channel(maps: Tensor, channel: int) -> Tensor:
    """Return maps (B, O, ...) without a channel."""
    return torch.cat([maps[:, :channel], maps[:, channel + 1 :]], dim=1)


def without_object(maps: Tensor | None, slot: int) -> Tensor | None:
    """Return maps (B, O, ...) without an object, if they have it."""
    return maps if maps is None or slot >= maps.shape[1] else drop_channel(maps, slot)
