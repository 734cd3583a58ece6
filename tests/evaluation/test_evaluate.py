"""Evaluation: segmentation of videos, written files, and resuming after an interruption."""

import csv
import json
import mmap
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers.data_trees import boxes, moving, write_video
from PIL import Image

from stm.evaluation import benchmarks
from stm.evaluation.evaluate import Benchmark, evaluate, validate
from stm.evaluation.peak_memory import PeakMemory
from stm.evaluation.tally import score
from stm.evaluation.video_evaluator import segment_video
from stm.inference import Segmenter
from stm.masks import read_mask
from stm.memory import MemoryPolicy
from stm.network import STM


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return STM(
        backbone="tiny",
        norm="group",
        key_channels=8,
        value_channels=16,
        decoder_channels=16,
        key_input="image",
        similarity="l2",
    ).eval()


# Segmentation of videos


def test_segment_video_equals_segmenter_steps(network):
    video = moving(first_frames={3: 1, 7: 3})
    segmenter = Segmenter(network, MemoryPolicy(every=2))
    with torch.no_grad():
        for t, labels in segment_video(network, MemoryPolicy(every=2), video):
            expected = segmenter.labels(segmenter.step(video.frame(t), video.prompt_mask(t)))
            assert labels.dtype == np.uint8
            np.testing.assert_array_equal(labels, expected)
    assert t == 6 and video.read[0] == 1  # from the first given mask to the end


@pytest.mark.parametrize("size", [None, 24, 40, 64])
def test_labels_have_the_frame_s_size_and_keep_given_masks(network, size):
    video = moving(first_frames={3: 0, 7: 3})
    results = dict(segment_video(network, None, video, size))
    assert {labels.shape for labels in results.values()} == {(40, 56)}
    np.testing.assert_array_equal(results[0], video.mask(0))
    np.testing.assert_array_equal(results[3] == 7, video.mask(3) == 7)
    assert set(np.unique(list(results.values()))) <= {0, 3, 7}
    full_size = dict(segment_video(network, None, video))
    assert all(np.array_equal(results[t], full_size[t]) for t in full_size) == (size in (None, 40))


def test_an_object_that_vanishes_at_the_network_s_size_is_kept(network):
    video = moving(ids=(3,))
    video.mask(0)[39, 55] = 9
    results = dict(segment_video(network, None, video, 8))
    np.testing.assert_array_equal(results[0], video.mask(0))
    alone = moving(ids=())
    alone.mask(0)[17, 23] = 9
    assert len(dict(segment_video(network, None, alone, 8))) == 7


def test_segment_video_streams(network):
    video = moving()
    stream = segment_video(network, None, video)
    for t in range(3):
        next(stream)
        assert video.read == list(range(t + 1))


def test_training_continues_after_validation(network):
    """The mode of the network is restored, no inference tensor remains, and grad mode does not leak."""
    video = moving()
    network.train()
    try:
        scores = validate(network, None, Benchmark("b", [video]))
        stream = segment_video(network, None, video)
        next(stream)
        assert not network.training and not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        stream.close()
        assert network.training
        segmenter = Segmenter(network)
        for t in range(3):
            probabilities = segmenter.step(video.frame(t), video.prompt_mask(t))
        probabilities[1].mean().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    finally:
        network.zero_grad()
        network.eval()
    assert len(scores.objects) == 2 and scores.output is None and scores.baselines == {}


# Files, and resuming after an interruption


def run(network, output, videos, *, policy=None, size=32, **options):
    benchmark = Benchmark("boxes", videos, size=size, protocol="youtube")
    return evaluate(network, policy, benchmark, output, progress=False, **options)


