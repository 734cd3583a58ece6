"""Geometric and color augmentation, crops and copy-paste of clips."""

import numpy as np
import pytest
from helpers.data_trees import boxes, smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.data.augment import (
    ColorJitter,
    StillMotion,
    after_shrinking,
    compose,
    crop_matrix,
    shrinkage,
    warp_frame,
    warp_mask,
    zoom_of,
)
from stm.data.copy_paste import cut_out, moving_matrices, paste
from stm.data.cropping import CropAroundObjects, crop_size, label_areas
from stm.data.image_io import shrink_image, shrink_mask
from stm.video import VOID

# --- geometry ---


def test_a_crop_of_the_frames_size_at_zoom_1_is_the_frame():
    frame, mask = smooth_image(0, (40, 60)), boxes({3: (5, 5, 20, 25)})
    matrix = crop_matrix((29.5, 19.5), 1.0, (40, 60))
    assert np.array_equal(warp_frame(frame, matrix, (40, 60)), frame)
    assert np.array_equal(warp_mask(mask, matrix, (40, 60)), mask)


def test_a_flip_mirrors_and_a_crop_at_zoom_1_copies_pixels():
    frame = smooth_image(0, (40, 60))
    mirrored = warp_frame(frame, crop_matrix((29.5, 19.5), 1.0, (40, 60), flip=True), (40, 60))
    assert np.array_equal(mirrored, frame[:, ::-1])
    cut = warp_frame(frame, crop_matrix((9.5, 7.5), 1.0, (16, 20)), (16, 20))
    assert np.array_equal(cut, frame[0:16, 0:20])


def test_matrices_rotate_zoom_and_compose():
    matrix = crop_matrix((10.0, 10.0), 2.0, (21, 21), angle=90)
    assert np.allclose(matrix @ [10, 10, 1], [10, 10])
    assert np.allclose(matrix @ [13, 10, 1], [10, 16])  # from the right to below, at twice the distance
    assert zoom_of(matrix) == pytest.approx(2.0)
    assert zoom_of(crop_matrix((0, 0), 1.5, (9, 9), angle=30, stretch=1.7, flip=True)) == pytest.approx(1.5)
    shift = np.array([[1.0, 0, 5], [0, 1, 7]])
    assert np.allclose(compose(shift, matrix) @ [10, 10, 1], [15, 17])


def test_shrinking_is_lossless_and_gives_the_same_crop():
    whole = smooth_image(1, (240, 320))
    mask = boxes({4: (40, 50, 200, 300)}, (240, 320))
    for zoom, by in ((0.9, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.1, 8)):
        matrix = crop_matrix((150.0, 120.0), zoom, (20, 30), angle=10)
        assert shrinkage(matrix) == by
        small = after_shrinking(matrix, by)
        direct = warp_frame(whole, matrix, (20, 30)).astype(int)
        assert np.abs(warp_frame(shrink_image(whole, by), small, (20, 30)) - direct).mean() < 2
        labels = warp_mask(shrink_mask(mask, by), small, (20, 30))
        assert (labels != warp_mask(mask, matrix, (20, 30))).mean() < 0.06


def test_the_area_beyond_the_frame_has_the_mean_color_and_is_background():
    matrix = crop_matrix((-100.0, -100.0), 1.0, (20, 20))
    assert (warp_frame(smooth_image(0), matrix, (20, 20)) == (124, 116, 104)).all()
    assert not warp_mask(np.full((40, 60), 9, np.uint8), matrix, (20, 20)).any()


# --- motion of stills ---


def still():
    """Return a frame whose color is a function of its mask's label, and the mask."""
    mask = boxes({1: (20, 20, 60, 70), 5: (50, 80, 90, 110)}, (120, 140))
    return np.repeat(mask[..., None] * 40, 3, axis=2), mask


WHOLE = crop_matrix((69.5, 59.5), 0.9, (96, 112))


def motion(**changes):
    amounts = {"rotate": 20.0, "shear": 10.0, "zoom": (0.8, 1.2), "translate": 0.1}
    return StillMotion((96, 112), **(amounts | changes))


def test_frame_and_mask_move_together_and_differently_in_each_frame():
    move, (frame, mask) = motion(), still()
    move.reseed(np.random.default_rng(0))
    moved = [move(frame, mask, WHOLE) for _ in range(3)]
    for image, labels in moved:
        assert image.shape == (96, 112, 3) and set(np.unique(labels)) == {0, 1, 5}
        inside = (labels > 0) & (np.abs(image[..., 0].astype(int) - labels * 40.0) <= 2)
        assert inside.sum() > 0.9 * (labels > 0).sum()  # all but the smooth edges
    assert not np.array_equal(moved[0][1], moved[1][1]) and not np.array_equal(moved[1][1], moved[2][1])


