"""J and F: bit-equal to the DAVIS evaluation's values, and to a slow plain way on any masks."""

import time
from math import ceil, hypot

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stm.evaluation.metrics import (
    boundary,
    contour_accuracy,
    region_similarity,
    similarity_and_accuracy,
    statistics,
)

NAMES = ["metrics_judo", "metrics_dogs_jump"]


@pytest.fixture(params=NAMES)
def case(request, golden):
    with np.load(golden / f"{request.param}.npz") as arrays:
        return dict(arrays)


def objects(case):
    return range(1, len(case["J"]) + 1)


# The plain way: pixel by pixel and full size, written from the definition.


def plain_boundary(mask):
    height, width = mask.shape
    edge = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            right, below = min(x + 1, width - 1), min(y + 1, height - 1)
            corner = mask[below, right] if x < width - 1 and y < height - 1 else mask[y, x]
            edge[y, x] = mask[y, x] != mask[y, right] or mask[y, x] != mask[below, x] or mask[y, x] != corner
    return edge


def plain_disk(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


def plain_f(truth, found, boundary=plain_boundary):
    disk = plain_disk(ceil(0.008 * hypot(*truth.shape)))
    a, b = boundary(truth), boundary(found)
    if not a.any() and not b.any():
        return 1.0
    if not a.any() or not b.any():
        return 0.0
    precision = (b & ndimage.binary_dilation(a, disk)).sum() / b.sum()
    recall = (a & ndimage.binary_dilation(b, disk)).sum() / a.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_j(truth, found):
    union = (truth | found).sum()
    return (truth & found).sum() / union if union else 1.0


@st.composite
def two_masks(draw):
    """Blobs that may touch the border, single pixels, empty and full masks, in pictures of any shape."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def mask():
        kind = draw(st.sampled_from(["empty", "full", "pixel", "noise", "blob", "box"]))
        if kind == "empty" or kind == "full":
            return np.full((height, width), kind == "full")
        if kind == "noise":
            return rng.random((height, width)) < rng.random()
        if kind == "blob":
            smooth = ndimage.gaussian_filter(rng.standard_normal((height, width)), 3)
            return smooth > np.quantile(smooth, rng.random())
        top, left = rng.integers(height), rng.integers(width)
        bottom, right = (top + 1, left + 1) if kind == "pixel" else (height - top // 2, width - left // 2)
        box = np.zeros((height, width), dtype=bool)
        box[top:bottom, left:right] = True
        return box

    return mask(), mask(), rng.random((height, width)) < draw(st.sampled_from([0, 0.1, 0.9]))


def test_golden_j_is_bit_equal(case):
    for label in objects(case):
        j = region_similarity(case["ground_truth"] == label, case["prediction"] == label)
        assert j.dtype == np.float64
        np.testing.assert_array_equal(j, case["J"][label - 1])


def test_golden_f_is_bit_equal(case):
    for label in objects(case):
        f = contour_accuracy(case["ground_truth"] == label, case["prediction"] == label)
        np.testing.assert_array_equal(f, case["F"][label - 1])


def test_golden_statistics_are_bit_equal(case):
    for name in ("J", "F"):
        for values, expected in zip(case[name], case[f"{name}_mean_recall_decay"], strict=True):
            np.testing.assert_array_equal(statistics(values), expected)


@settings(max_examples=300, deadline=None)
@given(two_masks())
def test_equal_to_the_plain_way(masks):
    truth, found, void = masks
    assert region_similarity(truth[None], found[None])[0] == plain_j(truth, found)
    assert contour_accuracy(truth[None], found[None])[0] == plain_f(truth, found)
    clear_truth, clear_found = truth & ~void, found & ~void
    expected = plain_j(clear_truth, clear_found), plain_f(clear_truth, clear_found)
    assert similarity_and_accuracy(truth, found, void) == expected
    assert region_similarity(truth[None], found[None], void[None])[0] == expected[0]
    assert contour_accuracy(truth[None], found[None], void[None])[0] == expected[1]


@pytest.mark.parametrize("width", range(100, 1600, 124))
def test_equal_to_the_plain_way_at_every_radius(width):
    """Scattered dots put distances of every length and direction to the test; radius 1 to 12."""
    rng = np.random.default_rng(width)
    for share in (0.0003, 0.003, 0.03):
        truth, found = rng.random((2, 60, width)) < share
        expected = plain_f(truth, found, boundary)  # which the test above holds
        assert contour_accuracy(truth[None], found[None])[0] == expected


@settings(max_examples=50, deadline=None)
@given(two_masks())
def test_symmetric_and_perfect_on_itself(masks):
    truth, found, _ = masks
    assert similarity_and_accuracy(truth, found) == similarity_and_accuracy(found, truth)
    assert similarity_and_accuracy(truth, truth) == (1.0, 1.0)


@pytest.mark.parametrize(("shape", "radius"), [((480, 854), 8), ((750, 1000), 10), ((3, 4), 1), ((9, 5), 1)])
def test_the_tolerance_is_the_diagonal_s_share_rounded_up(shape, radius):
    """A boundary `radius` away matches, one pixel further does not."""
    truth, near, far = (np.zeros((1, *shape), dtype=bool) for _ in range(3))
    start = shape[1] // 4
    truth[..., start:], near[..., start + radius :], far[..., start + radius + 1 :] = True, True, True
    assert contour_accuracy(truth, near)[0] == 1.0
    assert contour_accuracy(truth, far)[0] == 0.0


def test_a_full_picture_has_no_boundary():
    full, empty = np.ones((1, 9, 12), dtype=bool), np.zeros((1, 9, 12), dtype=bool)
    assert not boundary(full[0]).any()
    assert contour_accuracy(full, empty)[0] == 1.0  # as in the DAVIS code: both boundaries are empty
    assert region_similarity(full, empty)[0] == 0.0


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*\(2, 4, 3\)"):
        region_similarity(np.zeros((2, 3, 4), bool), np.zeros((2, 4, 3), bool))
    with pytest.raises(ValueError, match="one shape"):
        contour_accuracy(np.zeros((3, 4), bool), np.zeros((3, 4), bool))


@pytest.mark.parametrize("frames", [256, 300, 500, 10_000])
def test_decay_of_a_straight_line_beyond_256_frames(frames):
    """From 1 down to 0: the quarters' means are three quarters of the way apart."""
    assert statistics(np.linspace(1, 0, frames)).decay == pytest.approx(0.75, abs=2 / frames)


def test_statistics_by_hand():
    mean, recall, decay = statistics(np.array([1.0, 0.9, 0.5, 0.6, 0.0]))
    assert (mean, recall) == (pytest.approx(0.6), pytest.approx(0.6))  # 0.5 itself is no hit
    assert decay == pytest.approx(0.95 - 0.3)  # frames 0-1 against 3-4
    assert statistics(np.array([0.7])) == (0.7, 1.0, 0.0)


def test_at_least_twice_as_fast_as_full_size_dilation(case):
    """Typically four times; half of that here, since machines are busy."""
    truth, found = case["ground_truth"] == 1, case["prediction"] == 1
    kernel = plain_disk(8).astype(np.uint8)

    def full_size():
        for a, b in zip(truth, found, strict=True):
            edges = [boundary(mask).astype(np.uint8) for mask in (a, b)]
            wide = [cv2.dilate(edge, kernel) for edge in edges]
            (edges[0] * wide[1]).sum(), (edges[1] * wide[0]).sum(), edges[0].sum(), edges[1].sum()
            (a & b).sum(), (a | b).sum()

    def ours():
        region_similarity(truth, found)
        contour_accuracy(truth, found)

    def fastest(function):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            function()
            times.append(time.perf_counter() - began)
        return min(times)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        assert fastest(ours) * 2 < fastest(full_size)
    finally:
        cv2.setNumThreads(threads)
