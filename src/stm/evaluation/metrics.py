"""How good is a mask? Region similarity J and contour accuracy F of the DAVIS benchmark.

Defined by Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
CVPR 2016, section 5; the edge cases are those of the DAVIS-2017 evaluation code, to which the values are
bit-equal. Each picture is cropped to where either mask is, which changes no value: J and F see nothing
of the empty rest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import isqrt
from typing import NamedTuple

import cv2
import numpy as np

TOLERANCE = 0.008
"""How far a boundary may be off and still match, as a share of the picture's diagonal."""


class Statistics(NamedTuple):
    """What the benchmark reports of a measure over the frames of one object."""

    mean: float
    recall: float
    decay: float


def region_similarity(
    ground_truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None
) -> np.ndarray:
    """J: how much of the two masks' union is their intersection, in each frame; 1 where both are empty.

    Args:
        ground_truth: bool (T, H, W).
        prediction: bool (T, H, W).
        void: bool (T, H, W), pixels that count neither way.

    Returns:
        float64 (T,), 0..1.

    Raises:
        ValueError: the shapes differ or are not (T, H, W).
    """
    return _each_frame(_region, ground_truth, prediction, void)


def contour_accuracy(
    ground_truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None
) -> np.ndarray:
    """F: harmonic mean of the boundaries' precision and recall, in each frame; 1 where both are empty.

    A boundary pixel is matched when the other boundary has one within ceil(0.008 x diagonal) pixels.

    Args:
        ground_truth: bool (T, H, W).
        prediction: bool (T, H, W).
        void: bool (T, H, W), pixels that count neither way; both masks are empty there.

    Returns:
        float64 (T,), 0..1.

    Raises:
        ValueError: the shapes differ or are not (T, H, W).
    """
    return _each_frame(_contour, ground_truth, prediction, void)


def statistics(values: np.ndarray) -> Statistics:
    """Mean, recall (share of frames above 0.5) and decay (first quarter's mean minus the last's).

    The quarters share their end frames, as in the DAVIS code; unlike there (bounds cast to 8 bits) the decay
    is right beyond 256 frames. Frames that are NaN don't count.

    Args:
        values: float (T,), J or F of each frame of one object, T >= 1.
    """
    bounds = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.int64)
    first, last = values[bounds[0] : bounds[1] + 1], values[bounds[3] : bounds[4] + 1]
    return Statistics(
        mean=float(np.nanmean(values)),
        recall=float(np.nanmean(values > 0.5)),
        decay=float(np.nanmean(first) - np.nanmean(last)),
    )


def similarity_and_accuracy(
    ground_truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None
) -> tuple[float, float]:
    """J and F of one frame at once; bool (H, W) each. What scoring a stream of frames calls."""
    shape = ground_truth.shape
    truth, found = _cropped(ground_truth, prediction, void)
    return _region(truth, found, shape), _contour(truth, found, shape)


def _each_frame(
    measure: Callable[[np.ndarray, np.ndarray, tuple[int, ...]], float],
    ground_truth: np.ndarray,
    prediction: np.ndarray,
    void: np.ndarray | None,
) -> np.ndarray:
    shapes = {mask.shape for mask in (ground_truth, prediction, void) if mask is not None}
    if len(shapes) > 1 or ground_truth.ndim != 3:
        raise ValueError(
            f"masks must be (T, H, W) of one shape; ground truth is {ground_truth.shape}, prediction "
            f"{prediction.shape}" + ("" if void is None else f", void {void.shape}")
        )
    values = np.empty(len(ground_truth))
    for t, (truth, found) in enumerate(zip(ground_truth, prediction, strict=True)):
        values[t] = measure(*_cropped(truth, found, None if void is None else void[t]), truth.shape)
    return values


