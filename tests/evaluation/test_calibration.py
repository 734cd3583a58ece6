"""Calibration of confidence against J, on synthetic pairs and in a real evaluation."""

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

pairs_of_fractions = st.lists(
    st.tuples(st.floats(0, 1, allow_subnormal=False), st.floats(0, 1, allow_subnormal=False)),
    min_size=1,
    max_size=40,
)


def plain_calibration(pairs: list[tuple[float, float]]) -> tuple[float, float, float | None]:
    """Compute error, bias and the area under the curve, pair by pair."""
    pairs = [(s, j) for s, j in pairs if (s, j) != (0, 1)]
    error = 0.0
    for low in np.arange(10) / 10:
        inside = [(s, j) for s, j in pairs if low <= s < low + 0.1 or (s == 1 and low == 0.9)]
        if inside:
            error += abs(sum(s for s, _ in inside) - sum(j for _, j in inside)) / len(pairs)
    lost, tracked = [s for s, j in pairs if j < 0.1], [s for s, j in pairs if j >= 0.1]
    ranks = [1.0 if low < high else 0.5 if low == high else 0.0 for low, high in product(lost, tracked)]
    bias = sum(s - j for s, j in pairs) / len(pairs)
    return error, bias, sum(ranks) / len(ranks) if ranks else None


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30))
def test_equals_a_plain_computation(twentieths):
    pairs = [((s + 0.5) / 21, j / 20) for s, j in twentieths]  # away from the edges of the bins
    result = calibration(*zip(*pairs, strict=True))
    error, bias, lost = plain_calibration(pairs)
    assert result.count == len(pairs)
    assert (result.ece, result.bias) == (pytest.approx(error), pytest.approx(bias))
    assert result.lost == (None if lost is None else pytest.approx(lost))


@given(pairs_of_fractions)
def test_confidence_equal_to_j_is_calibrated(pairs):
    confidence = [s for s, _ in pairs]
    result = calibration(confidence, confidence)
    assert result.ece == pytest.approx(0) and result.bias == 0 and result.lost in (None, 1)


def test_hand_computed_calibration():
    """A frame that is correctly empty is left out; one that is wrongly empty counts."""
    result = calibration([0, 0, 0.95, 0.91, 1.0], [1, 0, 0.8, 0.9, 0.05])
    assert [bin and bin.count for bin in result.bins] == [1, *[None] * 8, 3]
    assert result.bins[-1].confidence == pytest.approx(2.86 / 3) and result.bins[-1].j == pytest.approx(
        1.75 / 3
    )
    assert result.ece == pytest.approx((0 + 3 * (2.86 - 1.75) / 3) / 4)
    assert result.bias == pytest.approx((2.86 - 1.75) / 4)
    assert result.lost == 0.5  # one lost object is below both others, one above both
    assert calibration([0, 0], [1, 1]) is None and calibration([], []) is None


def test_an_evaluation_stores_the_confidence_of_each_frame(tmp_path):
    """Stored confidences equal those of a separate segmenter."""
    bench = synthetic(count=1, kind="plain", pixels=48, frames=6, size=32)
    (video,) = bench.videos
    net = network()
    scores = evaluate(net, MemoryPolicy(), bench, tmp_path, progress=False, workers=0)
    values = json.loads((tmp_path / "sequences" / f"{video.name}.json").read_text())
    values.pop("settings"), values.pop("data")
    (sequence,) = scores.sequences
    assert SequenceScores.from_dict(values) == sequence
    segmenter, expected = Segmenter(net, size=32), {}
    for frame in decode_frames(video, segmenter):
        with torch.inference_mode():
            segmenter.step(frame.prepared)
        expected[frame.t] = segmenter.confidence()
    assert [track.object for track in sequence.confidence] == sorted(video.first_frames)
    for track in sequence.confidence:
        assert list(track.frames) == [1, 2, 3, 4, 5], "the mask of frame 0 is given"
        for t, inside, score in zip(track.frames, track.inside, track.score, strict=True):
            assert (inside, score) == pytest.approx(expected[t][track.object], abs=1e-4)
    stored = json.loads((tmp_path / "scores.json").read_text())["calibration"]
    for kind in KINDS:
        pairs = sequence.confidence_and_j(kind)
        assert len(pairs) == 4 * len(video.first_frames)  # the last frame is not scored
        assert stored[kind]["ece"] == pytest.approx(calibration(*zip(*pairs, strict=True)).ece)


def test_without_ground_truth_there_is_confidence_but_no_calibration(tmp_path):
    class Hidden(ArrayVideo):
        annotated = (0,)

    source = synthetic(count=1, kind="plain", pixels=48, frames=4).videos[0]
    video = Hidden("v", *(np.stack([read(t) for t in range(4)]) for read in (source.frame, source.mask)))
    scores = evaluate(network(), None, Benchmark("b", [video]), tmp_path, progress=False, workers=0)
    assert [track.frames for track in scores.sequences[0].confidence] == [(1, 2, 3)] * len(video.first_frames)
    assert json.loads((tmp_path / "scores.json").read_text())["calibration"] == dict.fromkeys(KINDS)


def test_an_object_that_enters_late_has_a_shorter_track():
    result = tracks({2: {7: Confidence(0.5, 0.25)}, 1: {3: Confidence(1, 0.75)}, 3: {3: Confidence(0, 0)}})
    assert [(track.object, track.frames, track.inside, track.score) for track in result] == [
        (3, (1, 3), (1, 0), (0.75, 0)),
        (7, (2,), (0.5,), (0.25,)),
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_prediction_does_not_synchronize_the_gpu():
    video = synthetic(count=1, kind="plain", pixels=64, frames=6).videos[0]
    net = network().cuda()
    segmenter = segmenter_for(net, None, video)
    for frame in decode_frames(video, segmenter):
        torch.cuda.set_sync_debug_mode("error" if frame.t > 1 else "default")
        try:
            prediction = predict(segmenter, frame)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert prediction.confidence().keys() <= set(video.first_frames)
