"""The size at which the network sees a frame: resizing of frames and index masks."""

from __future__ import annotations

import cv2
import numpy as np

from stm.masks import object_ids, void_label


def resized_shape(shape: tuple[int, int], size: int | None) -> tuple[int, int]:
    """Return the (H, W) at which the network sees a frame: its short side scaled to `size`; None keeps it."""
    scale = 1.0 if size is None else size / min(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def shrunk_shape(image: np.ndarray, size: int) -> tuple[int, int]:
    """Return the (H, W) of an image or mask whose short side is at most `size`; smaller ones keep theirs."""
    height, width = image.shape[:2]
    return resized_shape((height, width), min(size, height, width))


def resize_frame(frame: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a frame, uint8 (H, W, 3), to `shape`; area averaging where it shrinks."""
    if frame.shape[:2] == shape:
        return frame
    how = cv2.INTER_AREA if shape[0] < frame.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(frame, shape[::-1], interpolation=how)


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize an index mask (H, W) to `shape`; an object too small for it keeps one pixel.

    That is the nearest pixel that is not the only one of another object.

    Raises:
        ValueError: the mask has more objects than `shape` has pixels.
    """
    if mask.shape == shape:
        return mask
    resized = cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    lost = sorted(set(object_ids(mask)) - set(object_ids(resized)))
    if not lost:
        return resized
    counts = np.bincount(resized.ravel(), minlength=1 + void_label(mask))
    counts[[0, void_label(mask)]] += resized.size  # background and void need no pixel
    for label in lost:
        center = [np.median(places) for places in np.nonzero(mask == label)]
        row, column = (int(c) * new // old for c, new, old in zip(center, shape, mask.shape, strict=True))
        free = np.argwhere(counts[resized] > 1)
        if len(free) == 0:
            raise ValueError(
                f"mask: {len(object_ids(mask))} objects do not fit into the {shape[0]}x{shape[1]} pixels "
                "that the network sees; let it see larger frames"
            )
        nearest = tuple(free[np.square(free - (row, column)).sum(1).argmin()])
        counts[resized[nearest]] -= 1
        counts[label] += 1
        resized[nearest] = label
    return resized
