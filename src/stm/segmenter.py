"""The one way a frame goes through the model: sections 3 and 3.6, with or without gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stm.masks import object_ids, restore_ids
from stm.memory import MemoryBank, MemoryPolicy
from stm.memory.cells import grid
from stm.memory.policy import MEGABYTE
from stm.network import STM, for_inference
from stm.network.encoders import Query
from stm.network.read import Near

Picture = Tensor | np.ndarray | Image.Image


@dataclass
class _Group:
    """Objects that entered together: they share their memory frames."""

    bank: MemoryBank
    slots: range


@dataclass
class _Written:
    """The frame just done, to be memorised when the next one comes."""

    t: int
    frame: Tensor
    query: Query
    probabilities: Tensor
    told: frozenset[int]  # slots whose mask was given, not predicted


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
        self.policy, self.length = memory or MemoryPolicy(), length
        self.t = -1
        self.object_ids: list[int] = []
        """Slot -> object id, in order of entry. A batch has no ids; its slots count from 1."""
        self.logits: Tensor | None = None
        """Logits (B, O + 1, H, W) of the last frame that was predicted; what the loss is computed on."""
        self._groups: list[_Group] = []
        self._present: Tensor | None = None  # bool (B, O)
        self._written: _Written | None = None

    def step(self, frame: Picture, mask: Picture | None = None) -> Tensor:
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
            given, told = (None, frozenset[int]()) if mask is None else self._masks(mask, frames, batched)
            if given is None and not self._groups:
                raise ValueError(f"frame {self.t + 1}: no object is known yet; give the first frame's mask")
            self.t += 1
            try:
                query = self._network.encode(frames)
                probabilities = self._predict(query, frames.shape[-2:]) if self._groups else None
            except torch.OutOfMemoryError as error:
                raise MemoryError(self._advice(frames)) from error
            if given is not None:
                probabilities = self._give(given, probabilities)
            assert probabilities is not None
            self._written = _Written(self.t, frames, query, probabilities, told)
            return probabilities if batched else probabilities[0]

    def labels(self, probabilities: Tensor) -> np.ndarray:
        """The likeliest object id of each pixel: (O + 1, H, W) -> uint8 (H, W)."""
        return restore_ids(probabilities.argmax(0).cpu().numpy(), self.object_ids)

    def memory_frames(self) -> list[list[int]]:
        """The frames that the memory holds, for each group of objects that entered together."""
        return [group.bank.frames for group in self._groups]

    def memory_bytes(self) -> int:
        """What the keys and values in memory take."""
        return sum(group.bank.bytes for group in self._groups)

    def _predict(self, query: Query, size: torch.Size) -> Tensor:
        """Memorise the previous frame with its soft masks, then read the memory at this one."""
        self._memorize_previous()
        readout = torch.cat([self._read(query, group.bank) for group in self._groups], dim=1)
        self.logits = self._network.decode(query, readout, size, self._present)
        return torch.softmax(self.logits, dim=1)

    def _read(self, query: Query, bank: MemoryBank) -> Tensor:
        keys, values = bank.read()
        policy, mass, near = self.policy, None, None
        if policy.counts_usage:
            mass = keys.new_zeros((*keys.shape[:2], keys.shape[-1]), dtype=torch.float32)
        if policy.motion is not None:
            near = Near(*bank.places(self.t), grid(query.key.shape[-2:], keys.device))
        readout = self._network.read(query, keys, values, policy.top_k, mass, near)
        if mass is not None:
            bank.used(mass)
        return readout

    def _memorize_previous(self) -> None:
        """Write frame t - 1, its mask 'without thresholding' (section 3.5), where the policy wants it."""
        previous, self._written = self._written, None
        if previous is None:
            return
        told = [not previous.told.isdisjoint(group.slots) for group in self._groups]
        if not any(
            group.bank.wants(previous.t, given) for group, given in zip(self._groups, told, strict=True)
        ):
            return
        masks = previous.probabilities[:, 1:]
        key, value = self._network.memorize(previous.frame, masks, previous.query)
        room = self._room(key, value)
        for group, given in zip(self._groups, told, strict=True):
            if group.bank.wants(previous.t, given):
                slots = slice(group.slots.start, group.slots.stop)
                of_group = key if key.shape[1] == 1 else key[:, slots]
                group.bank.write(previous.t, of_group, value[:, slots], given, masks[:, slots], room)

    def _room(self, key: Tensor, value: Tensor) -> int | None:
        """Frames that the policy has room for; keys of the image alone are held by each group."""
        keys = key.nbytes * (len(self._groups) if key.shape[1] == 1 < value.shape[1] else 1)
        frame = keys + value.nbytes
        return self.policy.room(frame, frame // math.prod(key.shape[-2:]) * self.policy.prototypes)

    def _advice(self, frames: Tensor) -> str:
        """What to set so that a video fits into the memory of the device."""
        held = max((len(group.bank.frames) for group in self._groups), default=0)
        height, width = frames.shape[-2:]
        megabytes = self.memory_bytes() / MEGABYTE
        where = (
            f"frame {self.t}: out of memory with {held} frames of {len(self.object_ids)} objects at "
            f"{height}x{width} in memory ({megabytes:.0f} MB). "
        )
        if held > 2 * self.policy.fewest:
            return where + (
                f"memory.max_mb={0.7 * megabytes:.0f} holds fewer frames in any policy; "
                f"memory.max_frames={held // 2} as well"
            )
        return where + (
            f"It is not the memory's frames that are too many: let the network see smaller frames, "
            f"as by benchmark.size={max(1, int(0.7 * min(height, width)))}"
        )

    def _give(self, given: Tensor, predicted: Tensor | None) -> Tensor:
        """Put given masks (B, O, H, W) over what was predicted: theirs there, and nowhere else."""
        told = given.flatten(2).any(-1)  # (B, O)
        known = 0 if predicted is None else predicted.shape[1] - 1
        if known < given.shape[1]:
            bank = MemoryBank(self.policy, self.length)
            self._groups.append(_Group(bank, range(known, given.shape[1])))
        if predicted is None or self._present is None:
            objects, self._present = given, told
        else:
            entering = given.shape[1] - known
            self._present = torch.cat([self._present, told[:, known:]], dim=1)
            objects = torch.cat([predicted[:, 1:], predicted.new_zeros(given[:, :entering].shape)], dim=1)
            claimed = given.any(1, keepdim=True)
            objects = torch.where(told[..., None, None], given, objects * ~claimed)
        return torch.cat([1 - objects.sum(1, keepdim=True).clamp(max=1), objects], dim=1)

    def _frames(self, frame: Picture) -> tuple[Tensor, bool]:
        """Any accepted frame -> float (B, 3, H, W) on the network's device, and whether it was a batch."""
        if not isinstance(frame, Tensor):
            array = np.asarray(frame.convert("RGB") if isinstance(frame, Image.Image) else frame)
            if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
                raise ValueError(f"frame: an array must be uint8 (H, W, 3), got {array.dtype} {array.shape}")
            frame = torch.from_numpy(np.array(array)).permute(2, 0, 1)
        if frame.ndim not in (3, 4) or frame.shape[-3] != 3:
            raise ValueError(f"frame: a tensor must be (3, H, W) or (B, 3, H, W), got {tuple(frame.shape)}")
        if frame.dtype != torch.uint8 and not frame.is_floating_point():
            raise ValueError(f"frame: a tensor must be float in 0..1 or uint8, got {frame.dtype}")
        batched = frame.ndim == 4
        if self.t < 0 and frame.is_floating_point() and frame.max() > 1.5:  # once: it synchronises a GPU
            raise ValueError(f"frame: floats must be in 0..1, got up to {float(frame.max()):g}")
        dtype = next(self.network.parameters()).dtype
        floats = frame.to(self.network.mean.device)
        floats = floats.to(dtype) / 255 if frame.dtype == torch.uint8 else floats.to(dtype)
        floats = floats if batched else floats[None]
        if self._written is not None and floats.shape != self._written.frame.shape:
            before, now = tuple(self._written.frame.shape), tuple(floats.shape)
            raise ValueError(f"frame {self.t + 1}: all frames must be of one size, got {now} after {before}")
        return floats, batched

    def _masks(self, mask: Picture, frames: Tensor, batched: bool) -> tuple[Tensor, frozenset[int]]:
        """Any accepted mask -> (B, O, H, W) of 0 and 1, a channel an object, and the slots it tells of."""
        if batched:
            masks = self._batched_masks(torch.as_tensor(mask), frames)
            return masks, frozenset(range(masks.shape[1]))
        labels = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
        if labels.shape != frames.shape[-2:]:
            size = tuple(frames.shape[-2:])
            raise ValueError(f"mask: must be (H, W) = {size} like the frame, got {labels.shape}")
        if labels.dtype.kind not in "iub" or labels.min() < 0 or labels.max() > 255:
            got = f"{labels.dtype} {labels.min()}..{labels.max()}"
            raise ValueError(f"mask: labels must be integers in 0..255, got {got}")
        labels = labels.astype(np.uint8)
        found = object_ids(labels)
        if not found and not self.object_ids:
            raise ValueError("mask: it holds no object (labels 1..254), so there is nothing to segment")
        self.object_ids = [*self.object_ids, *(label for label in found if label not in self.object_ids)]
        ids = np.array(self.object_ids)[:, None, None]
        told = frozenset(slot for slot, label in enumerate(self.object_ids) if label in found)
        return torch.from_numpy(labels == ids)[None].to(frames), told

    def _batched_masks(self, masks: Tensor, frames: Tensor) -> Tensor:
        (batch, _, *size), slots = frames.shape, len(self.object_ids)
        if masks.ndim != 4 or len(masks) != batch or list(masks.shape[-2:]) != size:
            wanted = f"(B, O, H, W) = ({batch}, O, {size[0]}, {size[1]})"
            raise ValueError(f"mask: must be {wanted} like the frames, got {tuple(masks.shape)}")
        masks = masks.to(frames)
        if self._present is not None:
            if masks.shape[1] != slots:
                raise ValueError(f"mask: the batch has {slots} slots, got {masks.shape[1]}")
            if bool((masks.flatten(2).any(-1) & ~self._present).any()):
                raise ValueError("mask: a slot that was empty in the batch's first frame is padding for good")
        self.object_ids = list(range(1, masks.shape[1] + 1))
        return masks
