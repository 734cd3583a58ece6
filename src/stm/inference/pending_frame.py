"""The last segmented frame, which is memorized when the next one comes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stm.inference.mask_prompt import MaskPrompt, overwrite_with_masks, with_background
from stm.inference.object_groups import drop_channel, without_object
from stm.network import STM
from stm.network.encoders import Query
from stm.network.padding import crop, pad


@dataclass(frozen=True)
class PendingFrame:
    """The last frame and its prediction.

    Attributes:
        t: the frame's number.
        frame: float (B, 3, h, w) at the network's size.
        query: what the query encoder made of it.
        padded: probabilities (B, O + 1, h', w') of the padded frame, background first.
        given_slots: slots whose mask was given, not predicted.
        shape: the frame's own (H, W).
        full_prompt: the given masks at that size; None where none were given or the network sees that size.
        sensory: sensory memory (B, O', C, h, w) as the decoder updated it; None in networks without one, and
            if no object was known before.
    """

    t: int
    frame: Tensor
    query: Query
    padded: Tensor
    given_slots: frozenset[int]
    shape: tuple[int, int]
    full_prompt: MaskPrompt | None
    sensory: Tensor | None = None

    @property
    def probabilities(self) -> Tensor:
        """Probabilities (B, O + 1, h, w), background first."""
        return crop(self.padded, self.network_shape)

    @property
    def network_shape(self) -> tuple[int, int]:
        """The (h, w) at which the network sees the frame."""
        return self.frame.shape[-2], self.frame.shape[-1]

    def check_same_size(self, frames: Tensor, shape: tuple[int, int]) -> None:
        """Refuse a next frame of another size.

        Raises:
            ValueError: its batch or own size `shape` differs from this frame's.
        """
        before, now = (len(self.frame), 3, *self.shape), (len(frames), 3, *shape)
        if before != now:
            raise ValueError(
                f"frame {self.t + 1}: all frames must be of one size; got {now} after {before} "
                "(another video begins after next_video())"
            )

    def full_probabilities(self) -> Tensor:
        """Return the probabilities at the frame's own size, (B, O + 1, H, W); given masks are exact."""
        if self.shape == self.network_shape:
            return self.probabilities
        full = F.interpolate(self.probabilities.float(), self.shape, mode="bilinear", align_corners=False)
        return full if self.full_prompt is None else overwrite_with_masks(full, self.full_prompt)

    def without(self, slot: int) -> PendingFrame:
        """Return the frame without an object; its pixels become background."""
        return replace(
            self,
            padded=with_background(drop_channel(self.padded[:, 1:], slot)),
            given_slots=frozenset(s - (s > slot) for s in self.given_slots if s != slot),
            full_prompt=self.full_prompt and self.full_prompt.without(slot),
            sensory=without_object(self.sensory, slot),
        )

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values, which `restored` takes."""
        return {
            "frame": self.frame,
            "probabilities": self.padded,
            "sensory": self.sensory,
            "given": sorted(self.given_slots),
            "shape": self.shape,
            "full_prompt": self.full_prompt and self.full_prompt.state(),
        }

    @classmethod
    def restored(cls, t: int, state: dict[str, Any], objects: int, network: STM) -> PendingFrame:
        """Return the frame that gave the state.

        Args:
            t: its number.
            state: of `state`.
            objects: number of objects that are known.
            network: encodes the frame anew.

        Raises:
            ValueError: the parts do not fit each other.
        """
        frame, probabilities, prompt = state["frame"], state["probabilities"], state["full_prompt"]
        size = tuple(frame.shape[-2:])
        if frame.shape != (1, 3, *size) or probabilities.shape != (1, objects + 1, *pad(frame).shape[-2:]):
            raise ValueError(f"frame {tuple(frame.shape)}, probabilities {tuple(probabilities.shape)}")
        with torch.no_grad():
            query = network.encode(frame).without_skips()
        height, width = (int(side) for side in state["shape"])
        return cls(
            t,
            frame,
            query,
            probabilities,
            frozenset(state["given"]),
            (height, width),
            None if prompt is None else MaskPrompt.restored(prompt),
            state["sensory"],
        )
