"""The one way a frame goes through the model: sections 3 and 3.6, with or without gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stm.inference.attention import At, Attention, object_attention
from stm.inference.bank_reading import read_bank
from stm.inference.confidence import Confidence, object_confidences
from stm.inference.inputs import ArrayLike, PreparedFrame, prepare_frame, to_floats, to_labels
from stm.inference.object_groups import concatenate_groups, drop_channel
from stm.inference.object_manager import ObjectManager
from stm.inference.pending_frame import PendingFrame
from stm.inference.resize import resize_mask
from stm.inference.state_io import read_state, write_state
from stm.masks import restore_ids
from stm.memory import MemoryPolicy
from stm.network import STM, for_inference
from stm.network.encoders import Query
from stm.network.padding import crop


class Segmenter:
    """Segments a video frame by frame, given the masks of its objects where they enter.

    Gradients flow through the memory while the network is in training mode and gradients are enabled:
    training with dynamic memory (section 3.5) is inference with gradients.

    Args:
        network: in eval mode for inference.
        memory: which past frames are remembered; by default the policy that the authors of published weights
            evaluate with, or the paper's.
        size: short side in pixels at which the network sees the frames; None for their own. Probabilities,
            labels and given masks keep the frames' own size.
        length: number of frames of the video, where known: memory is then allocated once.
    """

    def __init__(
        self,
        network: STM,
        memory: MemoryPolicy | None = None,
        size: int | None = None,
        *,
        length: int | None = None,
    ) -> None:
        if size is not None and size < 1:
            raise ValueError(f"size={size}: must be at least 1, or None for the frames' own size")
        self.network = self._network = network
        self.policy = memory or network.policy or MemoryPolicy()
        self.size, self.t = size, -1
        self.logits: Tensor | None = None
        """Logits (B, O + 1, h, w) of the last predicted frame, at the network's size; the loss uses them."""
        self.readout: Tensor | None = None
        """What was read from memory for that frame, (B, O, C_v, h', w'): the sum of equation 1."""
        self._objects = ObjectManager(self.policy, length, network)
        self._pending: PendingFrame | None = None

    @property
    def object_ids(self) -> list[int]:
        """Slot -> object id, in order of entry. A batch has no ids; its slots count from 1."""
        return list(self._objects.ids)

    @property
    def network_probabilities(self) -> Tensor:
        """Probabilities (B, O + 1, h, w) of the last frame at the network's size."""
        assert self._pending is not None, "no frame was segmented yet: call step first"
        return self._pending.probabilities

    def prepare(self, frame: ArrayLike, mask: ArrayLike | None = None) -> PreparedFrame:
        """Check and resize a frame and its mask for `step` ahead of time, such as in another thread."""
        on_gpu = self.network.mean.device.type == "cuda"
        return prepare_frame(frame, mask, self.size, pin_memory=on_gpu and not isinstance(frame, Tensor))

    def step(self, frame: ArrayLike | PreparedFrame, mask: ArrayLike | None = None) -> Tensor:
        """Segment the next frame.

        Args:
            frame: (3, H, W), float in 0..1 or uint8; or uint8 (H, W, 3) as a numpy array or a PIL image; or a
                batch of clips, (B, 3, H, W); or what `prepare` returned, with its mask.
            mask: masks given at this frame. (H, W) integer labels, which are object ids: new ones add
                objects, known ones correct theirs, objects that are not in it keep their prediction; 255 is
                void and means background here. Or (B, O, H, W) of 0 and 1 for a batch, slots without any
                pixel in the first frame being padding.

        Returns:
            Probabilities (O + 1, H, W) at the frame's own size, background first, then `object_ids` in order;
            (B, O + 1, H, W) for a batch.

        Raises:
            ValueError: the first frame has no mask, or a frame or mask is of the wrong shape or type.
        """
        learning = torch.is_grad_enabled() and self.network.training
        with torch.set_grad_enabled(learning):
            if not learning and self._network is self.network:
                self._network = for_inference(self.network)
            prepared = frame if isinstance(frame, PreparedFrame) else self.prepare(frame, mask)
            frames = to_floats(prepared.frame, self.network, is_first=self._pending is None)
            if self._pending is not None:
                self._pending.check_same_size(frames, prepared.shape)
            prompt = None if prepared.mask is None else self._objects.prompt(prepared.mask, frames)
            if prompt is None and not self._objects.groups:
                raise ValueError(f"frame {self.t + 1}: no object is known yet; give the first frame's mask")
            self.t += 1
            full_prompt = self._objects.full_prompt(prepared.full_mask, frames, prepared.shape)
            try:
                self._memorize_previous()
                query = self._network.encode(frames)
                predicted, sensory = None, None
                if self._objects.groups:
                    # a prediction that is overwritten entirely neither updates states nor counts as use
                    is_complete = prompt is not None and len(prompt.slots) == len(self._objects.ids)
                    predicted, sensory = self._predict(query, frames.shape[-2:], not is_complete)
                    sensory = None if is_complete else sensory
            except torch.OutOfMemoryError as error:
                raise MemoryError(self._objects.advice(self.t, frames.shape[-2:])) from error
            padded = predicted if prompt is None else self._objects.apply_prompt(prompt, predicted)
            assert padded is not None
            given = frozenset[int]() if prompt is None else prompt.slots
            query = query.without_skips()
            self._pending = PendingFrame(
                self.t, frames, query, padded, given, prepared.shape, full_prompt, sensory
            )
            full = self._pending.full_probabilities()
            return full if prepared.is_batch else full[0]

    def labels(self, probabilities: Tensor) -> np.ndarray:
        """Return the likeliest object id of each pixel: (O + 1, H, W) -> (H, W)."""
        # on a CPU argmax takes ten times as long
        return restore_ids(probabilities.max(0).indices.cpu().numpy(), self.object_ids)

    def correct(self, mask: ArrayLike | None = None, absent: Collection[int] = ()) -> Tensor:
        """Correct the last frame, as if the mask had come with it.

        Args:
            mask: (H, W) integer labels, as for `step`: new objects enter, known ones take the given mask.
            absent: ids of objects that the frame does not show.

        Returns:
            The frame's corrected probabilities, (O + 1, H, W).

        Raises:
            ValueError: there is no such frame or object, or the mask is of the wrong shape or type.
        """
        pending = self._last_frame()
        full = np.zeros(pending.shape, np.uint8) if mask is None else to_labels(mask, pending.shape)
        prompt = self._objects.prompt(resize_mask(full, pending.network_shape), pending.frame, absent)
        full_prompt = self._objects.full_prompt(full, pending.frame, pending.shape, absent)
        self._pending = replace(
            pending,
            padded=self._objects.apply_prompt(prompt, pending.padded),
            given_slots=pending.given_slots | prompt.slots,
            full_prompt=full_prompt and full_prompt.over(pending.full_prompt),
        )
        return self._pending.full_probabilities()[0]

    def disturb(self, disturbance: Callable[[Tensor], Tensor]) -> None:
        """Change the last frame's probabilities (B, O + 1, h', w') before they are memorized.

        Raises:
            ValueError: there is no last frame yet.
        """
        if self._pending is None:
            raise ValueError("there is no last frame yet: call step first")
        self._pending = replace(self._pending, padded=disturbance(self._pending.padded))

    def remove(self, object_id: int) -> None:
        """Forget an object: its memory is dropped, and in the last frame it becomes background.

        The others keep their memory. Their logits in the next frame are what they would have been, except in
        networks whose memory encoder sees the other objects (`other_objects_channel`).

        Raises:
            ValueError: there is no such object.
        """
        slot = self._objects.slot(object_id)
        self._objects.remove(slot)
        if self.logits is not None and self.readout is not None and slot < self.readout.shape[1]:
            self.logits, self.readout = drop_channel(self.logits, slot + 1), drop_channel(self.readout, slot)
        if self._pending is not None:
            self._pending = self._pending.without(slot)
        if not self._objects.ids:
            self._pending = None

    def next_video(self) -> None:
        """Continue with another video or image, of any size; the memory is kept.

        The previous frame is dropped, unless the policy keeps it or nothing else is held. The numbering of
        frames continues.
        """
        with torch.no_grad():
            self._memorize_previous()
        for group in self._objects.groups:
            group.bank.forget_previous()
        self._objects.sensory = None

    def attention(self, object_id: int, at: At | None = None) -> Attention:
        """Return where in memory the last frame's cells read for an object (figure 5).

        Args:
            object_id: the object.
            at: a pixel (row, column) of the frame; or a region of it, (H, W) of 0 and 1 or weights, such as
                the object's mask, over which the attention is averaged; the whole frame by default.

        Raises:
            ValueError: the memory of that object was not read at the last frame, or `at` lies outside of it.
        """
        pending, slot = self._last_frame(), self._objects.slot(object_id)
        group = next(group for group in self._objects.groups if slot in group.slots)
        if not group.bank.frames:
            raise ValueError(f"object {object_id} entered in this frame: its memory was not read yet")
        return object_attention(group.bank, group.slots.index(slot), pending, at, self.network.similarity)

    def confidence(self, probabilities: Tensor | None = None) -> dict[int, Confidence]:
        """Return the confidence of each object by its id; see `Confidence`.

        Args:
            probabilities: (O + 1, H, W), as `step` returns them; the last frame's at the network's size by
                default.
        """
        p = self._last_frame().probabilities[0] if probabilities is None else probabilities
        return object_confidences(p, self.object_ids, self.network.score_exponent)

    def save(self, path: str | Path) -> None:
        """Write the state to a file, from which `Segmenter.load` continues with equal results.

        Raises:
            ValueError: nothing is remembered yet, or the memory is a batch's.
        """
        objects = self._objects
        if not objects.groups or objects.present is None or len(objects.present) > 1:
            raise ValueError("a memory to save is of one video, after its first frame")
        state = {
            "policy": asdict(self.policy),
            "length": objects.length,
            "size": self.size,
            "t": self.t,
            **objects.state(),
            "pending": self._pending and self._pending.state(),
        }
        write_state(path, self.network, state)

    @classmethod
    def load(cls, path: str | Path, network: STM) -> Segmenter:
        """Restore a saved segmenter; call `next_video` to use its memory on another video.

        A memory that was saved under autocast is loaded and continued under the same autocast.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not a saved memory, or another network's.
        """
        state = read_state(path, network)
        try:
            segmenter = cls(network, MemoryPolicy(**state["policy"]), state["size"], length=state["length"])
            segmenter._objects.restore(state)
            segmenter.t = int(state["t"])
            if state["pending"] is not None:
                segmenter._network = for_inference(network)
                segmenter._pending = PendingFrame.restored(
                    segmenter.t, state["pending"], len(segmenter.object_ids), segmenter._network
                )
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"memory {path}: its parts do not fit each other ({error})") from error
        return segmenter

    def memory_frames(self) -> list[list[int]]:
        """Return the frames held in memory, for each group of objects that share them."""
        return [group.bank.frames for group in self._objects.groups]

    def memory_bytes(self) -> int:
        """Return the size of all keys and values in memory, in bytes."""
        return self._objects.bytes

    def _predict(self, query: Query, size: torch.Size, counts_usage: bool) -> tuple[Tensor, Tensor | None]:
        """Return the padded frame's probabilities (B, O + 1, H', W') and the updated sensory memory."""
        groups = self._objects.groups
        readouts = [read_bank(self._network, query, group.bank, self.t, counts_usage) for group in groups]
        self.readout = concatenate_groups(readouts, groups)
        sensory = self._objects.sensory_of(self.readout, self._network)
        logits, sensory = self._network.decode(query, self.readout, self._objects.present, sensory)
        self.logits = crop(logits, size)
        return torch.softmax(logits, dim=1), sensory

    def _memorize_previous(self) -> None:
        """Write frame t - 1 with its soft probabilities (section 3.5), where the policy keeps it."""
        previous, self._pending = self._pending, None
        if previous is not None:
            self._objects.memorize(previous, self._network)

    def _last_frame(self) -> PendingFrame:
        """Return the last frame, if there is one and it is not a batch."""
        if self._pending is None or len(self._pending.frame) > 1:
            raise ValueError("there is no last frame of one video yet: call step first")
        return self._pending
