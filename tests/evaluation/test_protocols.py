"""Measures of the benchmarks: equal to the public evaluators' values and to plain reimplementations."""

import json

import numpy as np
import pytest
from helpers.printed_measures import as_printed, printed_objects
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.evaluation.metrics import contour_accuracy, region_similarity
from stm.evaluation.protocols import (
    PROTOCOLS,
    find_protocol,
    mosev2,
    sav,
    score_masks,
)
from stm.evaluation.protocols.disappearance import find_segments

CASES = {
    "mosev2": "absences bmx dogs_void huge one_frame shifted sizes squares tall_kite tiny",
    "lvos": "absences dogs_void gaps_in_ids huge tall_kite tiny",
    "vost": "absences dogs_void gaps_in_ids long longer one_frame tiny",
    "sav": "absences huge overlapping tall_kite tiny",
    "savindex": "absences dogs_void gaps_in_ids",
}
TOLERANCE = {"sav": 1e-9}  # in per cent


def named(*kinds):
    """Return the names of the cases of these kinds."""
    return [f"{kind}_{case}" for kind in kinds for case in CASES[kind].split()]


@pytest.fixture(params=named(*CASES))
def case(request, golden):
    """Return the protocol's name, the arrays of the case, the scores and the measures of its objects."""
    kind = request.param.partition("_")[0]
    name = "sav" if kind == "savindex" else kind
    with np.load(golden / "metrics2026" / f"{request.param}.npz") as arrays:
        values = dict(arrays)
    count = len(values["objects"])
    ids = range(1, count + 1) if kind == "sav" else values["objects"].tolist()
    masks = values["ground_truth"], values["prediction"]
    scores = score_masks(name, *masks, ids, values.get("frame_range"))
    return name, values, scores, find_protocol(name).summarize_objects(scores)


def test_every_frame_and_object_is_the_evaluator_s(case):
    name, expected, scores, objects = case
    compared = [key for key in expected if key in scores or key in objects]
    assert {"frames", "J", "J_mean"} <= set(compared)
    for key in compared:
        value, atol = scores.get(key, objects.get(key)), 1e-12
        if key in objects:
            atol = TOLERANCE.get(name, atol)
        assert value.shape == expected[key].shape
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=atol, err_msg=key)


def test_all_that_the_evaluator_gives_is_compared(case):
    """The remaining arrays are inputs, printed values, and those of the tests below."""
    name, expected, scores, objects = case
    other_arrays = {"ground_truth", "prediction", "objects", "frame_range", "overall", "overall_names"}
    other_arrays |= {
        "disappear_segments",
        "reappear_segments",
        "overall_printed",
        "object_printed",
        "results_csv",
    }
    other_arrays |= {"last_quarter_from", "F_if_cython_is_built"}
    assert set(expected) <= other_arrays | set(scores) | set(objects)


@pytest.mark.parametrize("case", named("mosev2", "vost", "sav", "savindex"), indirect=True)
def test_overall_measures_are_the_evaluator_s(case):
    name, expected, _, objects = case
    overall = find_protocol(name).summarize(objects)
    values = [overall[key] for key in expected["overall_names"]]
    np.testing.assert_allclose(values, expected["overall"], rtol=0, atol=TOLERANCE.get(name, 1e-12))


@pytest.mark.parametrize("case", named("mosev2"), indirect=True)
def test_mosev2_s_printed_values_are_the_evaluator_s(case):
    _, expected, _, objects = case
    overall = mosev2.summarize(objects)
    printed = [as_printed(overall[key]) for key in expected["overall_names"]]
    np.testing.assert_array_equal(printed, expected["overall_printed"])
    rows = [f"clip_{label}" for label in expected["objects"]]
    printed = dict(zip(rows, printed_objects(objects), strict=True))
    assert printed == json.loads(str(expected["object_printed"]))


@pytest.mark.parametrize("case", named("sav", "savindex"), indirect=True)
def test_sav_s_table_is_the_evaluator_s(case):
    _, expected, _, objects = case
    labels = expected["objects"].tolist()
    folders = [label if isinstance(label, str) else f"{label:03d}" for label in labels]
    assert sav.results_csv([("clip", folder) for folder in folders], objects) == str(expected["results_csv"])


@pytest.mark.parametrize("case", named("mosev2"), indirect=True)
def test_disappearances_are_the_evaluator_s(case):
    name, expected, scores, _ = case
    for kind, key in enumerate(("disappear_segments", "reappear_segments")):
        segments = [
            (label, begin + 1, end + 1)
            for label, empty in zip(expected["objects"], scores["empty"], strict=True)
            for begin, end in find_segments(empty)[kind]
        ]
        np.testing.assert_array_equal(np.array(segments).reshape(-1, 3), expected[key])


@st.composite
def videos(draw):
    """Truth and prediction (T, H, W) with ids 0..4 and some void; blocks of random size, speckled."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames, height, width = draw(st.integers(0, 7)), draw(st.integers(1, 60)), draw(st.integers(1, 60))
    block = draw(st.sampled_from([1, 7, 23]))
    coarse = rng.integers(0, 5, (2, frames, height // block + 1, width // block + 1))
    masks = coarse.repeat(block, 2).repeat(block, 3)[:, :, :height, :width].astype(np.uint8)
    masks[rng.random(masks.shape) < draw(st.sampled_from([0, 0.05]))] = 0
    masks[0][rng.random(masks[0].shape) < draw(st.sampled_from([0, 0.1]))] = 255
    masks[:, rng.random(frames) < 0.3] = 0
    return masks[0], masks[1]


@settings(max_examples=60, deadline=None)
@given(videos())
def test_frames_are_davis_s_own_without_void(masks):
    """J and F of LVOS, VOST and SA-V, and the corrected ones of MOSEv2."""
    truth, prediction = masks
    ids = [4, 1, 2]
    inner = slice(1, max(len(truth) - 1, 1))
    ours = {name: score_masks(name, truth, prediction, ids) for name in PROTOCOLS}
    for row, label in enumerate(ids):
        pair = truth[inner] == label, prediction[inner] == label
        j, f = region_similarity(*pair), contour_accuracy(*pair)
        for name, suffix in (("lvos", ""), ("vost", ""), ("mosev2", "_corrected")):
            np.testing.assert_array_equal(ours[name]["J" + suffix][row], j)
            if name != "vost":
                np.testing.assert_array_equal(ours[name]["F" + suffix][row], f)
        shown = np.cumsum(pair[0].any(axis=(1, 2)) | pair[1].any(axis=(1, 2))) > 0
        np.testing.assert_array_equal(ours["sav"]["J"][row], np.where(shown, j, np.nan))
        np.testing.assert_array_equal(ours["sav"]["F"][row], np.where(shown, f, np.nan))
        void = truth[inner] == 255
        np.testing.assert_array_equal(ours["davis"]["J"][row], region_similarity(*pair, void))
        np.testing.assert_array_equal(ours["davis"]["F"][row], contour_accuracy(*pair, void))
        np.testing.assert_array_equal(ours["vost"]["J_corrected"][row], ours["davis"]["J"][row])
