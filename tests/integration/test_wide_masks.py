"""Masks of 16 bits and more than 254 objects, with BMP and WebP frames, through every room."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_networks as small
from helpers.data_trees import write_frame
from PIL import Image

from stm.cli import main as cli
from stm.data.synthetic.composite import composite_videos
from stm.data.video_clips import VideoClips
from stm.data.videos import folder
from stm.evaluation import benchmarks
from stm.evaluation.evaluate import evaluate
from stm.inference import Segmenter
from stm.masks import narrow, object_ids, read_mask, relabel, restore_ids, write_mask
from stm.visualization import object_color, overlay

SIZE = (32, 48)
MANY = 300
SUFFIXES = {"many": ".bmp", "one": ".webp"}


def many_objects() -> np.ndarray:
    """Return a mask with an object in each of 300 pixels, ids 1..300, 255 among them, and one void pixel."""
    mask = np.zeros(SIZE, np.uint16)
    mask.ravel()[2 : 2 + 2 * MANY : 2] = np.arange(1, MANY + 1)
    mask[-1, -1] = 65_535
    return mask


def test_files_of_16_bits_are_read_and_written(tmp_path: Path) -> None:
    path, mask = tmp_path / "m.png", many_objects()
    write_mask(path, mask)
    with Image.open(path) as image:
        assert image.mode == "I;16"
    read = read_mask(path)
    assert read.dtype == np.uint16 and (read == mask).all()
    assert object_ids(read) == list(range(1, MANY + 1))
    small_ids = np.array([[0, 7, 254, 65_535]], np.uint16)
    Image.fromarray(small_ids).save(path)
    assert read_mask(path).dtype == np.uint8 and read_mask(path).tolist() == [[0, 7, 254, 255]]
    with pytest.raises(ValueError, match=r"0\.\.65535"):
        write_mask(path, mask.astype(np.int64) + 1)


def test_ids_map_to_labels_and_back() -> None:
    mask = np.array([[0, 300, 255, 9, 65_535]], np.uint16)
    assert relabel(mask, [300, 255]).tolist() == [[0, 1, 2, 0, 255]]
    eight_bits = np.array([[0, 7, 9, 255]], np.uint8)  # a frame of the same video without ids beyond 254
    assert relabel(eight_bits, [255, 7, 300]).tolist() == [[0, 2, 0, 255]]
    assert restore_ids(np.array([0, 1, 2]), [300, 255]).tolist() == [0, 300, 255]
    assert restore_ids(np.array([0, 1]), [255]).dtype == np.uint16  # 255 would be void in 8 bits
    assert object_color(256) == object_color(1)
    drawn = overlay(np.zeros((1, 5, 3), np.uint8), mask)
    assert drawn[0, 1].any() and not drawn[0, 4].any()


def test_more_than_254_objects_are_segmented() -> None:
    segmenter = Segmenter(small.network())
    frames, mask = small.frames(2), many_objects()
    labels = segmenter.labels(segmenter.step(frames[0], mask))
    np.testing.assert_array_equal(labels, np.where(mask == 65_535, 0, mask))
    probabilities = segmenter.step(frames[1])
    assert probabilities.shape == (MANY + 1, *SIZE) and segmenter.labels(probabilities).dtype == np.uint16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a plain folder of two videos: 300 objects, and one object with id 300."""
    root = tmp_path_factory.mktemp("wide")
    for name in ("many", "one"):
        for t in range(3):
            mask = many_objects() if name == "many" else np.zeros(SIZE, np.uint16)
            if name == "one":
                mask[8:24, 8 + t : 30 + t] = MANY
            write_frame(
                root / "JPEGImages" / name / f"{t:05d}{SUFFIXES[name]}",
                np.asarray(small.frames(3)[t]).transpose(1, 2, 0),
            )
            write_mask(root / "Annotations" / name / f"{t:05d}.png", mask)
    return root


def test_evaluation_and_score_command(root: Path, tmp_path: Path) -> None:
    """Check the masks and scores of an evaluation, of `stm score` on them, and of true masks."""
    scores = evaluate(
        small.network(), None, benchmarks.folder(root), tmp_path / "run", progress=False, workers=0
    )
    assert len(scores.objects) == MANY + 1 and scores.objects[-1].object == MANY
    assert read_mask(tmp_path / "run/masks/many/00000.png").max() == MANY
    arguments = ["--benchmark", "folder", "--benchmark-root", str(root)]
    for masks, output in ((tmp_path / "run/masks", "again"), (root / "Annotations", "true")):
        assert cli.run(["score", str(masks), *arguments, "--output", str(tmp_path / output)]) == 0
    found = json.loads((tmp_path / "again/scores.json").read_text())["global"]
    assert found["J-Mean"] == pytest.approx(scores.overall["J-Mean"])
    assert json.loads((tmp_path / "true/scores.json").read_text())["global"]["J&F-Mean"] == 1.0


def test_tracking_and_check(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = small.save(tmp_path / "w.ckpt")
    mask = root / "Annotations/one/00000.png"
    video = [
        "track",
        "--video",
        str(root / "JPEGImages/one"),
        "--mask",
        str(mask),
        "--output",
        str(tmp_path / "out"),
    ]
    assert cli.run([*video, "--weights", str(weights), "--device", "cpu", "--no-overlay"]) == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "out/masks/00000.png"), read_mask(mask))
    assert f",{MANY}," in (tmp_path / "out/confidence.csv").read_text()
    cli.run(["check", str(root)])
    checked = capsys.readouterr().out
    assert "the ids are 300" in checked and "mask-mode" not in checked


def test_clips_are_drawn(root: Path) -> None:
    for name in ("many", "one"):
        videos = [video for video in folder(root) if video.name == name]
        clip = VideoClips(videos, crop=32, num_frames=2, color=0).clip(0, np.random.default_rng(0))
        assert clip.masks.dtype == torch.uint8 and 1 <= clip.objects <= 3
        assert set(range(1, clip.objects + 1)) <= set(clip.masks[0].unique().tolist())


def test_frames_without_ids_beyond_254(tmp_path: Path) -> None:
    """Check clips and tracks of a video whose masks have 16 bits only where they need them."""
    for t in range(24):
        mask = np.zeros(SIZE, np.uint16)
        mask[8:16, 8:20], mask[20:28, 20:32] = 7, MANY if t % 12 < 10 else 0
        write_frame(tmp_path / f"JPEGImages/a/{t:05d}.jpg", np.full((*SIZE, 3), 9 * t, np.uint8))
        write_mask(tmp_path / f"Annotations/a/{t:05d}.png", narrow(mask))
    videos = folder(tmp_path)
    assert {videos[0].annotated_mask(t).dtype.name for t in (0, 11)} == {"uint8", "uint16"}
    clips = VideoClips(videos, crop=32, num_frames=3)
    assert all(clips.clip(k, np.random.default_rng(k)).objects for k in range(12))
    videos[0].name = "b"
    pool = composite_videos([*videos, *folder(tmp_path)], 1, frame_size=(64, 96))[0].pool
    assert {(track.label, len(track.frames)) for track in pool.tracks} == {(7, 24), (MANY, 10)}
