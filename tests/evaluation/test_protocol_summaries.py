"""Summaries over frames, disappearances, objects and videos against hand-computed values."""

import numpy as np
import pytest
from helpers.printed_measures import printed_objects

from stm.evaluation.metrics import statistics
from stm.evaluation.protocols import (
    PROTOCOLS,
    VideoScorer,
    concatenate,
    disappearance_measures,
    lvos,
    mosev2,
    sav,
    score_masks,
    summarize_disappearance,
    vost,
)


def blob(frames, size, *boxes):
    """Return index masks with (id, frames, top, left, height, width) boxes."""
    masks = np.zeros((frames, *size), dtype=np.uint8)
    for label, when, top, left, height, width in boxes:
        masks[when, top : top + height, left : left + width] = label
    return masks


def test_davis_summary_by_hand():
    truth = blob(6, (20, 30), (1, slice(None), 2, 2, 10, 10), (2, slice(None), 14, 2, 4, 8))
    prediction = truth.copy()
    prediction[3] = blob(1, (20, 30), (1, 0, 2, 7, 10, 10))[0]  # half of the first object, none of the second
    objects = PROTOCOLS["davis"].summarize_objects(score_masks("davis", truth, prediction, [1, 2]))
    np.testing.assert_allclose(objects["J_mean"], [(3 + 1 / 3) / 4, 3 / 4])
    overall = PROTOCOLS["davis"].summarize(objects)
    assert overall["J-Mean"] == pytest.approx((10 / 12 + 3 / 4) / 2) and overall["J-Recall"] == 3 / 4
    assert overall["J&F-Mean"] == (overall["J-Mean"] + overall["F-Mean"]) / 2
    for row, values in enumerate(score_masks("davis", truth, prediction, [1, 2])["J"]):
        assert statistics(values) == tuple(objects[f"J_{name}"][row] for name in ("mean", "recall", "decay"))


def test_disappearance_by_hand():
    """Object 1 is absent on frames 3, 4 and 6 and predicted on 4; object 2 enters late, a reappearance."""
    box = 1, [0, 1, 2, 5, 7, 8], 2, 2, 10, 10
    late = 2, [4, 5, 6, 7, 8], 14, 2, 4, 8
    truth, prediction = blob(9, (20, 30), box, late), blob(9, (20, 30), box, (1, 4, 2, 2, 3, 3), late)
    prediction[8] = 0  # does not count
    prediction[7][truth[7] == 1] = 0
    objects = disappearance_measures(score_masks("davis", truth, prediction, [1, 2, 3]))
    np.testing.assert_allclose(objects["J_d_mean"], [((1 + 0) / 2 + 1) / 2, np.nan, np.nan])
    np.testing.assert_allclose(objects["F_r_mean"], [(1 + 0) / 2, 1, np.nan])
    assert summarize_disappearance(objects) == {"J&F_d": 0.75, "J&F_r": 0.75}
    no_runs = disappearance_measures(score_masks("davis", truth, prediction, [3]))
    assert all(np.isnan(value) for value in summarize_disappearance(no_runs).values())


def test_disappearance_ends_with_an_object_s_own_range():
    """LVOS's ranges differ by object; columns without a frame belong to no run."""
    truth = blob(8, (9, 9), (1, slice(0, 3), 1, 1, 5, 5), (2, slice(None), 6, 6, 2, 2))
    scores = score_masks("lvos", truth, truth, [1, 2], [[1, 26, 5], [1, 36, 8]])
    assert scores["frames"].tolist() == [[1, 2, 3, -1, -1, -1], [1, 2, 3, 4, 5, 6]]
    objects = disappearance_measures(scores)
    np.testing.assert_array_equal(objects["J_d_mean"], [1, np.nan])


def test_mosev2_summary_over_videos():
    """A video without predictions scores 0, and does not count in disappearances and reappearances."""
    truth = blob(7, (100, 150), (1, [0, 1, 2, 5, 6], 2, 2, 10, 10))
    objects = mosev2.summarize_objects(score_masks("mosev2", truth, truth, [1]))
    missing = mosev2.summarize_objects(VideoScorer("mosev2", [1, 2, 3], length=0).scores())
    overall = mosev2.summarize(concatenate([objects, missing]))
    assert overall["J&Fdot"] == overall["J"] == overall["F"] == 0.25
    assert overall["J&Fdot_d"] == overall["J&Fdot_r"] == 1.0 == overall["J&Fdot_corrected"]
    short = mosev2.summarize_objects(score_masks("mosev2", truth[:2], truth[:2], [1]))
    np.testing.assert_equal(short, {name: values[:1] for name, values in missing.items()})
    assert printed_objects(short)[0]["disappear_J&F_new"] is None


def test_mosev2_adds_one_to_j():
    truth = blob(3, (20, 30), (1, 1, 2, 2, 1, 1))
    scores = score_masks("mosev2", truth, np.zeros_like(truth), [1])
    assert (scores["J"], scores["J_corrected"]) == (0.5, 0)


