"""Frames and masks of every accepted kind, as tensors at the size at which the network sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stm.inference.resize import resize_frame, resize_mask, resized_shape
from stm.network import STM
from stm.video import VOID

ArrayLike = Tensor | np.ndarray | Image.Image


@dataclass(frozen=True)
class PreparedFrame:
    """A frame with its given mask, ready for `Segmenter.step`.

    Attributes:
        frame: (3, h, w) or (B, 3, h, w) at the network's size, uint8 or float in 0..1.
        shape: the frame's own (H, W).
        mask: the given mask at the network's size: labels (h, w), or (B, O, h, w) of a batch.
        full_mask: the same at the frame's own size.
    """

    frame: Tensor
    shape: tuple[int, int]
    mask: np.ndarray | Tensor | None
    full_mask: np.ndarray | Tensor | None

    @property
    def is_batch(self) -> bool:
        """Whether the frame is a batch of clips."""
        return self.frame.ndim == 4


def prepare_frame(
    frame: ArrayLike, mask: ArrayLike | None, size: int | None, pin_memory: bool = False
) -> PreparedFrame:
    """Check a frame and its mask, and resize both to the network's size.

    On a CPU, frames are resized by OpenCV: averaged over areas where they shrink. On a GPU the resizing is
    bilinear with antialiasing. Masks take the nearest label.

    Args:
        frame: see `Segmenter.step`.
        mask: see `Segmenter.step`.
        size: short side in pixels at which the network sees the frame; None for its own.
        pin_memory: copy the frame into page-locked memory, from which a GPU copies asynchronously.

    Raises:
        ValueError: the frame or mask has the wrong shape, type or range.
    """
    tensor = _frame_tensor(frame)
    own = (tensor.shape[-2], tensor.shape[-1])
    shape = resized_shape(own, size)
    full, small = (None, None) if mask is None else _masks(mask, tensor, shape)
    tensor = _resized(tensor, shape)
    return PreparedFrame(_page_locked(tensor) if pin_memory else tensor, own, small, full)


def to_floats(frame: Tensor, network: STM, is_first: bool) -> Tensor:
    """Convert a frame to float (B, 3, H, W) in 0..1 of the network's type, on its device.

    Args:
        frame: (3, H, W) or (B, 3, H, W), uint8 or float.
        network: decides type and device.
        is_first: check the range; only for a video's first frame, since the check synchronizes a GPU.

    Raises:
        ValueError: floats are out of range by more than 0.5, such as those of a normalized frame.
    """
    if is_first and frame.is_floating_point():
        lowest, highest = (float(value) for value in frame.aminmax())
        if lowest < -0.5 or highest > 1.5:
            raise ValueError(f"frame: floats must be in 0..1; got {lowest:g}..{highest:g}")
    dtype = next(network.parameters()).dtype
    floats = frame.to(network.mean.device, non_blocking=True)
    floats = floats.to(dtype) / 255 if frame.dtype == torch.uint8 else floats.to(dtype)
    return floats if frame.ndim == 4 else floats[None]


def to_labels(mask: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """Convert the mask of one video to labels (H, W), which are object ids.

    They are uint16, where 65535 is void, if they are given so or exceed 255; otherwise uint8.

    Raises:
        ValueError: the mask has the wrong shape, type or range.
    """
    labels = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if labels.shape != size:
        raise ValueError(f"mask: must be (H, W) = {size} like the frame; got {labels.shape}")
    if labels.dtype.kind not in "iub" or labels.min() < 0 or labels.max() > 65_535:
        got = f"{labels.dtype} {labels.min()}..{labels.max()}"
        raise ValueError(f"mask: labels must be integers in 0..65535; got {got}")
    return labels.astype(np.uint16 if labels.dtype == np.uint16 or labels.max() > VOID else np.uint8)


def to_slots(masks: Tensor, frames: Tensor, slots: int, present: Tensor | None) -> Tensor:
    """Convert the masks of a batch to float (B, O, H, W), one channel a slot.

    Args:
        masks: (B, O, H, W) of 0 and 1.
        frames: (B, 3, H, W), whose size, type and device the masks take.
        slots: number of slots of the batch, where `present` is given.
        present: bool (B, O), False for slots that pad the batch; None at the first frame.

    Raises:
        ValueError: the shape differs from that of the frames or of earlier masks.
    """
    batch, _, *size = frames.shape
    if masks.ndim != 4 or len(masks) != batch or list(masks.shape[-2:]) != size:
        wanted = f"(B, O, H, W) = ({batch}, O, {size[0]}, {size[1]})"
        raise ValueError(f"mask: must be {wanted} like the frames; got {tuple(masks.shape)}")
    masks = masks.to(frames)
    if present is not None:
        if masks.shape[1] != slots:
            raise ValueError(f"mask: the batch has {slots} slots; got {masks.shape[1]}")
        if bool((masks.flatten(2).any(-1) & ~present).any()):
            raise ValueError("mask: a slot that was empty in the batch's first frame is padding for good")
    return masks


def _frame_tensor(frame: ArrayLike) -> Tensor:
    """Check a frame's shape and type; return it as (3, H, W) or (B, 3, H, W)."""
    if not isinstance(frame, Tensor):
        array = np.asarray(frame.convert("RGB") if isinstance(frame, Image.Image) else frame)
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise ValueError(f"frame: an array must be uint8 (H, W, 3); got {array.dtype} {array.shape}")
        return torch.from_numpy(np.array(array)).permute(2, 0, 1)
    if frame.ndim not in (3, 4) or frame.shape[-3] != 3:
        raise ValueError(f"frame: a tensor must be (3, H, W) or (B, 3, H, W); got {tuple(frame.shape)}")
    if frame.dtype != torch.uint8 and not frame.is_floating_point():
        raise ValueError(f"frame: a tensor must be float in 0..1 or uint8; got {frame.dtype}")
    return frame


def _masks(
    mask: ArrayLike, frame: Tensor, shape: tuple[int, int]
) -> tuple[np.ndarray | Tensor, np.ndarray | Tensor]:
    """Return the given masks at the frame's own size, and at `shape`."""
    if frame.ndim == 3:
        labels = to_labels(mask, (frame.shape[-2], frame.shape[-1]))
        return labels, resize_mask(labels, shape)
    masks = torch.as_tensor(mask)
    if masks.ndim != 4 or tuple(masks.shape[-2:]) == shape:
        return masks, masks
    return masks, F.interpolate(masks.float(), shape, mode="nearest-exact")


def _resized(frame: Tensor, shape: tuple[int, int]) -> Tensor:
    if tuple(frame.shape[-2:]) == shape:
        return frame
    if frame.ndim == 4 or frame.device.type != "cpu":
        floats = frame.float() / 255 if frame.dtype == torch.uint8 else frame
        frames = floats if frame.ndim == 4 else floats[None]
        frames = F.interpolate(frames, shape, mode="bilinear", align_corners=False, antialias=True)
        return frames if frame.ndim == 4 else frames[0]
    pixels = frame if frame.dtype == torch.uint8 else frame.float()
    resized = resize_frame(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), shape)
    return torch.from_numpy(resized).permute(2, 0, 1)


def _page_locked(frame: Tensor) -> Tensor:
    locked = torch.empty(frame.shape, dtype=frame.dtype, pin_memory=True)
    return locked.copy_(frame)