def contents(folder):
    """Return the content of every file except those with measured times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".json"
    }


def videos():
    return [
        moving("first"),
        moving("late", first_frames={3: 2, 7: 4}, output_frames=[0, 2, 4, 6]),
        moving("hidden", first_frames={3: 0, 7: 4}, annotated=[0, 4]),
    ]


def test_written_files(network, tmp_path):
    scores = run(network, tmp_path, videos(), checkpoint="abc", video=True)
    names = {name for name in contents(tmp_path) if name.endswith(".png")}
    frames = {"first": range(7), "late": [0, 2, 4, 6], "hidden": range(7)}
    assert names == {f"masks/{name}/{t:05d}.png" for name in frames for t in frames[name]}
    assert not read_mask(tmp_path / "masks/late/00000.png").any()  # no object is known yet
    for video in videos():
        for t, labels in segment_video(network, None, video, 32):
            if t in video.output_frames:
                path = tmp_path / "masks" / video.name / f"{t:05d}.png"
                np.testing.assert_array_equal(read_mask(path), labels)
                with Image.open(path) as image:
                    assert image.mode == "P"
        count = min(5, sum(t >= min(video.first_frames.values()) for t in video.output_frames))
        with Image.open(tmp_path / "overlays" / f"{video.name}.jpg") as sheet:
            assert count * 5 * 56 < sheet.width < (count + 1) * 5 * 56  # 40 rows, enlarged to 200
        with av.open(str(tmp_path / "overlays" / f"{video.name}.mp4")) as clip:
            assert len(list(clip.decode(video=0))) == len(video.output_frames)
    values = json.loads((tmp_path / "scores.json").read_text())
    assert values["global"] == scores.overall
    assert values["settings"]["checkpoint"] == "abc" and values["settings"]["policy"]["every"] == 5
    assert set(values["baselines"]) == {"copy-first", "all-background"}
    assert {(row["sequence"], row["object"]) for row in values["sequences"]} == {
        (name, label) for name in ("first", "late") for label in (3, 7)
    }
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4 + 3
    assert scores.frames_per_second > 0 and scores.peak_mb > 10
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]


def test_scores_equal_those_of_the_written_masks(network, tmp_path):
    run(network, tmp_path, videos())
    video = videos()[0]
    masks = [(t, read_mask(tmp_path / f"masks/first/{t:05d}.png")) for t in range(7)]
    values = json.loads((tmp_path / "sequences/first.json").read_text())
    for row, expected in zip(values["objects"], score(video, masks, "youtube"), strict=True):
        assert (tuple(row["j"]), tuple(row["f"])) == (expected.j, expected.f)


def test_resuming_after_an_interruption(network, tmp_path):
    """Finished sequences are kept, the unfinished one restarts, and the results equal those of one run."""
    uninterrupted = run(network, tmp_path / "uninterrupted", videos())

    class DiskError(Exception):
        pass

    failing = videos()
    frame = failing[1].frame

    def fail_at_frame_5(t):
        if t == 5:
            raise DiskError
        return frame(t)

    failing[1].frame = fail_at_frame_5
    with pytest.raises(DiskError):
        run(network, tmp_path / "resumed", failing)
    finished = tmp_path / "resumed" / "sequences"
    assert [path.name for path in finished.iterdir()] == ["first.json"]
    assert not (tmp_path / "resumed" / "scores.json").exists()
    before = (finished / "first.json").read_bytes()

    again = videos()
    resumed = run(network, tmp_path / "resumed", again)
    assert again[0].read == [] and again[1].read != []
    assert (finished / "first.json").read_bytes() == before
    assert contents(tmp_path / "resumed") == contents(tmp_path / "uninterrupted")
    assert resumed.overall == uninterrupted.overall and resumed.baselines == uninterrupted.baselines
    assert [row.j for row in resumed.objects] == [row.j for row in uninterrupted.objects]


def test_a_finished_run_only_adds_missing_overlays(network, tmp_path):
    first = run(network, tmp_path, videos(), overlays=False)
    assert not (tmp_path / "overlays").exists()
    masks = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    second = run(network, tmp_path, videos(), overlays=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == masks
    assert len(list((tmp_path / "overlays").glob("*.jpg"))) == 3
    assert second == first  # including the times of the first run


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"policy": MemoryPolicy(every=3)}, "policy"),
        ({"size": 24}, "size 32 != 24"),
        ({"checkpoint": "other"}, "checkpoint"),
    ],
)
def test_results_of_other_settings_raise(network, tmp_path, changed, message):
    run(network, tmp_path, videos()[:1])
    with pytest.raises(
        ValueError, match=rf"first\.json comes from other settings \({message}.*another output"
    ):
        run(network, tmp_path, videos(), **changed)


def test_results_in_another_precision_raise(network, tmp_path):
    run(network, tmp_path, videos()[:1])
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match=r"other settings \(precision float32 != bfloat16\)"),
    ):
        run(network, tmp_path, videos())


def test_results_of_another_resolution_or_folder_raise(network, tmp_path):
    masks = [boxes({1: (5, 5, 30, 40)})] * 4
    for below, size in (("480p", (40, 60)), ("240p", (20, 30))):
        write_video(
            tmp_path, "a", [mask[:: 40 // size[0], :: 40 // size[0]] for mask in masks], 1, below, size
        )
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("a")
    output = tmp_path / "output"
    evaluate(network, None, benchmarks.davis(tmp_path), output, progress=False)
    with pytest.raises(ValueError, match=r"a\.json comes from other settings \(source .*480p != .*240p\)"):
        evaluate(network, None, benchmarks.davis(tmp_path, resolution="240p"), output, progress=False)
    assert (
        evaluate(network, None, benchmarks.davis(tmp_path), output, progress=False).sequences[0].length == 4
    )


def test_a_video_with_more_frames_is_segmented_again(network, tmp_path):
    run(network, tmp_path, [moving("first", length=5)])
    sheet = (tmp_path / "overlays" / "first.jpg").read_bytes()
    scores = run(network, tmp_path, [moving("first", length=7)])
    assert scores.sequences[0].length == 7
    assert (tmp_path / "overlays" / "first.jpg").read_bytes() != sheet


def test_two_videos_of_one_name_raise(network, tmp_path):
    with pytest.raises(ValueError, match="two videos are named 'first'"):
        run(network, None, [moving("first"), moving("first")])


def test_nothing_is_written_without_an_output_folder(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = run(network, None, videos())
    assert list(Path.cwd().iterdir()) == []
    assert scores.overall and scores.baselines["copy-first"]


def test_a_video_without_objects_is_background(network, tmp_path):
    empty = moving("empty", ids=(), length=3)
    scores = run(network, tmp_path, [empty])
    assert scores.overall == {} and scores.frames_per_second == 0
    assert not any(read_mask(tmp_path / f"masks/empty/{t:05d}.png").any() for t in range(3))


def test_peak_memory_includes_freed_memory():
    peak = PeakMemory(torch.device("cpu"))
    before = peak.bytes()
    with mmap.mmap(-1, 100 * 2**20) as pages:  # new pages, unlike those of the heap
        pages.write(bytes(len(pages)))
    assert peak.bytes() - before >= 90 * 2**20


def test_a_folder_with_a_video_without_objects_raises(tmp_path):
    for name, label in (("cat", 3), ("dog", 0)):
        for place, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
            (tmp_path / place / name).mkdir(parents=True)
            image = np.full((32, 32, 3) if suffix == "jpg" else (32, 32), label, dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / place / name / f"0.{suffix}")
    with pytest.raises(ValueError, match=r"1 of 2 .* dog must show an object, .*Annotations/dog/0.png"):
        benchmarks.folder(tmp_path)
    assert [video.name for video in benchmarks.folder(tmp_path, only=["cat"]).videos] == ["cat"]
