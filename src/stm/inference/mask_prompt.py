"""Given masks of a frame, and how they overwrite its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stm.inference.object_groups import drop_channel


class MaskPrompt(NamedTuple):
    """Given masks of one frame.

    Attributes:
        masks: (B, O, H, W) of 0 and 1, one channel a slot.
        slots: the slots that are given, with a mask or as absent.
        absent: the slots that the frame does not show.
    """

    masks: Tensor
    slots: frozenset[int]
    absent: frozenset[int] = frozenset()

    @property
    def is_given(self) -> Tensor:
        """Bool (B, O): whether the slot's mask is given; False for slots that pad a batch."""
        given = self.masks.flatten(2).any(-1)
        for slot in self.absent:
            given[:, slot] = True
        return given

    def over(self, earlier: MaskPrompt | None) -> MaskPrompt:
        """Return both prompts of one frame together; this one decides where both have a slot."""
        if earlier is None:
            return self
        masks = self.masks.clone()
        claimed = masks.any(1)
        for slot in earlier.slots - self.slots:
            masks[:, slot] = earlier.masks[:, slot] * ~claimed
        absent = self.absent | (earlier.absent - self.slots)
        return MaskPrompt(masks, self.slots | earlier.slots, absent)

    def without(self, slot: int) -> MaskPrompt:
        """Return the prompt without a slot; later slots move up."""
        slots, absent = (
            frozenset(s - (s > slot) for s in part if s != slot) for part in (self.slots, self.absent)
        )
        masks = self.masks if slot >= self.masks.shape[1] else drop_channel(self.masks, slot)
        return MaskPrompt(masks, slots, absent)

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values, which `restored` takes."""
        return {"masks": self.masks.bool(), "slots": sorted(self.slots), "absent": sorted(self.absent)}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> MaskPrompt:
        """Return the prompt that gave the state."""
        return cls(state["masks"].float(), frozenset(state["slots"]), frozenset(state["absent"]))


def with_background(objects: Tensor) -> Tensor:
    """Prepend the background, the remaining probability, to objects (B, O, H, W)."""
    return torch.cat([1 - objects.sum(1, keepdim=True).clamp(max=1), objects], dim=1)


def overwrite_with_masks(probabilities: Tensor, prompt: MaskPrompt) -> Tensor:
    """Overwrite probabilities, which resizing blurred, with the given masks at the frame's own size.

    What a given object loses outside its mask goes to the background.

    Args:
        probabilities: (B, O + 1, H, W), background first.
        prompt: masks of the same size.
    """
    given = prompt.is_given[..., None, None]
    claimed = prompt.masks.any(1, keepdim=True)
    objects = probabilities[:, 1:]
    released = (objects * given).sum(1, keepdim=True)
    background = (probabilities[:, :1] + released) * ~claimed
    return torch.cat([background, torch.where(given, prompt.masks.float(), objects * ~claimed)], dim=1)