def test_the_motion_of_a_still_depends_only_on_the_generator():
    first, second, (frame, mask) = motion(), motion(), still()
    second(frame, mask, WHOLE)  # an earlier clip must have no influence
    np.random.seed(3)  # noqa: NPY002
    first.reseed(np.random.default_rng(7))
    expected = [first(frame, mask, WHOLE)[0] for _ in range(3)]
    second.reseed(np.random.default_rng(7))
    assert np.array_equal(expected, [second(frame, mask, WHOLE)[0] for _ in range(3)])
    second.reseed(np.random.default_rng(8))
    assert not np.array_equal(expected[0], second(frame, mask, WHOLE)[0])


def test_at_strength_0_a_still_does_not_move():
    move, (frame, mask) = motion(), still()
    for cut in (WHOLE, np.eye(3)[:2]):  # albumentations treats the identity separately
        image, labels = move(frame, mask, cut, strength=0.0)
        assert np.array_equal(labels, warp_mask(mask, cut, (96, 112)))
        assert np.array_equal(image, warp_frame(frame, cut, (96, 112)))
    move.reseed(np.random.default_rng(0))
    little = [
        (move(frame, mask, WHOLE, 0.05)[1] != warp_mask(mask, WHOLE, (96, 112))).mean() for _ in range(9)
    ]
    much = [(move(frame, mask, WHOLE, 1.0)[1] != warp_mask(mask, WHOLE, (96, 112))).mean() for _ in range(9)]
    assert 0 < max(little) < np.mean(much) / 2


def test_each_amount_moves_the_still():
    frame, mask = still()
    none = {"rotate": 0.0, "shear": 0.0, "zoom": (1.0, 1.0), "translate": 0.0}
    rest = warp_mask(mask, WHOLE, (96, 112))
    for amounts, moves in (
        ({}, False),
        ({"rotate": 30.0}, True),
        ({"shear": 20.0}, True),
        ({"translate": 0.2}, True),
    ):
        move = motion(**(none | amounts))
        move.reseed(np.random.default_rng(1))
        assert (not np.array_equal(move(frame, mask, WHOLE)[1], rest)) == moves, amounts
    half = motion(**(none | {"zoom": (0.5, 0.5)}))(frame, mask, WHOLE)[1]
    assert (half == 1).sum() == pytest.approx((rest == 1).sum() / 4, rel=0.1)


# --- color ---


def test_at_strength_0_colors_stay():
    frame = smooth_image(0)
    for recolor in ColorJitter(0.0, 0.0).draw(np.random.default_rng(0), 3):
        assert np.array_equal(recolor(frame), frame.transpose(2, 0, 1))
    for recolor in ColorJitter(1.0, 1.0, 1.0).draw(np.random.default_rng(0), 3, strength=0.0):
        assert np.array_equal(recolor(frame), frame.transpose(2, 0, 1))


def test_the_shared_change_is_the_same_in_all_frames_and_the_own_change_differs_slightly():
    frame = smooth_image(0)
    shared = [f(frame).astype(int) for f in ColorJitter(1.0).draw(np.random.default_rng(1), 3)]
    assert np.array_equal(shared[0], shared[1]) and np.abs(shared[0] - frame.transpose(2, 0, 1)).mean() > 5
    each = [f(frame).astype(int) for f in ColorJitter(1.0, 0.1).draw(np.random.default_rng(1), 3)]
    assert 0 < np.abs(each[0] - each[1]).mean() < 12


def test_channels_are_permuted():
    frame = smooth_image(0)
    orders = set()
    for seed in range(20):
        (recolor,) = ColorJitter(permute=1.0).draw(np.random.default_rng(seed), 1)
        image = recolor(frame)
        orders.add(
            tuple(next(c for c in range(3) if np.array_equal(image[i], frame[..., c])) for i in range(3))
        )
    assert len(orders) == 6


