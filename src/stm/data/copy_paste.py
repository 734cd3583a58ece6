"""Copy-paste augmentation: an object of another still moves across a clip, as an occluder or as an object."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from stm.data.augment import Size, crop_matrix, warp_mask
from stm.data.cropping import label_areas
from stm.video import void_label


def cut_out(
    rng: np.random.Generator, frame: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Cut out the box of a random object of at least 64 pixels; None if the still shows none.

    Args:
        rng: draws the object.
        frame: uint8 (H, W, 3), RGB.
        mask: (H, W), object ids.

    Returns:
        Pixels uint8 (h, w, 3) and opacity uint8 (h, w), 0 or 255.
    """
    ids = np.flatnonzero(label_areas(mask) >= 64)
    if len(ids) == 0:
        return None
    region = (mask == rng.choice(ids)).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(region)
    box = np.s_[y : y + height, x : x + width]
    # A border of one transparent pixel makes the edge smooth on all sides.
    return cv2.copyMakeBorder(frame[box], 1, 1, 1, 1, cv2.BORDER_REPLICATE), np.pad(255 * region[box], 1)


def moving_matrices(
    rng: np.random.Generator, patch: Size, crop: Size, frames: int, strength: float = 1.0
) -> list[np.ndarray]:
    """Draw a smooth motion of a patch across the crop, as a matrix for each frame.

    The patch's longer side is 0.2 to 0.6 of the crop's shorter side, and its start is random. Per frame it
    moves by up to 0.25 of the crop, turns by up to 15 degrees, and grows or shrinks by up to 15%.

    Args:
        rng: draws the motion.
        patch: height and width of the patch.
        crop: height and width of the crop.
        frames: number of frames.
        strength: factor on the motion per frame, 0..1.
    """
    zoom = rng.uniform(0.2, 0.6) * min(crop) / max(patch)
    angle, flip = rng.uniform(-30, 30), bool(rng.random() < 0.5)
    turn, growth = strength * rng.uniform(-15, 15), strength * rng.uniform(-0.15, 0.15)
    start = rng.uniform(-0.4, 0.4, 2) * crop[::-1]
    step = strength * rng.uniform(-0.25, 0.25, 2) * crop[::-1]
    center = ((patch[1] - 1) / 2, (patch[0] - 1) / 2)
    matrices = []
    for t in range(frames):
        matrix = crop_matrix(center, zoom * (1 + growth) ** t, crop, angle + turn * t, flip=flip)
        matrix[:, 2] += start + step * t
        matrices.append(matrix)
    return matrices


def paste(
    frames: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    patch: tuple[np.ndarray, np.ndarray],
    matrices: Sequence[np.ndarray],
    label: int,
) -> None:
    """Draw a patch over each frame and its label into each mask, in place; void is covered as well.

    Args:
        frames: uint8 (h, w, 3) each.
        masks: (h, w) each.
        patch: pixels and opacity, as `cut_out` returns them.
        matrices: position of the patch in each frame.
        label: label of the patch; 0 for an occluder.
    """
    for frame, mask, matrix in zip(frames, masks, matrices, strict=True):
        assert label != void_label(mask)
        size = mask.shape[:2]
        opacity = cv2.warpAffine(patch[1], matrix, size[::-1], flags=cv2.INTER_LINEAR)
        x, y, width, height = cv2.boundingRect(warp_mask((patch[1] >= 0).astype(np.uint8), matrix, size))
        box = np.s_[y : y + height, x : x + width]
        if width == 0:
            continue
        pixels = cv2.warpAffine(
            patch[0], matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )[box]
        alpha = opacity[box][..., None].astype(np.uint16)
        frame[box] = (frame[box] * (255 - alpha) + pixels * alpha + 127) // 255
        mask[box][opacity[box] >= 128] = label
