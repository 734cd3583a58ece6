"""Region similarity J and contour accuracy F of the DAVIS benchmark.

Defined by Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
CVPR 2016, section 5. The edge cases are those of the DAVIS-2017 evaluation code, to which the values are
bit-equal. Masks are cropped to the box around both, since J and F do not depend on the empty rest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

TOLERANCE = 0.008
"""Distance up to which boundaries match, as a fraction of the image diagonal."""


class Statistics(NamedTuple):
    """Statistics of a measure over the frames of one object, as the benchmark reports them."""

    mean: float
    recall: float
    decay: float


def region_similarity(
    ground_truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None
) -> np.ndarray:
    """Compute J of each frame: intersection over union, 1 where both masks are empty.

    Args:
        ground_truth: bool (T, H, W).
        prediction: bool (T, H, W).
        void: bool (T, H, W), pixels to ignore.

    Returns:
        float64 (T,), 0..1.

    Raises:
        ValueError: the shapes differ or are not (T, H, W).
    """
    return _each_frame(_region, ground_truth, prediction, void)


def contour_accuracy(
    ground_truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None
) -> np.ndarray:
    """Compute F of each frame: harmonic mean of boundary precision and recall, 1 where both are empty.

    A boundary pixel matches if the other boundary has a pixel within ceil(0.008 x diagonal) pixels.

    Args:
        ground_truth: bool (T, H, W).
        prediction: bool (T, H, W).
        void: bool (T, H, W), pixels to ignore; both masks are cleared there.

    Returns:
        float64 (T,), 0..1.

    Raises:
        ValueError: the shapes differ or are not (T, H, W).
    """
    return _each_frame(_contour, ground_truth, prediction, void)


def statistics(values: np.ndarray) -> Statistics:
    """Compute mean, recall (fraction of frames above 0.5) and decay (first quarter's mean minus the last's).

    The quarters share their end frames, as in the DAVIS code. That code casts their bounds to 8 bits, so its
    decay is wrong beyond 256 frames; this one is not. As there, mean and decay leave out NaN frames, which
    the recall counts as misses.

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
    """Compute J and F of one frame; all masks are bool (H, W)."""
    shape = ground_truth.shape
    truth, predicted = crop(ground_truth, prediction, void)
    return _region(truth, predicted, shape), _contour(truth, predicted, shape)


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
    for t, (truth, predicted) in enumerate(zip(ground_truth, prediction, strict=True)):
        values[t] = measure(*crop(truth, predicted, None if void is None else void[t]), truth.shape)
    return values


