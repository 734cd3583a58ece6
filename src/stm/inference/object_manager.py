"""The objects of a video and their memories."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stm.inference.inputs import to_slots
from stm.inference.mask_prompt import MaskPrompt, with_background
from stm.inference.object_groups import (
    ObjectGroup,
    drop_channel,
    remove_slot,
    select_slots,
    split_groups,
    without_object,
)
from stm.inference.pending_frame import PendingFrame
from stm.inference.state_io import check_state_matches
from stm.masks import object_ids, void_label
from stm.memory import MemoryBank, MemoryPolicy
from stm.memory.long_term import Potentiate
from stm.memory.policy import MEGABYTE
from stm.network import STM
from stm.network.decoder import soft_aggregation
from stm.network.padding import pad


class ObjectManager:
    """The known objects and their memories.

    Attributes:
        ids: slot -> object id, in order of entry.
        groups: objects that share their memory frames.
        present: bool (B, O), False for slots that pad a batch.
        sensory: sensory memory (B, O', C, h, w) that the pending frame began with; objects that it lacks have
            an empty one. None in networks without one.
    """

    def __init__(self, policy: MemoryPolicy, length: int | None, network: STM) -> None:
        if not isinstance(policy, MemoryPolicy):
            raise ValueError(f"memory={policy!r}: must be a MemoryPolicy, such as MemoryPolicy(every=5)")
        self.policy, self.length, self.network = policy, length, network
        self.ids: list[int] = []
        self.groups: list[ObjectGroup] = []
        self.present: Tensor | None = None
        self.sensory: Tensor | None = None
        self._last_deep_update: int | None = None

    @property
    def bytes(self) -> int:
        """The size of all keys and values in memory, in bytes."""
        return sum(group.bank.bytes for group in self.groups)

    def apply_prompt(self, prompt: MaskPrompt, predicted: Tensor | None) -> Tensor:
        """Overwrite predictions with the given masks, and open a memory for objects that enter.

        Args:
            prompt: the given masks.
            predicted: (B, O' + 1, H', W'), probabilities of the objects known before, of the padded frame;
                None if there are none.

        Returns:
            Probabilities (B, O + 1, H', W') of the padded frame, background first.
        """
        masks, given = pad(prompt.masks), prompt.is_given
        known = 0 if predicted is None else predicted.shape[1] - 1
        if self.policy.first and self.policy.every_from == "start":
            # the frame stays in memory for the objects whose masks it alone has
            self.groups = split_groups(self.groups, prompt.slots)
        if known < masks.shape[1]:
            bank = MemoryBank(self.policy, self.length, *self._of_network)
            self.groups.append(ObjectGroup(bank, list(range(known, masks.shape[1]))))
        if predicted is None or self.present is None:
            objects, self.present = masks, given
        else:
            entering = masks.shape[1] - known
            self.present = torch.cat([self.present, given[:, known:]], dim=1)
            objects = torch.cat([predicted[:, 1:], predicted.new_zeros(masks[:, :entering].shape)], dim=1)
            claimed = masks.any(1, keepdim=True)
            objects = torch.where(given[..., None, None], masks, objects * ~claimed)
            if self.network.mask_merging == "aggregate":
                return torch.softmax(soft_aggregation(objects, self.present), dim=1).to(objects.dtype)
        return with_background(objects)

    @property
    def _of_network(self) -> tuple[Potentiate, int]:
        """The further arguments of a memory bank."""
        return self.network.potentiate, self.network.key_channels

    def prompt(self, mask: np.ndarray | Tensor, like: Tensor, absent: Collection[int] = ()) -> MaskPrompt:
        """Turn a given mask into one channel a slot; objects that are new to it become known.

        Args:
            mask: labels (H, W) of one video, or (B, O, H, W) of 0 and 1 of a batch.
            like: (B, 3, H, W), whose size, type and device the channels take.
            absent: ids of known objects that the frame does not show.

        Raises:
            ValueError: the mask has the wrong shape; or an absent object is unknown or in the mask.
        """
        if isinstance(mask, Tensor):
            masks = to_slots(mask, like, len(self.ids), self.present)
            self.ids = list(range(1, masks.shape[1] + 1))
            return MaskPrompt(masks, frozenset(range(masks.shape[1])))
        labels = object_ids(mask)
        if not labels and not self.ids:
            raise ValueError(
                f"mask: must show an object; got only background (0) and void ({void_label(mask)})"
            )
        absent_slots = frozenset(self.slot(label) for label in absent)
        if both := sorted(set(absent) & set(labels)):
            raise ValueError(f"absent: the mask shows object {both[0]}")
        self.ids = [*self.ids, *(label for label in labels if label not in self.ids)]
        ids = np.array(self.ids)[:, None, None]
        slots = frozenset(slot for slot, label in enumerate(self.ids) if label in labels)
        return MaskPrompt(torch.from_numpy(mask == ids)[None].to(like), slots | absent_slots, absent_slots)

    def full_prompt(
        self,
        mask: np.ndarray | Tensor | None,
        frames: Tensor,
        shape: tuple[int, int],
        absent: Collection[int] = (),
    ) -> MaskPrompt | None:
        """Return the given masks at the frames' own size `shape`; None where the network sees that size."""
        if mask is None or tuple(frames.shape[-2:]) == shape:
            return None
        return self.prompt(mask, frames.new_empty((1, 1, 1, 1)).expand(len(frames), 3, *shape), absent)

    def slot(self, object_id: int) -> int:
        """Return the channel of an object.

        Raises:
            ValueError: the object is unknown.
        """
        if object_id not in self.ids:
            raise ValueError(f"object {object_id} is not known; there are {self.ids}")
        return self.ids.index(object_id)

    def memorize(self, previous: PendingFrame, network: STM) -> None:
        """Write frame t - 1 with its soft probabilities (section 3.5), where the policy keeps it."""
        t = previous.t
        is_given = [not previous.given_slots.isdisjoint(group.slots) for group in self.groups]
        if self.policy.every_from == "last":
            is_given = [bool(previous.given_slots)] * len(self.groups)
        writing = [
            (group, given)
            for group, given in zip(self.groups, is_given, strict=True)
            if group.bank.should_write(t, given)
        ]
        value, is_kept = None, False
        every, last = self.policy.deep_update_every, self._last_deep_update
        is_due = bool(network.sensory_channels) and every is not None and (last is None or t - last >= every)
        if writing or is_due:
            masks = network.masks_to_memorize(previous.padded, previous.network_shape)
            key, value = network.memorize(previous.frame, masks, previous.query)
            room = self._room(key, value)
            for group, given in writing:
                of_group = key if key.shape[1] == 1 else select_slots(key, group.slots)
                of_value, of_masks = select_slots(value, group.slots), select_slots(masks, group.slots)
                is_kept |= group.bank.write(t, of_group, of_value, given, of_masks, room)
        if network.sensory_channels:
            before = self.sensory if every is None or previous.sensory is None else previous.sensory
            if value is not None and (is_kept if every is None else is_due):
                before = _extended(before, network.initial_sensory(value))
                assert before is not None
                self.sensory, self._last_deep_update = network.update_sensory(value, before), t
            elif previous.sensory is not None:
                self.sensory = previous.sensory

    def sensory_of(self, like: Tensor, network: STM) -> Tensor | None:
        """Return the sensory memory of the objects of a readout or value (B, O, C_v, h, w)."""
        return _extended(self.sensory, network.initial_sensory(like))

    def _room(self, key: Tensor, value: Tensor) -> int | None:
        """Return how many frames the policy has room for, each counted as the largest one.

        Each group holds its own copy of keys of the image alone.
        """
        cells = math.prod(key.shape[-2:])
        keys = key.nbytes * (len(self.groups) if key.shape[1] == 1 < value.shape[1] else 1)
        cell = (keys + value.nbytes) // cells
        largest = max([cells, *(group.bank.max_frame_cells for group in self.groups)])
        return self.policy.frame_limit(cell * largest, cell * self.policy.prototypes)

    def advice(self, t: int, size: Sequence[int]) -> str:
        """Return which settings make a video fit into the memory of the device."""
        held = max((len(group.bank.frames) for group in self.groups), default=0)
        height, width = size
        megabytes = self.bytes / MEGABYTE
        where = (
            f"frame {t}: out of memory with {held} frames of {len(self.ids)} objects at "
            f"{height}x{width} in memory ({megabytes:.0f} MB). "
        )
        if held > 2 * self.policy.min_frames:
            return where + (
                f"memory.max_mb={0.7 * megabytes:.0f} holds fewer frames in any policy; "
                f"memory.max_frames={held // 2} as well"
            )
        smaller = max(1, int(0.7 * min(height, width)))
        return where + (
            f"The number of memory frames is not the cause: let the network see smaller frames, "
            f"such as benchmark.size={smaller} (stm track: --size {smaller})"
        )

    def remove(self, slot: int) -> None:
        """Forget an object."""
        del self.ids[slot]
        self.groups = remove_slot(self.groups, slot)
        if self.present is not None:
            self.present = drop_channel(self.present, slot)
        self.sensory = without_object(self.sensory, slot)
        if not self.ids:
            self.present = self.sensory = self._last_deep_update = None

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values, which `restore` takes."""
        groups = [{"slots": group.slots, **group.bank.state()} for group in self.groups]
        sensory = {"sensory": self.sensory, "last_deep_update": self._last_deep_update}
        return {"object_ids": self.ids, "groups": groups, **sensory}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: its parts do not fit each other, or the network.
        """
        self.ids = [int(label) for label in state["object_ids"]]
        for group in state["groups"]:
            slots = [int(slot) for slot in group["slots"]]
            if "keys" in group and not check_state_matches(
                group["keys"], group["values"], self.network, len(slots)
            ):
                raise ValueError("keys and values must be floats of the network's shapes")
            bank = MemoryBank.from_state(group, self.policy, self.length, *self._of_network)
            self.groups.append(ObjectGroup(bank, slots))
        self.sensory, self._last_deep_update = state["sensory"], state["last_deep_update"]
        slots = sorted(slot for group in self.groups for slot in group.slots)
        if not slots or slots != list(range(len(set(self.ids)))):
            raise ValueError(f"objects {self.ids} in slots {slots}")
        self.present = torch.ones((1, len(slots)), dtype=torch.bool, device=self.network.mean.device)


def _extended(sensory: Tensor | None, empty: Tensor | None) -> Tensor | None:
    """Return a sensory memory with empty states for the objects that it lacks."""
    if sensory is None or empty is None:
        return empty
    return torch.cat([sensory, empty[:, sensory.shape[1] :]], dim=1)
