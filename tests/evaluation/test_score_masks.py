"""Inputs that `score_masks` and `VideoScorer` accept and reject."""

import numpy as np
import pytest

from stm.evaluation.protocols import PROTOCOLS, VideoScorer, find_protocol, lvos, score_masks

MOSE = ("mose", "mosev2")


@pytest.fixture
def masks():
    """Truth and prediction of 7 frames with ids 1..3, uint8 (T, H, W)."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 4, (2, 7, 4, 6), dtype=np.uint8).repeat(11, 2).repeat(9, 3)
    return coarse[0], coarse[1]


def assert_equal(scores, expected):
    assert scores.keys() == expected.keys()
    for key, values in expected.items():
        assert scores[key].dtype == values.dtype
        np.testing.assert_array_equal(scores[key], values, err_msg=key)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_dtypes_and_strides_do_not_matter(name, masks):
    expected = score_masks(name, *masks, [1, 2, 3])
    for dtype in (np.uint16, np.int64, np.int8, np.uint64, ">i4"):
        assert_equal(score_masks(name, *(part.astype(dtype) for part in masks), [1, 2, 3]), expected)
    turned = [np.asfortranarray(part) for part in masks]
    assert_equal(score_masks(name, *turned, np.array([1, 2, 3], np.uint8)), expected)
    strided = [part[::-1, ::-1, ::-1].repeat(2, 2)[::-1, ::-1, ::-2] for part in masks]
    assert not strided[0].flags.c_contiguous
    assert_equal(score_masks(name, *strided, (1, 2, 3)), expected)
    for part in masks:
        part.flags.writeable = False
    assert_equal(score_masks(name, *masks, iter([1, 2, 3])), expected)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_bool_masks_and_large_ids(name, masks):
    one = [part == 2 for part in masks]
    large = [np.where(part, 300, 0).astype(np.uint16) for part in one]
    assert_equal(score_masks(name, *one, [1]), score_masks(name, *large, [300]))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_rows_follow_the_objects(name, masks):
    """Test any order, absent ids, and no ids."""
    forward, backward = (score_masks(name, *masks, ids) for ids in ([1, 3], [3, 1]))
    np.testing.assert_array_equal(forward["J"], backward["J"][::-1])
    absent = score_masks(name, *masks, [200])
    assert absent["empty"].all() and (np.isnan(absent["J"]) if name == "sav" else absent["J"] == 1).all()
    nothing = score_masks(name, *masks, [])
    assert nothing["J"].shape == ((0, 0) if name == "lvos" else (0, 5))
    assert all(len(values) == 0 for values in find_protocol(name).summarize_objects(nothing).values())


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("length", [0, 1, 2])
@pytest.mark.filterwarnings("error")
def test_videos_without_counted_frames(name, length, masks):
    truth, prediction = (part[:length] for part in masks)
    scores = score_masks(name, truth, prediction, [1, 2])
    assert scores["J"].shape == (2, 0) and scores["frames"].shape[-1] == 0
    objects = find_protocol(name).summarize_objects(scores)
    assert (objects["J_mean"] == 0).all() if name in MOSE else np.isnan(objects["J_mean"]).all()
    arguments = ([False, True],) if name == "lvos" else ()
    assert find_protocol(name).headline in find_protocol(name).summarize(objects, *arguments)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_smallest_frames(name, size):
    full, empty = np.ones((3, *size), np.uint8), np.zeros((3, *size), np.uint8)
    assert score_masks(name, full, full, [1])["J"] == 1
    missed = score_masks(name, full, empty, [1])
    area = size[0] * size[1]
    assert missed["J"] == (1 / (area + 1) if name in MOSE else 0)
    if name != "vost":
        assert missed["F"] == 1  # a full frame has no boundary


def test_a_frame_full_of_the_object_at_1080p():
    truth = np.ones((3, 1080, 1920), bool)
    prediction = truth.copy()
    prediction[:, :, 1000:] = False
    scores = score_masks("mosev2", truth, prediction, [1])
    assert scores["radius_F"] == scores["radius_Fdot"] == 0.008 * np.hypot(1080, 1920)
    assert scores["Fdot"] == 0 and scores["J"] == (1000 * 1080 + 1) / (1920 * 1080 + 1)


def test_overlapping_objects_are_scored_one_by_one(masks):
    stacks = [np.stack([part == 1, part == 2]) for part in masks]
    assert_equal(score_masks("sav", *stacks, [1, 2]), score_masks("sav", *masks, [1, 2]))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_frame_by_frame_equals_the_whole(name, masks):
    """Add frames in any order, including frames that do not count."""
    scorer = VideoScorer(name, [1, 2, 3], 7)
    assert scorer.frames == [1, 2, 3, 4, 5]
    for t in (6, 3, 1, 2, 0, 5):
        scorer.add(t, masks[0][t], masks[1][t])
    with pytest.raises(ValueError, match="must have all 5 frames that count; got none for 1.*first is 4"):
        scorer.scores()
    scorer.add(4, masks[0][4], masks[1][4])
    assert_equal(scorer.scores(), score_masks(name, *masks, [1, 2, 3]))
    with pytest.raises(ValueError, match=r"prediction=\(3, 4\): must be .*in frame 2; got \(3, 4\)"):
        scorer.add(2, masks[0][2], np.zeros((3, 4), np.uint8))


def test_lvos_ranges_of_objects(masks):
    """Files between the first and the last of a range count; without one, the range is the video."""
    assert lvos.counted_files(1, 46, 9) == [6, 11, 16, 21, 26, 31, 36]  # the range reaches past the last file
    assert lvos.counted_files(1, 41, 9) == [6, 11, 16, 21, 26, 31, 36]  # it ends with the last file
    assert lvos.counted_files(11, 21, 2) == []
    scores = score_masks("lvos", *masks, [2, 1], [[6, 31, 6], [1, 11, 3]])
    assert scores["frames"].tolist() == [[2, 3, 4, 5], [1, -1, -1, -1]]
    davis = score_masks("davis", *masks, [1, 2])
    np.testing.assert_array_equal(scores["J"][0], davis["J"][1, 1:5])
    np.testing.assert_array_equal(scores["J"][1], [davis["J"][0, 0], np.nan, np.nan, np.nan])
    assert_equal(score_masks("lvos", *masks, [1]), score_masks("lvos", *masks, [1], [(1, 36, 7)]))


BAD = {
    "unknown": (
        {"protocol": "davis17"},
        r"protocol='davis17': must be one of davis, mosev2, .*; got 'davis17'",
    ),
    "two dimensions": (
        {"ground_truth": np.zeros((5, 6), int)},
        r"ground_truth=\(5, 6\): must be .*\(T, H, W\)",
    ),
    "four": (
        {"prediction": np.zeros((2, 7, 5, 6), int)},
        r"prediction=\(2, 7, 5, 6\): must be .*\(T, H, W\)",
    ),
    "shapes": (
        {"prediction": np.zeros((7, 6, 5), int)},
        r"must be of the ground truth's shape .*; got \(7, 6, 5\)",
    ),
    "length": ({"prediction": np.zeros((6, 44, 54), int)}, r"must be of the ground truth's shape"),
    "floats": (
        {"prediction": np.zeros((7, 44, 54))},
        "prediction=float64: must be integers or bool; got float64",
    ),
    "no pixels": ({"ground_truth": np.zeros((7, 0, 5), int)}, "must have pixels"),
    "background": ({"objects": [0, 1]}, r"objects=\[0, 1\]: must be distinct integers from 1 on"),
    "twice": ({"objects": [2, 2]}, "must be distinct integers"),
    "names": ({"objects": ["1"]}, "must be distinct integers"),
    "range": ({"frame_range": [[1, 2, 3]]}, "must be None unless protocol='lvos'"),
    "rows": ({"protocol": "lvos", "frame_range": [[1, 2, 3]]}, r"frame_range=.*\(2, 3\); got \(1, 3\)"),
    "too few": (
        {"protocol": "lvos", "frame_range": [[1, 31, 4]] * 2},
        r"frame_range=\(1, 31, 4\): must have frame_nums >= 6 .*; got 4",
    ),
    "outside": (
        {"protocol": "lvos", "frame_range": [[1, 46, 9]] * 2},
        r"must name files 1, 6, ..., 31 of 7 frames",
    ),
    "between": ({"protocol": "lvos", "frame_range": [[2, 32, 6]] * 2}, r"must name files 1, 6, ..., 31"),
    "overlapping": (
        {"protocol": "sav", "ground_truth": np.zeros((3, 7, 5, 6), int)},
        r"ground_truth=\(3, 7, 5, 6\): must be index masks \(T, H, W\) or \(2, T, H, W\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_the_argument(case, masks):
    changes, message = BAD[case]
    values = {"protocol": "mosev2", "ground_truth": masks[0], "prediction": masks[1], "objects": [1, 2]}
    with pytest.raises(ValueError, match=message):
        score_masks(**{**values, **changes})
