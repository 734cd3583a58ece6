"""The objects of a video and what is remembered of each."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stm.inference.inputs import MaskLike, to_labels, to_slots
from stm.inference.object_groups import (
    ObjectGroup,
    PendingFrame,
    drop_channel,
    remove_slot,
    select_slots,
    split_groups,
)
from stm.inference.state_io import check_state_matches
from stm.masks import object_ids
from stm.memory import MemoryBank, MemoryPolicy
from stm.memory.policy import MEGABYTE
from stm.network import STM


class MaskPrompt(NamedTuple):
    """Masks (B, O, H, W) of 0 and 1, a channel a slot; the slots that they tell of, and those told absent."""

    masks: Tensor
    told: frozenset[int]
    absent: frozenset[int] = frozenset()


class ObjectManager:
    """Which objects are known, and their memories.

    Attributes:
        ids: slot -> object id, in order of entry.
        groups: which objects share their memory frames.
        present: bool (B, O), False for slots that pad a batch.
    """

    def __init__(self, policy: MemoryPolicy, length: int | None) -> None:
        self.policy, self.length = policy, length
        self.ids: list[int] = []
        self.groups: list[ObjectGroup] = []
        self.present: Tensor | None = None

    @property
    def bytes(self) -> int:
        """What the keys and values in memory take."""
        return sum(group.bank.bytes for group in self.groups)

    def give(self, given: MaskPrompt, predicted: Tensor | None) -> Tensor:
        """Put given masks over what was predicted: theirs there, and nowhere else."""
        masks = given.masks
        told = masks.flatten(2).any(-1)  # (B, O)
        for slot in given.absent:
            told[:, slot] = True
        known = 0 if predicted is None else predicted.shape[1] - 1
        if self.policy.first:  # the frame stays for those that it tells of alone
            self.groups = split_groups(self.groups, given.told)
        if known < masks.shape[1]:
            bank = MemoryBank(self.policy, self.length)
            self.groups.append(ObjectGroup(bank, list(range(known, masks.shape[1]))))
        if predicted is None or self.present is None:
            objects, self.present = masks, told
        else:
            entering = masks.shape[1] - known
            self.present = torch.cat([self.present, told[:, known:]], dim=1)
            objects = torch.cat([predicted[:, 1:], predicted.new_zeros(masks[:, :entering].shape)], dim=1)
            claimed = masks.any(1, keepdim=True)
            objects = torch.where(told[..., None, None], masks, objects * ~claimed)
        return with_background(objects)

    def given(
        self, mask: MaskLike | None, frames: Tensor, batched: bool, absent: Collection[int] = ()
    ) -> MaskPrompt:
        """Any accepted mask -> a channel an object, and the slots it tells of; new objects are known then.

        Raises:
            ValueError: the mask is of the wrong shape, type or range; an absent object is unknown or shown.
        """
        if batched:
            masks = to_slots(torch.as_tensor(mask), frames, len(self.ids), self.present)
            self.ids = list(range(1, masks.shape[1] + 1))
            return MaskPrompt(masks, frozenset(range(masks.shape[1])))
        size = (frames.shape[-2], frames.shape[-1])
        labels = np.zeros(size, np.uint8) if mask is None else to_labels(mask, size)
        found = object_ids(labels)
        if not found and not self.ids:
            raise ValueError("mask: it holds no object (labels 1..254), so there is nothing to segment")
        gone = frozenset(self.slot(label) for label in absent)
        if both := sorted(set(absent) & set(found)):
            raise ValueError(f"absent: the mask shows object {both[0]}")
        self.ids = [*self.ids, *(label for label in found if label not in self.ids)]
        ids = np.array(self.ids)[:, None, None]
        told = frozenset(slot for slot, label in enumerate(self.ids) if label in found)
        return MaskPrompt(torch.from_numpy(labels == ids)[None].to(frames), told | gone, gone)

    def slot(self, object_id: int) -> int:
        """The channel of an object.

        Raises:
            ValueError: there is no such object.
        """
        if object_id not in self.ids:
            raise ValueError(f"object {object_id} is not known; there are {self.ids}")
        return self.ids.index(object_id)

    def memorize(self, previous: PendingFrame, network: STM) -> None:
        """Write frame t - 1, its mask 'without thresholding' (section 3.5), where the policy wants it."""
        told = [not previous.told.isdisjoint(group.slots) for group in self.groups]
        if not any(
            group.bank.should_write(previous.t, given) for group, given in zip(self.groups, told, strict=True)
        ):
            return
        masks = previous.probabilities[:, 1:]
        key, value = network.memorize(previous.frame, masks, previous.query)
        room = self._room(key, value)
        for group, given in zip(self.groups, told, strict=True):
            if group.bank.should_write(previous.t, given):
                of_group = key if key.shape[1] == 1 else select_slots(key, group.slots)
                of_value, of_masks = select_slots(value, group.slots), select_slots(masks, group.slots)
                group.bank.write(previous.t, of_group, of_value, given, of_masks, room)

    def _room(self, key: Tensor, value: Tensor) -> int | None:
        """Frames that the policy has room for, each counted as the largest of those held and this one.

        Keys of the image alone are held by each group.
        """
        cells = math.prod(key.shape[-2:])
        keys = key.nbytes * (len(self.groups) if key.shape[1] == 1 < value.shape[1] else 1)
        cell = (keys + value.nbytes) // cells
        largest = max([cells, *(group.bank.largest for group in self.groups)])
        return self.policy.room(cell * largest, cell * self.policy.prototypes)

    def advice(self, t: int, size: Sequence[int]) -> str:
        """What to set so that a video fits into the memory of the device."""
        held = max((len(group.bank.frames) for group in self.groups), default=0)
        height, width = size
        megabytes = self.bytes / MEGABYTE
        where = (
            f"frame {t}: out of memory with {held} frames of {len(self.ids)} objects at "
            f"{height}x{width} in memory ({megabytes:.0f} MB). "
        )
        if held > 2 * self.policy.fewest:
            return where + (
                f"memory.max_mb={0.7 * megabytes:.0f} holds fewer frames in any policy; "
                f"memory.max_frames={held // 2} as well"
            )
        smaller = max(1, int(0.7 * min(height, width)))
        return where + (
            f"It is not the memory's frames that are too many: let the network see smaller frames, "
            f"as by benchmark.size={smaller} (stm track: --size {smaller})"
        )

    def remove(self, slot: int) -> None:
        """Forget an object."""
        del self.ids[slot]
        self.groups = remove_slot(self.groups, slot)
        if self.present is not None:
            self.present = drop_channel(self.present, slot)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values; `restore` takes them."""
        groups = [{"slots": group.slots, **group.bank.state()} for group in self.groups]
        return {"object_ids": self.ids, "groups": groups}

    def restore(self, state: dict[str, Any], network: STM) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: its parts don't fit each other, or the network.
        """
        self.ids = [int(label) for label in state["object_ids"]]
        for group in state["groups"]:
            slots = [int(slot) for slot in group["slots"]]
            if "keys" in group and not check_state_matches(
                group["keys"], group["values"], network, len(slots)
            ):
                raise ValueError("keys or values are of other shapes than the network's")
            self.groups.append(ObjectGroup(MemoryBank.restored(self.policy, self.length, group), slots))
        slots = sorted(slot for group in self.groups for slot in group.slots)
        if not slots or slots != list(range(len(set(self.ids)))):
            raise ValueError(f"objects {self.ids} in places {slots}")
        self.present = torch.ones((1, len(slots)), dtype=torch.bool, device=network.mean.device)


def with_background(objects: Tensor) -> Tensor:
    """Objects' probabilities (B, O, H, W) and, before them, what they leave."""
    return torch.cat([1 - objects.sum(1, keepdim=True).clamp(max=1), objects], dim=1)