def _cropped(truth: np.ndarray, found: np.ndarray, void: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Both masks, empty where void, cut to the box around them and one pixel more where the picture has one.

    With that pixel the cut's edge is either the picture's own edge or empty, so boundaries come out the same.
    """
    truth, found = truth.astype(bool, copy=False), found.astype(bool, copy=False)
    if void is not None:
        counts = ~void.astype(bool, copy=False)
        truth, found = truth & counts, found & counts
    left, top, width, height = cv2.boundingRect((truth | found).view(np.uint8))
    box = slice(max(top - 1, 0), top + height + 1), slice(max(left - 1, 0), left + width + 1)
    return (truth[box], found[box]) if width else (truth[:0, :0], found[:0, :0])


def _region(truth: np.ndarray, found: np.ndarray, shape: tuple[int, ...]) -> float:
    union = np.count_nonzero(truth | found)
    return np.count_nonzero(truth & found) / union if union else 1.0


def _contour(truth: np.ndarray, found: np.ndarray, shape: tuple[int, ...]) -> float:
    """F of two masks cut out of a picture of the given shape."""
    if not truth.size:
        return 1.0
    radius = int(np.ceil(TOLERANCE * np.linalg.norm(shape)))
    truth_boundary, found_boundary = boundary(truth), boundary(found)
    truth_count, found_count = np.count_nonzero(truth_boundary), np.count_nonzero(found_boundary)
    if truth_count == 0 or found_count == 0:  # one half of F is then 0; a full picture has no boundary either
        return float(truth_count == found_count)
    precision = _matched(found_boundary, truth_boundary, radius) / found_count
    recall = _matched(truth_boundary, found_boundary, radius) / truth_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """The boundary of a mask, one pixel wide: where a pixel differs from its right, lower or lower right one.

    Args:
        mask: bool (H, W).

    Returns:
        bool (H, W). The picture's own edge is no boundary.
    """
    # there, and only there, the largest and the smallest value of those four pixels differ
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    square = np.ones((2, 2), dtype=np.uint8)
    gradient = cv2.morphologyEx(
        pixels, cv2.MORPH_GRADIENT, square, anchor=(0, 0), borderType=cv2.BORDER_REPLICATE
    )
    return gradient.view(bool)


def _matched(points: np.ndarray, others: np.ndarray, radius: int) -> int:
    """How many of the points have one of the others within the radius? Both bool (h, w).

    A disk of pixels is a union of a few rectangles around its center, and dilating by a rectangle costs a
    fraction of dilating by the disk. By the largest one it finds most of the points that count, by the square
    around the disk it rules most of the rest out. For the few between, an integral image tells whether one of
    the smaller rectangles holds any of the others.
    """
    largest, *smaller = _rectangles(radius)
    pixels = others.view(np.uint8)
    near = points & _dilated(pixels, *largest)
    places = np.flatnonzero((points ^ near) & _dilated(pixels, radius, radius))
    count = int(np.count_nonzero(near))
    if not len(places):
        return count
    wide = cv2.copyMakeBorder(pixels, *(radius,) * 4, cv2.BORDER_CONSTANT)
    sums = cv2.integral(wide)  # a row and a column of zeros come in front
    stride, flat = sums.shape[1], sums.ravel()
    places += places // others.shape[1] * (stride - others.shape[1]) + radius * (stride + 1)
    rows, columns = np.array(smaller).T[..., None]
    upper, lower = places - rows * stride, places + (rows + 1) * stride
    right = flat.take(lower + (columns + 1)) - flat.take(upper + (columns + 1))
    left = flat.take(lower - columns) - flat.take(upper - columns)
    return count + int(np.count_nonzero((right != left).any(axis=0)))


def _dilated(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Is there a 1 at most so many rows and columns away? uint8 of 0 and 1 -> bool, of one shape."""
    return cv2.dilate(pixels, np.ones((2 * rows + 1, 2 * columns + 1), dtype=np.uint8)).view(bool)


@cache
def _rectangles(radius: int) -> list[tuple[int, int]]:
    """Rectangles (rows, columns to each side of the center) whose union is the disk; the largest first."""
    widest: dict[int, int] = {}  # columns -> the most rows that have them
    for rows in range(radius + 1):
        widest[isqrt(radius * radius - rows * rows)] = rows
    return sorted(((rows, columns) for columns, rows in widest.items()), key=lambda pair: -min(pair))