def crop(truth: np.ndarray, predicted: np.ndarray, void: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Crop both masks to the box around them with a margin of one pixel, and clear them where void.

    The margin makes each edge of the crop either an edge of the frame or empty, so boundaries do not change.
    """
    truth, predicted = truth.astype(bool, copy=False), predicted.astype(bool, copy=False)
    if void is not None:
        counts = ~void.astype(bool, copy=False)
        truth, predicted = truth & counts, predicted & counts
    left, top, width, height = cv2.boundingRect((truth | predicted).view(np.uint8))
    box = slice(max(top - 1, 0), top + height + 1), slice(max(left - 1, 0), left + width + 1)
    return (truth[box], predicted[box]) if width else (truth[:0, :0], predicted[:0, :0])


def _region(truth: np.ndarray, predicted: np.ndarray, shape: tuple[int, ...]) -> float:
    union = np.count_nonzero(truth | predicted)
    return np.count_nonzero(truth & predicted) / union if union else 1.0


def _contour(truth: np.ndarray, predicted: np.ndarray, shape: tuple[int, ...]) -> float:
    """Compute F of two masks that were cropped from a frame of the given shape."""
    return contour_accuracies(truth, predicted, (int(np.ceil(tolerance(shape))),))[0]


def tolerance(shape: tuple[int, ...]) -> float:
    """Return the boundary tolerance of a frame (H, W) in pixels, not rounded."""
    return float(TOLERANCE * np.linalg.norm(shape))


def contour_accuracies(truth: np.ndarray, predicted: np.ndarray, radii: tuple[float, ...]) -> list[float]:
    """Compute F of one frame at several radii, with the work on the boundaries done once.

    A radius with a fraction means the off-center disk that MOSEv2's evaluator makes of it, see `_disk`.

    Args:
        truth: bool (H, W), cropped by `crop` or whole.
        predicted: bool (H, W), the same.
        radii: in pixels, > 0.

    Returns:
        F at each radius, 0..1.
    """
    if not truth.size:
        return [1.0] * len(radii)
    truth_boundary, predicted_boundary = boundary(truth), boundary(predicted)
    truth_count, predicted_count = np.count_nonzero(truth_boundary), np.count_nonzero(predicted_boundary)
    if truth_count == 0 or predicted_count == 0:  # F is 0 if only one mask has a boundary
        return [float(truth_count == predicted_count)] * len(radii)
    matches = zip(
        _matched(predicted_boundary, truth_boundary, radii),
        _matched(truth_boundary, predicted_boundary, radii),
        strict=True,
    )
    pairs = [(hits / predicted_count, recalled / truth_count) for hits, recalled in matches]
    return [2 * p * r / (p + r) if p + r else 0.0 for p, r in pairs]


def boundary(mask: np.ndarray) -> np.ndarray:
    """Return the boundary of a mask: pixels that differ from their right, lower or lower right neighbor.

    Args:
        mask: bool (H, W).

    Returns:
        bool (H, W), one pixel wide; the edge of the frame is not a boundary.
    """
    # the maximum and the minimum of these four pixels differ exactly there
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    square = np.ones((2, 2), dtype=np.uint8)
    gradient = cv2.morphologyEx(
        pixels, cv2.MORPH_GRADIENT, square, anchor=(0, 0), borderType=cv2.BORDER_REPLICATE
    )
    return gradient.view(bool)


DIRECT_WORK = 1_000_000
"""Pixels times pixels of the disks up to which dilating by the disks is the fastest way."""


class Rectangle(NamedTuple):
    """Rows and columns around a pixel, the last ones included; negative above and left of it."""

    top: int
    bottom: int
    left: int
    right: int


def _matched(points: np.ndarray, others: np.ndarray, radii: tuple[float, ...]) -> list[int]:
    """Count, for each radius, the points that have one of the others within it. Both bool (h, w).

    On small masks the others are dilated by the disks themselves. On larger ones each disk is taken as a
    union of a few rectangles around its center, since dilating by a rectangle costs a fraction of dilating by
    the disk. A rectangle inside all disks finds most of the points that count, one around all disks rules
    most of the rest out. For the few between, an integral image shows which rectangles hold any.
    """
    pixels = others.view(np.uint8)
    disks = [_disk(radius) for radius in radii]
    if pixels.size * sum(disk.size for disk in disks) <= DIRECT_WORK:
        return [int(np.count_nonzero(points & cv2.dilate(pixels, disk).view(bool))) for disk in disks]
    inner, outer, parts, corners = _search(radii)
    near = points & _dilated(pixels, inner) if inner else np.zeros_like(points)
    places = np.flatnonzero((points ^ near) & _dilated(pixels, outer))
    count = int(np.count_nonzero(near))
    if not len(places):
        return [count] * len(radii)
    margin = max(map(abs, outer))
    wide = cv2.copyMakeBorder(pixels, *(margin,) * 4, cv2.BORDER_CONSTANT)
    sums = cv2.integral(wide)  # a row and a column of zeros come in front
    stride, flat = sums.shape[1], sums.ravel()
    places += places // others.shape[1] * (stride - others.shape[1]) + margin * (stride + 1)
    top, bottom, left, right = corners
    upper, lower = places + top * stride, places + bottom * stride
    in_right = flat.take(lower + right) - flat.take(upper + right)
    in_left = flat.take(lower + left) - flat.take(upper + left)
    holds = in_right != in_left
    return [count + int(np.count_nonzero(holds[part].any(axis=0))) for part in parts]


def _dilated(pixels: np.ndarray, around: Rectangle) -> np.ndarray:
    """Return where a 1 lies in the rectangle around a pixel; uint8 of 0 and 1 -> bool, of one shape."""
    kernel = np.ones((around.bottom - around.top + 1, around.right - around.left + 1), dtype=np.uint8)
    return cv2.dilate(pixels, kernel, anchor=(-around.left, -around.top)).view(bool)


@lru_cache(maxsize=1024)
def _search(radii: tuple[float, ...]) -> tuple[Rectangle | None, Rectangle, list[slice], np.ndarray]:
    """Return the rectangles by which `_matched` searches for these radii.

    Returns:
        A rectangle inside all disks that holds the center, None without one; one around all disks and the
        center; each disk's slice of the R rectangles that make up the disks without the first; and these, int
        (4, R, 1), as `Rectangle` with ends excluded.
    """
    disks = [_rectangles(_disk(radius)) for radius in radii]
    tops, bottoms, lefts, rights = zip(*(disk[0] for disk in disks), strict=True)
    inner: Rectangle | None = Rectangle(max(tops), min(bottoms), max(lefts), min(rights))
    if inner and not (inner.top <= 0 <= inner.bottom and inner.left <= 0 <= inner.right):
        inner = None
    tops, bottoms, lefts, rights = zip(*(rectangle for disk in disks for rectangle in disk), strict=True)
    outer = Rectangle(min(0, *tops), max(0, *bottoms), min(0, *lefts), max(0, *rights))
    others = [[rectangle for rectangle in disk if rectangle != inner] or [disk[0]] for disk in disks]
    ends = np.cumsum([len(disk) for disk in others]).tolist()
    parts = [slice(end - len(disk), end) for end, disk in zip(ends, others, strict=True)]
    corners = np.array([rectangle for disk in others for rectangle in disk]).T[..., None]
    return inner, outer, parts, corners + np.array([0, 1, 0, 1]).reshape(4, 1, 1)


@lru_cache(maxsize=1024)
def _disk(radius: float) -> np.ndarray:
    """Return the pixels of a disk, uint8 (D, D), its center the array's middle.

    They are those of a grid from -radius on. A whole radius gives the usual disk, any other one that lies up
    to a pixel up and left. Where no pixel is within the radius, OpenCV dilates by the grid's first one.
    """
    axis = np.arange(-radius, radius + 1)
    inside = axis[:, None] ** 2 + axis**2 <= radius**2
    inside[0, 0] |= not inside.any()
    return inside.view(np.uint8)


def _rectangles(disk: np.ndarray) -> list[Rectangle]:
    """Return rectangles around the center whose union is the disk; the largest first."""
    spans = {}
    for row in np.flatnonzero(disk.any(axis=1)).tolist():
        columns = np.flatnonzero(disk[row])
        spans[row] = int(columns[0]), int(columns[-1])
    middle, rectangles = len(disk) // 2, []
    for left, right in set(spans.values()):
        rows = [row for row, (first, last) in spans.items() if first <= left and right <= last]
        rectangles.append(Rectangle(*(index - middle for index in (rows[0], rows[-1], left, right))))
    return sorted(rectangles, key=lambda r: (-min(r.bottom - r.top, r.right - r.left), r))
