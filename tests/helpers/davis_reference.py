"""J and F in the DAVIS evaluation's way of working: full-size boolean maps, boundaries dilated by a disk.

Written plainly from the definitions (Perazzi et al., CVPR 2016, section 5, and the benchmark's edge cases):
what ours must equal in every bit, and is timed against.
"""

from __future__ import annotations

from math import ceil, hypot

import cv2
import numpy as np


def region_similarity(truth: np.ndarray, found: np.ndarray, void: np.ndarray | None = None) -> np.ndarray:
    """J of each frame, float64 (T,); bool (T, H, W) each."""
    counts = np.ones_like(truth) if void is None else ~void
    union = np.sum((truth | found) & counts, axis=(1, 2))
    intersection = np.sum(truth & found & counts, axis=(1, 2))
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def contour_accuracy(truth: np.ndarray, found: np.ndarray, void: np.ndarray | None = None) -> np.ndarray:
    """F of each frame, float64 (T,); bool (T, H, W) each."""
    counts = np.ones_like(truth) if void is None else ~void
    return np.array([accuracy(*masks) for masks in zip(truth & counts, found & counts, strict=True)])


def accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    """F of one frame; bool (H, W) each."""
    kernel = disk(ceil(0.008 * hypot(*truth.shape)))
    truth_boundary, found_boundary = boundary(truth), boundary(found)
    near_truth = cv2.dilate(truth_boundary.astype(np.uint8), kernel) > 0
    near_found = cv2.dilate(found_boundary.astype(np.uint8), kernel) > 0
    truths, founds = np.sum(truth_boundary), np.sum(found_boundary)
    if truths == 0 or founds == 0:
        return float(truths == founds)
    precision = np.sum(found_boundary & near_truth) / founds
    recall = np.sum(truth_boundary & near_found) / truths
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Where a pixel differs from its right, lower or lower right neighbor; not the picture's edge."""
    wide = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != wide[:-1, 1:]) | (mask != wide[1:, :-1]) | (mask != wide[1:, 1:])


def disk(radius: int) -> np.ndarray:
    """uint8 (2 r + 1, 2 r + 1), 1 at the pixels within the radius of the middle."""
    row, column = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (row * row + column * column <= radius * radius).astype(np.uint8)
