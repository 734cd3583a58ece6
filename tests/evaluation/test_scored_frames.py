"""Scored frames and objects, and scores against hand-computed values and on real clips."""

import numpy as np
import pytest
from helpers import small_networks as small
from helpers.data_trees import moving

from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.scores import overall
from stm.evaluation.tally import copy_first, score, scored_frames


def truth(video):
    return [(t, video.mask(t)) for t in video.annotated]


# Scored frames and objects


def test_davis_excludes_first_and_last_frame_and_late_objects():
    assert scored_frames(moving(), "davis") == {3: [1, 2, 3, 4, 5], 7: [1, 2, 3, 4, 5]}
    late = moving(first_frames={3: 0, 7: 2})
    assert scored_frames(late, "davis") == {3: [1, 2, 3, 4, 5]}
    assert scored_frames(moving(annotated=[0, 5, 6]), "davis") == {3: [5], 7: [5]}


def test_youtube_scores_annotated_frames_after_the_entry():
    late = moving(first_frames={3: 0, 7: 2}, annotated=[0, 2, 4, 6])
    assert scored_frames(late, "youtube") == {3: [2, 4, 6], 7: [4, 6]}
    assert scored_frames(moving(first_frames={3: 1, 7: 6}), "all") == {3: [2, 3, 4, 5, 6]}


@pytest.mark.parametrize("protocol", ["davis", "youtube", "all"])
def test_masks_that_only_introduce_objects_are_not_scored(protocol):
    hidden = moving(first_frames={3: 0, 7: 4}, annotated=[0, 4])
    assert scored_frames(hidden, protocol) == {}
    assert score(hidden, copy_first(hidden), protocol) == ()


def test_invalid_protocol_and_size_raise():
    with pytest.raises(ValueError, match="protocol=davis2017: must be one of davis, youtube, all"):
        Benchmark("b", [], protocol="davis2017")
    with pytest.raises(ValueError, match="size=0"):
        Benchmark("b", [], size=0)


# Scores of known predictions


@pytest.mark.parametrize("protocol", ["davis", "youtube", "all"])
def test_truth_scores_one_and_background_scores_zero(protocol):
    video = moving(first_frames={3: 0, 7: 2})
    assert {(row.J.mean, row.F.mean) for row in score(video, truth(video), protocol)} == {(1.0, 1.0)}
    background = ((t, np.zeros_like(labels)) for t, labels in truth(video))
    assert {(row.J.mean, row.F.mean) for row in score(video, background, protocol)} == {(0.0, 0.0)}


def test_copy_first_by_hand():
    """A box of 16 columns that moved by 2t overlaps its first position in 16 - 2t of 16 + 2t columns."""
    video = moving(first_frames={3: 0, 7: 2})
    rows = {row.object: row for row in score(video, copy_first(video), "all")}
    assert rows[3].frames == (1, 2, 3, 4, 5, 6)
    assert rows[3].j == tuple((16 - 2 * t) / (16 + 2 * t) for t in range(1, 7))
    assert rows[7].j == tuple((16 - 2 * t) / (16 + 2 * t) for t in range(1, 5))  # its mask is given at 2


def test_void_pixels_are_ignored():
    video = moving(ids=(3,), length=4)
    wrong = [(t, mask.copy()) for t, mask in truth(video)]
    for t, labels in wrong:
        labels[20:30, 30:] = 3
        video.mask(t)[20:30, 30:] = 255
    (row,) = score(video, wrong)
    assert (row.object, row.j, row.f) == (3, (1.0, 1.0), (1.0, 1.0))


def test_an_absent_object_requires_an_empty_mask():
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


def test_copy_first_on_real_clips(shared_data):
    """The five validation clips with one object have a known J of 0.30 and F of 0.28."""
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
