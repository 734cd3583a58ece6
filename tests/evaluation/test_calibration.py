"""Confidence against J, from predictions made by hand and from an evaluation that really ran."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from helpers.small_networks import network
from hypothesis import given
from hypothesis import strategies as st

from stm.evaluation.benchmarks import synthetic
from stm.evaluation.calibration import KINDS, calibration, tracks
from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.scores import SequenceScores
from stm.evaluation.video_evaluator import decode_frames, predict, segmenter_for
from stm.inference import Confidence, Segmenter
from stm.memory import MemoryPolicy
from stm.video import ArrayVideo

shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)


def plain(pairs: list[tuple[float, float]]) -> tuple[float, float, float | None]:
    """Error, bias and the chance, one pair of frames after the other."""
    pairs = [(sure, j) for sure, j in pairs if (sure, j) != (0, 1)]
    error = 0.0
    for low in np.arange(10) / 10:
        here = [(s, j) for s, j in pairs if low <= s < low + 0.1 or (s == 1 and low == 0.9)]
        if here:
            error += abs(sum(s for s, _ in here) - sum(j for _, j in here)) / len(pairs)
    lost, held = [s for s, j in pairs if j < 0.1], [s for s, j in pairs if j >= 0.1]
    told = [1.0 if low < high else 0.5 if low == high else 0.0 for low, high in product(lost, held)]
    bias = sum(s - j for s, j in pairs) / len(pairs)
    return error, bias, sum(told) / len(told) if told else None


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30))
def test_it_is_what_a_plain_count_gives(twentieths):
    pairs = [((s + 0.5) / 21, j / 20) for s, j in twentieths]  # away from the bins' borders
    found = calibration(*zip(*pairs, strict=True))
    error, bias, lost = plain(pairs)
    assert found.count == len(pairs)
    assert (found.ece, found.bias) == (pytest.approx(error), pytest.approx(bias))
    assert found.lost == (None if lost is None else pytest.approx(lost))


@given(shares)
def test_a_confidence_that_is_j_is_calibrated(pairs):
    sure = [s for s, _ in pairs]
    found = calibration(sure, sure)
    assert found.ece == pytest.approx(0) and found.bias == 0 and found.lost in (None, 1)


def test_by_hand():
    """Two bins; the rightly empty frame is left out, the wrongly empty one counts."""
    found = calibration([0, 0, 0.95, 0.91, 1.0], [1, 0, 0.8, 0.9, 0.05])
    assert [one and one.count for one in found.bins] == [1, *[None] * 8, 3]
    assert found.bins[-1].confidence == pytest.approx(2.86 / 3) and found.bins[-1].j == pytest.approx(
        1.75 / 3
    )
    assert found.ece == pytest.approx((0 + 3 * (2.86 - 1.75) / 3) / 4)
    assert found.bias == pytest.approx((2.86 - 1.75) / 4)
    assert found.lost == 0.5  # of the lost ones one is below both others, one is above both
    assert calibration([0, 0], [1, 1]) is None and calibration([], []) is None


def test_an_evaluation_keeps_the_confidence_of_each_frame(tmp_path):
    """The same as a segmenter of its own gives, in files and back."""
    bench = synthetic(count=1, kind="plain", pixels=48, frames=6, size=32)
    (video,) = bench.videos
    net = network()
    scores = evaluate(net, MemoryPolicy(), bench, tmp_path, progress=False, workers=0)
    values = json.loads((tmp_path / "sequences" / f"{video.name}.json").read_text())
    values.pop("settings")
    (sequence,) = scores.sequences
    assert SequenceScores.from_dict(values) == sequence
    segmenter, expected = Segmenter(net, size=32), {}
    for frame in decode_frames(video, segmenter):
        with torch.inference_mode():
            segmenter.step(frame.prepared)
        expected[frame.t] = segmenter.confidence()
    assert [track.object for track in sequence.confidence] == sorted(video.first_frames)
    for track in sequence.confidence:
        assert list(track.frames) == [1, 2, 3, 4, 5], "on the first it was given"
        for t, inside, score in zip(track.frames, track.inside, track.score, strict=True):
            assert (inside, score) == pytest.approx(expected[t][track.object], abs=1e-4)
    told = json.loads((tmp_path / "scores.json").read_text())["calibration"]
    for kind in KINDS:
        pairs = sequence.beside_j(kind)
        assert len(pairs) == 4 * len(video.first_frames)  # the last frame counts not
        assert told[kind]["ece"] == pytest.approx(calibration(*zip(*pairs, strict=True)).ece)


def test_without_truth_there_is_confidence_and_no_calibration(tmp_path):
    class Hidden(ArrayVideo):
        annotated = (0,)

    made = synthetic(count=1, kind="plain", pixels=48, frames=4).videos[0]
    video = Hidden("v", *(np.stack([read(t) for t in range(4)]) for read in (made.frame, made.mask)))
    scores = evaluate(network(), None, Benchmark("b", [video]), tmp_path, progress=False, workers=0)
    assert [track.frames for track in scores.sequences[0].confidence] == [(1, 2, 3)] * len(video.first_frames)
    assert json.loads((tmp_path / "scores.json").read_text())["calibration"] == dict.fromkeys(KINDS)


def test_scores_from_before_are_read():
    values = SequenceScores("v", 3, 2, 1.0, 0, ()).to_dict()
    del values["confidence"]
    assert SequenceScores.from_dict(values).confidence == ()


def test_an_object_that_enters_later_has_a_shorter_track():
    made = tracks({2: {7: Confidence(0.5, 0.25)}, 1: {3: Confidence(1, 0.75)}, 3: {3: Confidence(0, 0)}})
    assert [(one.object, one.frames, one.inside, one.score) for one in made] == [
        (3, (1, 3), (1, 0), (0.75, 0)),
        (7, (2,), (0.5,), (0.25,)),
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: on a CPU nothing is waited for")
def test_nothing_waits_for_the_gpu():
    video = synthetic(count=1, kind="plain", pixels=64, frames=6).videos[0]
    net = network().cuda()
    segmenter = segmenter_for(net, None, video)
    for frame in decode_frames(video, segmenter):
        torch.cuda.set_sync_debug_mode("error" if frame.t > 1 else "default")
        try:
            made = predict(segmenter, frame)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert made.confidence().keys() <= set(video.first_frames)
