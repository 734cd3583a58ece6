"""MOSEv2's measures of a frame against a plain reimplementation over all pairs of boundary pixels."""

from math import ceil, floor, inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.evaluation import metrics
from stm.evaluation.metrics import contour_accuracies
from stm.evaluation.protocols import score_masks


def plain_boundary(mask):
    """Return positions (N, 2) of pixels that differ from their right, lower or lower right neighbor."""
    wide = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return np.argwhere((mask != wide[:-1, 1:]) | (mask != wide[1:, :-1]) | (mask != wide[1:, 1:]))


def plain_matched(points, others, radius):
    """Return the fraction of matched points; the disk is off center if the radius is fractional."""
    fraction = radius - floor(radius)
    shift = 1 - fraction if fraction else 0

    def is_within(offsets):
        return ((offsets + shift) ** 2).sum(axis=-1) <= radius**2

    offsets = others[None] - points[:, None]
    reach = np.arange(-ceil(radius) - 1, ceil(radius) + 2)
    if is_within(np.stack(np.meshgrid(reach, reach), axis=-1)).any():
        return is_within(offsets).any(axis=1).mean()
    return (offsets == -1).all(axis=-1).any(axis=1).mean()  # an empty disk: one pixel up and left


def plain_f(truth, prediction, radius):
    a, b = plain_boundary(truth), plain_boundary(prediction)
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    recall, precision = plain_matched(a, b, radius), plain_matched(b, a, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_measures(truth, prediction):
    """Compute J, F and Fdot from the formulas."""
    cap = 0.008 * sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)
    radius = ceil(0.1 * sqrt(truth.sum())) if truth.any() else inf
    j = ((truth & prediction).sum() + 1) / ((truth | prediction).sum() + 1)
    fdot = plain_f(truth, prediction, min(radius, cap))
    return j, plain_f(truth, prediction, ceil(cap)) if radius < cap else fdot, fdot


def two_masks(shape, seed, area):
    """Return a box of about the area, and the same box moved and with noise."""
    rng = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, *shape), dtype=bool)
    height, width = (max(1, min(int(side), round(sqrt(area) * rng.uniform(0.5, 2)))) for side in shape)
    top, left = rng.integers(0, shape[0] - height + 1), rng.integers(0, shape[1] - width + 1)
    truth[top : top + height, left : left + width] = True
    top, left = np.maximum([top, left] + rng.integers(-4, 5, 2), 0)
    prediction[top : top + height, left : left + width] = True
    return truth, prediction ^ (rng.random(shape) < rng.choice([0, 0.01]))


def assert_equal_to_the_plain_measures(truth, prediction):
    stack = np.array([truth, prediction], dtype=np.uint8)[:, None].repeat(3, 1)
    scores = score_masks("mosev2", *stack, [1])
    values = [scores[name][0, 0] for name in ("J", "F", "Fdot")]
    np.testing.assert_allclose(values, plain_measures(truth, prediction), rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(0, 2**32 - 1), st.sampled_from([1, 9, 400])
)
def test_small_frames(shape, seed, area):
    """Tolerances around one pixel, where the evaluator's disk is empty or lacks its center."""
    assert_equal_to_the_plain_measures(*two_masks(shape, seed, area))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(8, 40), st.integers(300, 1500)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 100, 101, 400, 900, 3000]),
)
def test_wide_frames(shape, seed, area):
    """Tolerances from 2.4 to 12 pixels, objects on both sides of the cap."""
    assert_equal_to_the_plain_measures(*two_masks(shape, seed, area))


@pytest.mark.parametrize("shape", [(3, 4), (30, 40), (300, 400), (75, 100), (150, 200)])
def test_whole_caps(shape):
    """Frames whose diagonal is whole, of which 125 and 250 give a cap without a fraction."""
    for area in (1, 10, 1000):
        assert_equal_to_the_plain_measures(*two_masks(shape, area, area))


@pytest.mark.parametrize("shift", [2, -2])
def test_an_off_center_disk_matches_an_edge_two_pixels_off_from_one_side_only(shift):
    truth = np.zeros((135, 240), dtype=bool)
    truth[:, 100:] = True
    moved = np.zeros_like(truth)
    moved[:, 100 + shift :] = True
    assert contour_accuracies(truth, moved, (3.0, 2.0, 2.2)) == [1, 1, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 12), st.floats(0.1, 12)), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_several_radii_at_once_equal_each_alone(radii, seed):
    """Cover the dilation by disks and the search by unions of rectangles."""
    truth, prediction = two_masks((50, 60), seed, 500)
    plain = [plain_f(truth, prediction, radius) for radius in radii]
    for direct_work in (metrics.DIRECT_WORK, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metrics, "DIRECT_WORK", direct_work)
            alone = [contour_accuracies(truth, prediction, (radius,))[0] for radius in radii]
            assert contour_accuracies(truth, prediction, tuple(radii)) == alone
        np.testing.assert_allclose(alone, plain, rtol=0, atol=1e-12)
