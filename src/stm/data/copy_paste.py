"""A moving object cut from another still and pasted over a clip, as an occluder or as one more object."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from stm.data.augment import Size, crop_matrix, warp_mask
from stm.data.cropping import label_areas
from stm.video import VOID


def cut_out(
    rng: np.random.Generator, frame: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """The box of a random object: its pixels uint8 (h, w, 3) and where it is, uint8 (h, w) of 0 and 255.

    None where the still shows no object of at least 64 pixels.
    """
    ids = np.flatnonzero(label_areas(mask) >= 64)
    if len(ids) == 0:
        return None
    there = (mask == rng.choice(ids)).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(there)
    inside = np.s_[y : y + height, x : x + width]
    # A rim of one transparent pixel, so that the edge is smooth on all sides.
    return cv2.copyMakeBorder(frame[inside], 1, 1, 1, 1, cv2.BORDER_REPLICATE), np.pad(255 * there[inside], 1)


def moving_matrices(
    rng: np.random.Generator, patch: Size, crop: Size, frames: int, strength: float = 1.0
) -> list[np.ndarray]:
    """A matrix a frame that takes the patch across the crop, smoothly.

    Its longer side is 0.2-0.6 of the crop's shorter one. It starts anywhere; a frame, it moves by up to 0.25
    of the crop, turns by up to 15 degrees and grows or shrinks by up to 15%, scaled by `strength` in 0..1.
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
    """Draw the patch over each frame and write its label into each mask, in place; void is covered, too.

    Args:
        frames: uint8 (h, w, 3) each.
        masks: uint8 (h, w) each.
        patch: pixels and opacity, as from `cut_out`.
        matrices: where it is in each frame.
        label: the pasted object's label; 0 makes it an occluder.
    """
    assert label != VOID
    for frame, mask, matrix in zip(frames, masks, matrices, strict=True):
        size = mask.shape[:2]
        opacity = cv2.warpAffine(patch[1], matrix, size[::-1], flags=cv2.INTER_LINEAR)
        x, y, width, height = cv2.boundingRect(warp_mask((patch[1] >= 0).astype(np.uint8), matrix, size))
        inside = np.s_[y : y + height, x : x + width]
        if width == 0:
            continue
        pixels = cv2.warpAffine(
            patch[0], matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )[inside]
        share = opacity[inside][..., None].astype(np.uint16)
        frame[inside] = (frame[inside] * (255 - share) + pixels * share + 127) // 255
        mask[inside][opacity[inside] >= 128] = label
