"""J and F: bit-equal to the DAVIS evaluation's values and to two plain implementations on any masks."""

from math import ceil, hypot

import cv2
import numpy as np
import pytest
from helpers import davis_reference
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


# A slow implementation of the definition, pixel by pixel, also used to test the DAVIS implementation.


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


def plain_f(truth, predicted):
    disk = plain_disk(ceil(0.008 * hypot(*truth.shape)))
    a, b = plain_boundary(truth), plain_boundary(predicted)
    if not a.any() and not b.any():
        return 1.0
    if not a.any() or not b.any():
        return 0.0
    precision = (b & ndimage.binary_dilation(a, disk)).sum() / b.sum()
    recall = (a & ndimage.binary_dilation(b, disk)).sum() / a.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_j(truth, predicted):
    union = (truth | predicted).sum()
    return (truth & predicted).sum() / union if union else 1.0


@st.composite
def two_masks(draw):
    """Blobs that may touch the border, single pixels, empty and full masks, in frames of any shape."""
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
def test_equal_to_the_plain_implementation(masks):
    truth, predicted, void = masks
    for measure in (region_similarity, davis_reference.region_similarity):
        assert measure(truth[None], predicted[None])[0] == plain_j(truth, predicted)
    for measure in (contour_accuracy, davis_reference.contour_accuracy):
        assert measure(truth[None], predicted[None])[0] == plain_f(truth, predicted)
    clear_truth, clear_predicted = truth & ~void, predicted & ~void
    expected = plain_j(clear_truth, clear_predicted), plain_f(clear_truth, clear_predicted)
    assert similarity_and_accuracy(truth, predicted, void) == expected
    for measure in (region_similarity, davis_reference.region_similarity):
        assert measure(truth[None], predicted[None], void[None])[0] == expected[0]
    for measure in (contour_accuracy, davis_reference.contour_accuracy):
        assert measure(truth[None], predicted[None], void[None])[0] == expected[1]


def assert_equal_to_the_davis_implementation(truth, predicted, void=None):
    """Compare all measures of masks, bool (T, H, W) each."""
    j, f = (
        measure(truth, predicted, void)
        for measure in (davis_reference.region_similarity, davis_reference.contour_accuracy)
    )
    np.testing.assert_array_equal(region_similarity(truth, predicted, void), j)
    np.testing.assert_array_equal(contour_accuracy(truth, predicted, void), f)
    frames = zip(truth, predicted, [None] * len(truth) if void is None else void, strict=True)
    assert [similarity_and_accuracy(*masks) for masks in frames] == list(zip(j, f, strict=True))


@st.composite
def two_clips(draw):
    """Objects of any roughness at the sizes of real clips, with predictions near the truth or far off."""
    size = draw(st.sampled_from([(480, 854), (480, 910), (240, 432), (480, 270), (720, 1280), (96, 96)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def field(roughness):
        coarse = rng.standard_normal((max(2, size[0] // roughness), max(2, size[1] // roughness)))
        return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)

    first = field(draw(st.sampled_from([1, 3, 12, 60, 200])))
    other = field(draw(st.sampled_from([2, 12, 60])))
    noise = draw(st.sampled_from([0, 0.03, 0.3, 3]))
    second = np.roll(first, draw(st.integers(-20, 20)), axis=1) + noise * other
    fraction = draw(st.sampled_from([0.01, 0.1, 0.5, 0.95]))
    void = field(30) > 1.5
    return (
        (first < np.quantile(first, fraction))[None],
        (second < np.quantile(second, fraction))[None],
        void[None],
    )


@settings(max_examples=40, deadline=None)
@given(two_clips())
def test_equal_to_the_davis_implementation(masks):
    truth, predicted, void = masks
    assert_equal_to_the_davis_implementation(truth, predicted)
    assert_equal_to_the_davis_implementation(truth, predicted, void)


@pytest.mark.parametrize("width", range(100, 2600, 124))
def test_equal_to_the_davis_implementation_at_every_radius(width):
    """Scattered dots cover distances of every length and direction, at radii from 1 to 20."""
    rng = np.random.default_rng(width)
    for density in (0.0003, 0.003, 0.03):
        truth, predicted = rng.random((2, 1, 60, width)) < density
        assert_equal_to_the_davis_implementation(truth, predicted)


def test_equal_to_the_davis_implementation_on_the_golden_masks(case):
    for label in objects(case):
        assert_equal_to_the_davis_implementation(case["ground_truth"] == label, case["prediction"] == label)


def test_equal_to_the_davis_implementation_on_real_clips(shared_data):
    """The masks of each clip are compared with those three frames earlier."""
    from stm.data.videos import davis

    for video in davis(shared_data / "DAVIS", split="val"):
        masks = np.stack([video.mask(t) for t in range(0, min(len(video), 40), 3)])
        for label in video.first_frames:
            assert_equal_to_the_davis_implementation(masks[1:] == label, masks[:-1] == label)


@settings(max_examples=50, deadline=None)
@given(two_masks())
def test_symmetric_and_one_for_equal_masks(masks):
    truth, predicted, _ = masks
    assert similarity_and_accuracy(truth, predicted) == similarity_and_accuracy(predicted, truth)
    assert similarity_and_accuracy(truth, truth) == (1.0, 1.0)


@pytest.mark.parametrize(("shape", "radius"), [((480, 854), 8), ((750, 1000), 10), ((3, 4), 1), ((9, 5), 1)])
def test_the_tolerance_is_a_fraction_of_the_diagonal_rounded_up(shape, radius):
    """A boundary at distance `radius` matches, one that is a pixel farther does not."""
    truth, near, far = (np.zeros((1, *shape), dtype=bool) for _ in range(3))
    start = shape[1] // 4
    truth[..., start:], near[..., start + radius :], far[..., start + radius + 1 :] = True, True, True
    assert contour_accuracy(truth, near)[0] == 1.0
    assert contour_accuracy(truth, far)[0] == 0.0


def test_a_full_mask_has_no_boundary():
    full, empty = np.ones((1, 9, 12), dtype=bool), np.zeros((1, 9, 12), dtype=bool)
    assert not boundary(full[0]).any()
    assert contour_accuracy(full, empty)[0] == 1.0  # as in the DAVIS code: both boundaries are empty
    assert region_similarity(full, empty)[0] == 0.0


def test_different_shapes_raise():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*\(2, 4, 3\)"):
        region_similarity(np.zeros((2, 3, 4), bool), np.zeros((2, 4, 3), bool))
    with pytest.raises(ValueError, match="one shape"):
        contour_accuracy(np.zeros((3, 4), bool), np.zeros((3, 4), bool))


@pytest.mark.parametrize("frames", [256, 300, 500, 10_000])
def test_decay_of_a_straight_line_beyond_256_frames(frames):
    """On a line from 1 to 0, the means of the outer quarters differ by three quarters."""
    assert statistics(np.linspace(1, 0, frames)).decay == pytest.approx(0.75, abs=2 / frames)


def test_statistics_by_hand():
    mean, recall, decay = statistics(np.array([1.0, 0.9, 0.5, 0.6, 0.0]))
    assert (mean, recall) == (pytest.approx(0.6), pytest.approx(0.6))  # 0.5 itself does not count
    assert decay == pytest.approx(0.95 - 0.3)  # frames 0-1 against 3-4
    assert statistics(np.array([0.7])) == (0.7, 1.0, 0.0)
