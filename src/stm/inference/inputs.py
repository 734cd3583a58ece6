"""Frames and masks of any accepted kind, as the segmenter works with them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stm.network import STM

MaskLike = Tensor | np.ndarray | Image.Image


def to_frames(frame: MaskLike, network: STM, first: bool) -> tuple[Tensor, bool]:
    """A frame -> float (B, 3, H, W) of the network's type and device, and whether it was a batch.

    Args:
        frame: see `Segmenter.step`.
        first: the first one of a video, whose range is looked at.

    Raises:
        ValueError: it is of the wrong shape, type or range.
    """
    if not isinstance(frame, Tensor):
        array = np.asarray(frame.convert("RGB") if isinstance(frame, Image.Image) else frame)
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise ValueError(f"frame: an array must be uint8 (H, W, 3), got {array.dtype} {array.shape}")
        frame = torch.from_numpy(np.array(array)).permute(2, 0, 1)
    if frame.ndim not in (3, 4) or frame.shape[-3] != 3:
        raise ValueError(f"frame: a tensor must be (3, H, W) or (B, 3, H, W), got {tuple(frame.shape)}")
    if frame.dtype != torch.uint8 and not frame.is_floating_point():
        raise ValueError(f"frame: a tensor must be float in 0..1 or uint8, got {frame.dtype}")
    if first and frame.is_floating_point() and frame.max() > 1.5:  # not at each: it synchronizes a GPU
        raise ValueError(f"frame: floats must be in 0..1, got up to {float(frame.max()):g}")
    dtype = next(network.parameters()).dtype
    floats = frame.to(network.mean.device)
    floats = floats.to(dtype) / 255 if frame.dtype == torch.uint8 else floats.to(dtype)
    return (floats, True) if frame.ndim == 4 else (floats[None], False)


def to_labels(mask: MaskLike, size: tuple[int, int]) -> np.ndarray:
    """A mask of one video -> uint8 (H, W), object ids as labels.

    Raises:
        ValueError: it is of the wrong shape, type or range.
    """
    labels = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if labels.shape != size:
        raise ValueError(f"mask: must be (H, W) = {size} like the frame, got {labels.shape}")
    if labels.dtype.kind not in "iub" or labels.min() < 0 or labels.max() > 255:
        got = f"{labels.dtype} {labels.min()}..{labels.max()}"
        raise ValueError(f"mask: labels must be integers in 0..255, got {got}")
    return labels.astype(np.uint8)


def to_slots(masks: Tensor, frames: Tensor, slots: int, present: Tensor | None) -> Tensor:
    """Masks of a batch -> float (B, O, H, W) beside its frames.

    Args:
        slots: how many the batch has, where `present` is given: bool (B, O), False for those that pad it.

    Raises:
        ValueError: they are of another shape than the frames or the masks before.
    """
    batch, _, *size = frames.shape
    if masks.ndim != 4 or len(masks) != batch or list(masks.shape[-2:]) != size:
        wanted = f"(B, O, H, W) = ({batch}, O, {size[0]}, {size[1]})"
        raise ValueError(f"mask: must be {wanted} like the frames, got {tuple(masks.shape)}")
    masks = masks.to(frames)
    if present is not None:
        if masks.shape[1] != slots:
            raise ValueError(f"mask: the batch has {slots} slots, got {masks.shape[1]}")
        if bool((masks.flatten(2).any(-1) & ~present).any()):
            raise ValueError("mask: a slot that was empty in the batch's first frame is padding for good")
    return masks
