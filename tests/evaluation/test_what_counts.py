"""Which frames and objects count, and what they score: by hand, and on real clips."""

import numpy as np
import pytest
from helpers import small_networks as small
from helpers.data_trees import moving

from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.scores import copy_first, frames_that_count, overall, score


def truth(video):
    return [(t, video.mask(t)) for t in video.annotated]


# Which frames and objects count


def test_davis_leaves_out_the_first_and_the_last_frame_and_late_objects():
    assert frames_that_count(moving(), "davis") == {3: [1, 2, 3, 4, 5], 7: [1, 2, 3, 4, 5]}
    late = moving(entries={3: 0, 7: 2})
    assert frames_that_count(late, "davis") == {3: [1, 2, 3, 4, 5]}
    assert frames_that_count(moving(annotated=[0, 5, 6]), "davis") == {3: [5], 7: [5]}


def test_youtube_counts_annotated_frames_after_the_entry():
    late = moving(entries={3: 0, 7: 2}, annotated=[0, 2, 4, 6])
    assert frames_that_count(late, "youtube") == {3: [2, 4, 6], 7: [4, 6]}
    assert frames_that_count(moving(entries={3: 1, 7: 6}), "all") == {3: [2, 3, 4, 5, 6]}


@pytest.mark.parametrize("protocol", ["davis", "youtube", "all"])
def test_masks_that_only_introduce_objects_are_no_truth(protocol):
    hidden = moving(entries={3: 0, 7: 4}, annotated=[0, 4])
    assert frames_that_count(hidden, protocol) == {}
    assert score(hidden, copy_first(hidden), protocol) == ()


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="'davis2017' is unknown; allowed: davis, youtube, all"):
        Benchmark("b", [], protocol="davis2017")
    with pytest.raises(ValueError, match="size=0"):
        Benchmark("b", [], size=0)


# Scores of predictions that are known


@pytest.mark.parametrize("protocol", ["davis", "youtube", "all"])
def test_the_truth_scores_one_and_nothing_scores_zero(protocol):
    video = moving(entries={3: 0, 7: 2})
    assert {(row.J.mean, row.F.mean) for row in score(video, truth(video), protocol)} == {(1.0, 1.0)}
    nothing = ((t, np.zeros_like(labels)) for t, labels in truth(video))
    assert {(row.J.mean, row.F.mean) for row in score(video, nothing, protocol)} == {(0.0, 0.0)}


def test_copy_first_by_hand():
    """A box of 16 columns that moved 2t columns overlaps its first place in 16 - 2t of 16 + 2t."""
    video = moving(entries={3: 0, 7: 2})
    rows = {row.object: row for row in score(video, copy_first(video), "all")}
    assert rows[3].frames == (1, 2, 3, 4, 5, 6)
    assert rows[3].j == tuple((16 - 2 * t) / (16 + 2 * t) for t in range(1, 7))
    assert rows[7].j == tuple((16 - 2 * t) / (16 + 2 * t) for t in range(1, 5))  # its mask is given at 2


def test_void_pixels_count_neither_way():
    video = moving(ids=(3,), length=4)
    wrong = [(t, mask.copy()) for t, mask in truth(video)]
    for t, labels in wrong:
        labels[20:30, 30:] = 3
        video.mask(t)[20:30, 30:] = 255
    (row,) = score(video, wrong)
    assert (row.object, row.j, row.f) == (3, (1.0, 1.0), (1.0, 1.0))


def test_an_object_that_is_gone_wants_an_empty_mask():
    video = moving(ids=(3,), length=5)
    for t in (2, 3, 4):
        video.mask(t)[:] = 0
    (row,) = score(video, truth(video))
    assert row.j == (1.0, 1.0, 1.0)
    (row,) = score(video, copy_first(video))
    assert row.j[1:] == (0.0, 0.0) and row.f[1:] == (0.0, 0.0)


def test_a_missing_prediction_is_named():
    video = moving()
    with pytest.raises(ValueError, match=r"box: object 3 has no prediction on 2 of the 5 frames.*00002"):
        score(video, [item for item in truth(video) if item[0] not in (2, 4)])


def test_real_clips_copying_the_first_mask(shared_data):
    """FIELD_NOTES' numbers for the five validation clips with one object: J .30, F .28."""
    from stm.data.videos import davis

    rows = []
    for video in davis(shared_data / "DAVIS", split="val"):
        if len(video.first_frames) == 1:
            rows += score(video, copy_first(video), "davis")
    values = overall(rows)
    assert (len(rows), round(values["J-Mean"], 2), round(values["F-Mean"], 2)) == (5, 0.30, 0.28)


def test_g_of_videos_with_categories():
    named = moving("named", categories={3: "cat", 7: "unicorn"})
    benchmark = Benchmark("b", [named], protocol="youtube", seen=frozenset({"cat"}))
    scores = evaluate(small.network(), None, benchmark, progress=False)
    rows = {row.object: row for row in scores.objects}
    assert scores.overall["J-Seen"] == rows[3].J.mean and scores.overall["F-Unseen"] == rows[7].F.mean
    assert scores.baselines["all-background"]["G"] == 0.0