def test_colors_change_monotonically():
    """A brighter value stays brighter at any strength."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for seed in range(50):
        (recolor,) = ColorJitter(1.0, 0.5).draw(np.random.default_rng(seed), 1)
        assert (np.diff(recolor(ramp).astype(int), axis=2) >= 0).all()


# --- crops ---


@settings(max_examples=150, deadline=None)
@given(
    st.integers(16, 90),
    st.integers(16, 90),
    st.sampled_from([(32, 32), (24, 40), (48, 20)]),
    st.floats(1.0, 3.0),
    st.integers(0, 2**32),
    st.data(),
)
def test_a_crop_shows_its_object(height, width, size, largest, seed, data):
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    mask = boxes({200: (top, left, bottom, right)}, (height, width))
    crop = CropAroundObjects(size, scale=(1.0, largest))
    matrix = crop.draw(np.random.default_rng(seed), mask)
    shown = int((warp_mask(mask, matrix, size) == 200).sum())
    whole = (bottom - top) * (right - left) * zoom_of(matrix) ** 2
    pixels = size[0] * size[1]
    thinnest = zoom_of(matrix) * min(bottom - top, right - left)
    if thinnest >= 1.5:  # thinner objects may fall between the crop's pixels
        assert shown >= 1
    if thinnest >= 4:
        assert shown >= 0.5 * min(0.3 * whole, 0.1 * pixels)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(1.0, 2.0))
def test_a_crop_lies_within_the_frame(seed, smallest):
    mask = np.ones((50, 80), dtype=np.uint8)
    crop = CropAroundObjects((32, 48), scale=(smallest, 2.5))
    matrix = crop.draw(np.random.default_rng(seed), mask)
    assert warp_mask(mask, matrix, (32, 48)).all()


def test_at_scale_1_a_crop_shows_the_full_frame_of_its_shape():
    mask = boxes({1: (30, 40, 80, 90)}, (160, 288))
    matrix = CropAroundObjects((80, 144), scale=(1.0, 1.0), flip=0.0).draw(np.random.default_rng(0), mask)
    assert np.allclose(matrix, crop_matrix((143.5, 79.5), 0.5, (80, 144)))


def test_the_fallback_is_the_box_of_the_largest_object():
    mask = boxes({1: (0, 0, 1, 1), 2: (37, 57, 39, 59)})
    crop = CropAroundObjects((32, 32), scale=(1.0, 1.0), min_object_area=0.04, flip=0.0)
    drawn = [crop.draw(np.random.default_rng(seed), mask) for seed in range(9)]
    assert all(np.array_equal(matrix, drawn[0]) for matrix in drawn)
    assert np.allclose(drawn[0] @ [57.5, 37.5, 1], [15.5, 15.5])
    assert crop.visible(warp_mask(mask, drawn[0], (32, 32))).tolist() == [2]


def test_a_mask_without_objects_has_no_crop():
    crop = CropAroundObjects((32, 32))
    assert crop.draw(np.random.default_rng(0), boxes({VOID: (0, 0, 9, 9)})) is None


def test_label_areas_count_only_objects():
    mask = np.random.default_rng(0).integers(0, 256, (50, 70)).astype(np.uint8)
    expected = np.bincount(mask.ravel(), minlength=256)
    expected[[0, VOID]] = 0
    assert np.array_equal(label_areas(mask), expected)


@pytest.mark.parametrize("crop", [0, 8, [384], [384, 10], [1, 2, 3]])
def test_a_crop_is_a_side_or_height_and_width(crop):
    assert crop_size([32, 48]) == (32, 48) and crop_size(32) == (32, 32)
    with pytest.raises(ValueError, match="crop="):
        crop_size(crop)


@pytest.mark.parametrize("wrong", [{"scale": (0.0, 1.0)}, {"scale": (2.0, 1.0)}, {"stretch": 0.5}])
def test_impossible_crops_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CropAroundObjects((32, 32), **wrong)


# --- pasted objects ---


def test_a_pasted_object_matches_its_mask():
    rng = np.random.default_rng(0)
    mask_with_hole = boxes({9: (10, 10, 30, 40)})
    mask_with_hole[12:18, 15:20] = 0
    patch = cut_out(rng, np.full((40, 60, 3), 255, np.uint8), mask_with_hole)
    assert patch[1].shape == (22, 32)
    for label in (254, 0):
        frames = [np.zeros((64, 64, 3), np.uint8) for _ in range(4)]
        masks = [np.full((64, 64), 3, np.uint8) for _ in range(4)]
        paste(frames, masks, patch, moving_matrices(rng, patch[1].shape, (64, 64), 4), label)
        for frame, mask in zip(frames, masks, strict=True):
            assert np.array_equal(mask == label, frame[..., 0] >= 128)
            assert set(np.unique(mask)) <= {3, label}
        assert any((mask == label).any() for mask in masks)


def test_a_pasted_object_moves_with_its_strength():
    still, moving = (
        moving_matrices(np.random.default_rng(5), (20, 30), (64, 64), 3, strength) for strength in (0.0, 1.0)
    )
    assert np.allclose(still[0], still[2])
    assert not np.allclose(moving[0], moving[1])
    assert np.allclose(still[0], moving[0])


def test_nothing_is_cut_out_of_a_still_without_objects():
    assert (
        cut_out(np.random.default_rng(0), smooth_image(0), boxes({VOID: (0, 0, 20, 20), 1: (0, 0, 3, 3)}))
        is None
    )
