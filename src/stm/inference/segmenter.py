"""The one way a frame goes through the model: sections 3 and 3.6, with or without gradients."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stm.inference.attention import At, Attention, mean_attention, query_weights
from stm.inference.confidence import Confidence, object_confidences
from stm.inference.inputs import MaskLike, to_frames
from stm.inference.object_groups import PendingFrame, concatenate_groups, drop_channel
from stm.inference.object_manager import ObjectManager, with_background
from stm.inference.state_io import read_state, write_state
from stm.masks import restore_ids
from stm.memory import MemoryBank, MemoryPolicy
from stm.memory.kv_store import grid
from stm.network import STM, for_inference
from stm.network.encoders import Query
from stm.network.memory_read import SpatialPrior


class Segmenter:
    """Segments a video frame by frame, given the masks of its objects where they enter.

    Gradients flow through the memory while the network is in training mode and gradients are enabled:
    training with dynamic memory (section 3.5) is inference with gradients.

    Args:
        network: in eval mode for inference.
        memory: which past frames are remembered; the paper's policy by default.
        length: frames of the video, where known: room for the memory is set aside once then.
    """

    def __init__(self, network: STM, memory: MemoryPolicy | None = None, length: int | None = None) -> None:
        self.network = self._network = network
        self.policy = memory or MemoryPolicy()
        self.t = -1
        self.logits: Tensor | None = None
        """Logits (B, O + 1, H, W) of the last frame that was predicted; what the loss is computed on."""
        self.readout: Tensor | None = None
        """What the memory said of each object at that frame, (B, O, C_v, h, w): equation 1's sum."""
        self._objects = ObjectManager(self.policy, length)
        self._written: PendingFrame | None = None

    @property
    def object_ids(self) -> list[int]:
        """Slot -> object id, in order of entry. A batch has no ids; its slots count from 1."""
        return list(self._objects.ids)

    def step(self, frame: MaskLike, mask: MaskLike | None = None) -> Tensor:
        """Segment the next frame.

        Args:
            frame: (3, H, W), float in 0..1 or uint8; or uint8 (H, W, 3) as a numpy array or a PIL image; or a
                batch of clips, (B, 3, H, W).
            mask: masks given at this frame. (H, W) integer labels, which are object ids: new ones add
                objects, known ones correct theirs, objects that are not in it keep their prediction; 255 is
                void and means background here. Or (B, O, H, W) of 0 and 1 for a batch, slots without any
                pixel in the first frame being padding.

        Returns:
            Probabilities (O + 1, H, W), background first, then `object_ids` in order; (B, O + 1, H, W) for a
            batch.

        Raises:
            ValueError: the first frame has no mask, or a frame or mask is of the wrong shape or type.
        """
        learning = torch.is_grad_enabled() and self.network.training
        with torch.set_grad_enabled(learning):
            if not learning and self._network is self.network:
                self._network = for_inference(self.network)
            frames, batched = self._frames(frame)
            given = None if mask is None else self._objects.given(mask, frames, batched)
            if given is None and not self._objects.groups:
                raise ValueError(f"frame {self.t + 1}: no object is known yet; give the first frame's mask")
            self.t += 1
            try:
                self._memorize_previous()
                query = self._network.encode(frames)
                probabilities = self._predict(query, frames.shape[-2:]) if self._objects.groups else None
            except torch.OutOfMemoryError as error:
                raise MemoryError(self._objects.advice(self.t, frames.shape[-2:])) from error
            if given is not None:
                probabilities = self._objects.give(given, probabilities)
            assert probabilities is not None
            told = frozenset[int]() if given is None else given.told
            self._written = PendingFrame(self.t, frames, query.decoded(), probabilities, told)
            return probabilities if batched else probabilities[0]

    def labels(self, probabilities: Tensor) -> np.ndarray:
        """The likeliest object id of each pixel: (O + 1, H, W) -> uint8 (H, W)."""
        # on a CPU argmax takes ten times as long
        return restore_ids(probabilities.max(0).indices.cpu().numpy(), self.object_ids)

    def correct(self, mask: MaskLike | None = None, absent: Collection[int] = ()) -> Tensor:
        """Correct the frame that was segmented last, as if the mask had come with it.

        Args:
            mask: (H, W) integer labels, as for `step`: new objects enter, known ones get the mask given.
            absent: ids of objects that the frame does not show.

        Returns:
            The frame's probabilities as they are then, (O + 1, H, W).

        Raises:
            ValueError: there is no such frame or object, or the mask is of the wrong shape or type.
        """
        written = self._of_one_video()
        given = self._objects.given(mask, written.frame, False, absent)
        probabilities = self._objects.give(given, written.probabilities)
        self._written = replace(written, probabilities=probabilities, told=written.told | given.told)
        return probabilities[0]

    def remove(self, object_id: int) -> None:
        """Forget an object: its memory goes, and in the last frame it becomes background.

        The others keep their memory. Their logits in the next frame are what they would have been, except in
        networks whose memory encoder sees the other objects (`other_objects_channel`).

        Raises:
            ValueError: there is no such object.
        """
        slot = self._objects.slot(object_id)
        self._objects.remove(slot)
        if self.logits is not None and self.readout is not None and slot < self.readout.shape[1]:
            self.logits, self.readout = drop_channel(self.logits, slot + 1), drop_channel(self.readout, slot)
        if self._written is not None:
            told = frozenset(s - (s > slot) for s in self._written.told if s != slot)
            objects = drop_channel(self._written.probabilities[:, 1:], slot)
            self._written = replace(self._written, probabilities=with_background(objects), told=told)
        if not self._objects.groups:
            self._written = None

    def next_video(self) -> None:
        """What comes next is another video, or a picture, of any size: what stays in memory goes along.

        The previous frame does not go along, unless it stays or nothing else is held. Frames are numbered on.
        """
        with torch.no_grad():
            self._memorize_previous()
        for group in self._objects.groups:
            group.bank.forget_previous()

    def attention(self, object_id: int, at: At | None = None) -> Attention:
        """Where in memory cells of the last frame looked for an object (figure 5).

        Args:
            at: a pixel (row, column) of the frame; or a region of it, (H, W) of 0 and 1 or weights, such as
                the object's mask; the whole frame by default. Of a region it is the mean.

        Raises:
            ValueError: the memory of that object was not read at the last frame, or `at` lies outside of it.
        """
        written, slot = self._of_one_video(), self._objects.slot(object_id)
        group = next(group for group in self._objects.groups if slot in group.slots)
        if not group.bank.frames:
            raise ValueError(f"object {object_id} entered in this frame: its memory was not read yet")
        keys, query = group.bank.read()[0], written.query.key
        place = min(group.slots.index(slot), keys.shape[1] - 1)  # or all objects share their keys
        cells = (query.shape[-2], query.shape[-1])
        looking = query_weights(at, _size(written.frame), cells, query.device)
        near = self._near(written.t, group.bank, query)
        with torch.no_grad():
            return mean_attention(
                keys[0, place],
                query[0].flatten(1),
                looking,
                group.bank.layout(),
                self.network.similarity,
                self.policy.top_k,
                near,
            )

    def confidence(self, probabilities: Tensor) -> dict[int, Confidence]:
        """Object id -> how sure `step`'s probabilities (O + 1, H, W) are of it; see `Confidence`."""
        return object_confidences(probabilities, self.object_ids)

    def save(self, path: str | Path) -> None:
        """Write all that goes on into the next frame to a file: `Segmenter.load` gives the same results.

        Raises:
            ValueError: nothing is remembered yet, or it is of a batch.
        """
        objects = self._objects
        if not objects.groups or objects.present is None or len(objects.present) > 1:
            raise ValueError("a memory to save is of one video, after its first frame")
        pending = None
        if (w := self._written) is not None:
            pending = {"frame": w.frame, "probabilities": w.probabilities, "told": sorted(w.told)}
        state = {
            "policy": asdict(self.policy),
            "length": objects.length,
            "t": self.t,
            **objects.state(),
            "pending": pending,
        }
        write_state(path, self.network, state)

    @classmethod
    def load(cls, path: str | Path, network: STM) -> Segmenter:
        """A segmenter that goes on where another was saved; call `next_video` to use it on another video.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no saved memory, or another network's.
        """
        state = read_state(path, network)
        try:
            segmenter = cls(network, MemoryPolicy(**state["policy"]), state["length"])
            segmenter._objects.restore(state, network)
            segmenter.t = int(state["t"])
            if state["pending"] is not None:
                segmenter._go_on(**state["pending"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"memory {path}: its parts do not fit each other ({error})") from error
        return segmenter

    def memory_frames(self) -> list[list[int]]:
        """The frames that the memory holds, for each group of objects that have the same."""
        return [group.bank.frames for group in self._objects.groups]

    def memory_bytes(self) -> int:
        """What the keys and values in memory take."""
        return self._objects.bytes

    def _predict(self, query: Query, size: torch.Size) -> Tensor:
        """Read the memory of all objects, and decode."""
        self.readout = concatenate_groups(
            [self._read(query, group.bank) for group in self._objects.groups], self._objects.groups
        )
        self.logits = self._network.decode(query, self.readout, size, self._objects.present)
        return torch.softmax(self.logits, dim=1)

    def _read(self, query: Query, bank: MemoryBank) -> Tensor:
        keys, values = bank.read()
        policy, mass = self.policy, None
        if policy.counts_usage:
            mass = keys.new_zeros((*keys.shape[:2], keys.shape[-1]), dtype=torch.float32)
        near = self._near(self.t, bank, query.key)
        readout = self._network.read(query, keys, values, policy.top_k, mass, near)
        if mass is not None:
            bank.update_usage(mass)
        return readout

    def _near(self, t: int, bank: MemoryBank, query: Tensor) -> SpatialPrior | None:
        if self.policy.motion_sigma is None:
            return None
        return SpatialPrior(*bank.cell_positions(t), grid(query.shape[-2:], query.device))

    def _memorize_previous(self) -> None:
        """Write frame t - 1, its mask 'without thresholding' (section 3.5), where the policy wants it."""
        previous, self._written = self._written, None
        if previous is not None:
            self._objects.memorize(previous, self._network)

    def _frames(self, frame: MaskLike) -> tuple[Tensor, bool]:
        """Any accepted frame -> float (B, 3, H, W) on the network's device, and whether it was a batch."""
        written = self._written
        frames, batched = to_frames(frame, self.network, first=written is None)
        if written is not None and frames.shape != written.frame.shape:
            before, now = tuple(written.frame.shape), tuple(frames.shape)
            raise ValueError(
                f"frame {self.t + 1}: all frames must be of one size, got {now} after {before} "
                "(another video begins after next_video())"
            )
        return frames, batched

    def _of_one_video(self) -> PendingFrame:
        """The last frame, where there is one and it is no batch."""
        if self._written is None or len(self._written.frame) > 1:
            raise ValueError("there is no last frame of one video yet: step gives it")
        return self._written

    def _go_on(self, frame: Tensor, probabilities: Tensor, told: list[int]) -> None:
        """Take over the last frame of a saved video."""
        size = _size(frame)
        if frame.shape != (1, 3, *size) or probabilities.shape != (1, len(self.object_ids) + 1, *size):
            raise ValueError(f"frame {tuple(frame.shape)}, probabilities {tuple(probabilities.shape)}")
        self._network = for_inference(self.network)
        with torch.no_grad():
            query = self._network.encode(frame).decoded()
        self._written = PendingFrame(self.t, frame, query, probabilities, frozenset(told))


def _size(frames: Tensor) -> tuple[int, int]:
    return frames.shape[-2], frames.shape[-1]