def test_lvos_summary_by_hand():
    objects = {
        name: np.array(values)
        for name, values in {
            "J_mean": [0.2, 0.4, 0.9],
            "F_mean": [0.4, 0.6, 0.7],
            "V": [0.1, 0.3, 0.4],
        }.items()
    }
    objects |= {
        f"{name}_corrected{rest}": objects[f"{name}{rest}"]
        for name, rest in (("J", "_mean"), ("F", "_mean"), ("V", ""))
    }
    overall = lvos.summarize(objects, [False, False, True])
    assert overall["J-Mean"] == pytest.approx((0.3 + 0.9) / 2)
    assert overall["J&F-Mean"] == pytest.approx((0.3 + 0.9 + 0.5 + 0.7) / 4)
    assert overall["V-seen-Mean"] == pytest.approx(0.2) and overall["V-unseen-Mean"] == 0.4
    one_half = lvos.summarize(objects, [False] * 3)
    assert one_half["J-seen-Mean"] == pytest.approx(0.5) and np.isnan(one_half["J&F-Mean"])
    header = "J&F-Mean,J-Mean,J-seen-Mean,J-unseen-Mean,F-Mean,F-seen-Mean,F-unseen-Mean,V-Mean,V-seen-Mean,"
    assert lvos.global_csv(overall).splitlines() == [
        header + "V-unseen-Mean",
        "0.600,0.600,0.300,0.900,0.600,0.500,0.700,0.300,0.200,0.400",
    ]
    assert lvos.sequence_csv(["a_1", "a_2", "b_1"], objects).splitlines()[1] == "a_1,0.200,0.400,0.100"


def test_lvos_v_is_rounded_before_the_root():
    truth = blob(5, (20, 30), (1, slice(None), 2, 2, 10, 10))
    prediction = truth.copy()
    prediction[2, 2] = 0
    scores = score_masks("lvos", truth, prediction, [1], [(1, 21, 5)])
    x = (scores["J"][0] + scores["F"][0]) / 2
    objects = lvos.summarize_objects(scores)
    assert objects["V"] == pytest.approx(np.sqrt(np.round(np.var(x), 4)), abs=1e-12)
    assert objects["V_corrected"] == pytest.approx(np.std(x), abs=1e-12)


def test_lvos_counts_unfilled_frames_as_zero():
    truth = blob(6, (9, 9), (1, slice(None), 2, 2, 4, 4))
    scores = score_masks("lvos", truth, truth, [1], [("00000001", "00000026", "9")])
    assert scores["frames"].tolist() == [[1, 2, 3, 4, -1, -1, -1]]
    objects = lvos.summarize_objects(scores)
    assert objects["J_mean"] == pytest.approx(4 / 7) and objects["J_corrected_mean"] == 1


def test_vost_objects_are_ids_up_to_the_first_mask_s_largest():
    assert vost.first_mask_objects(np.array([[0, 255], [4, 1]], np.uint8)) == [1, 2, 3, 4]
    assert vost.first_mask_objects(np.zeros((2, 2), np.uint8)) == []


def test_vost_corrected_means_leave_out_gaps():
    truth = blob(8, (20, 30), (1, slice(None), 2, 2, 10, 10), (3, slice(None), 14, 2, 4, 8))
    prediction = blob(8, (20, 30), (1, slice(None), 2, 2, 10, 10), (2, slice(None), 0, 20, 4, 4))
    objects = vost.summarize_objects(score_masks("vost", truth, prediction, [1, 2, 3]))
    overall = vost.summarize(objects, np.array([True, False, True]))
    assert overall["J-Mean"] == pytest.approx(1 / 3) and overall["J_corrected-Mean"] == 1 / 2
    assert vost.global_csv(overall).splitlines()[1] == "0.333,0.333,0.000,0.333,0.333,0.000"
    table = vost.sequence_csv(["a_1", "a_2", "a_3"], objects)
    assert table == "Sequence,J-Mean,J_last-Mean\na_1,1.000,1.000\na_2,0.000,0.000\na_3,0.000,0.000\n"


@pytest.mark.parametrize("count", [255, 256, 257, 300, 341, 342, 512, 513, 682, 683])
def test_vost_decay_in_eight_bits(count):
    """Decay is nan where the cast bounds contain no frame, at the counts where the evaluator printed nan."""
    values = np.random.default_rng(count).random(count)
    scores = dict.fromkeys(("J", "J_corrected"), values[None])
    objects = vost.summarize_objects(scores)
    assert objects["J_corrected_decay"] == statistics(values).decay
    assert np.isnan(objects["J_decay"]) == (257 <= count <= 341 or 513 <= count <= 682)
    if count <= 256:
        assert objects["J_decay"] == objects["J_corrected_decay"]


def test_sav_leaves_out_objects_that_the_truth_never_shows():
    truth = blob(6, (9, 9), (1, slice(None), 2, 2, 4, 4), (2, [0, 5], 7, 7, 2, 2))
    prediction = truth.copy()
    prediction[3, 0, 0] = 3
    scores = score_masks("sav", truth, prediction, [1, 2, 3])
    assert scores["in_ground_truth"].tolist() == [True, False, False]
    np.testing.assert_array_equal(scores["J"][1:], [[np.nan] * 4, [np.nan, np.nan, 0, 1]])
    objects = sav.summarize_objects(scores)
    np.testing.assert_array_equal(objects["J_mean"], [100, np.nan, np.nan])
    assert sav.summarize(objects) == {"J&F": 100, "J": 100, "F": 100}
    assert "002" not in sav.results_csv([("v", "000"), ("v", "001"), ("v", "002")], objects)
