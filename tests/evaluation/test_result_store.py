"""Scores of an earlier run are shown only for the same data, settings and version of the package."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import network
from PIL import Image

from stm.data.image_io import sample_bytes
from stm.data.videos import FileVideo
from stm.evaluation import benchmarks
from stm.evaluation.evaluate import evaluate
from stm.inference.ensemble import Augmentation
from stm.masks import write_mask


def write_data(root: Path, seed: int) -> None:
    """Two videos of five frames; a seed decides all pixels, never a name."""
    rng = np.random.default_rng(seed)
    for name in ("a", "b"):
        (root / "JPEGImages" / name).mkdir(parents=True, exist_ok=True)
        for t in range(5):
            frame = rng.integers(0, 256, (32, 48, 3), np.uint8)
            Image.fromarray(frame).save(root / "JPEGImages" / name / f"{t:05d}.png")
            mask = np.zeros((32, 48), np.uint8)
            mask[4 + seed : 20 + seed, 6 + t : 24 + t] = 1
            write_mask(root / "Annotations" / name / f"{t:05d}.png", mask)


def run(root: Path, output: Path, **more: Any):
    return evaluate(network(), None, benchmarks.folder(root), output, progress=False, workers=0, **more)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "stm")
    return caplog


def test_scores_are_kept_for_equal_data_and_that_is_logged(tmp_path: Path, logged) -> None:
    write_data(tmp_path / "data", 0)
    first = run(tmp_path / "data", tmp_path / "out")
    assert "kept" not in logged.text
    assert run(tmp_path / "data", tmp_path / "out").sequences == first.sequences
    assert "2 videos kept from an earlier run (reuse=false evaluates anew)" in logged.text
    logged.clear()
    again = run(tmp_path / "data", tmp_path / "out", reuse=False)
    assert "kept" not in logged.text and again.overall == first.overall


@pytest.mark.parametrize("part", ["JPEGImages", "Annotations"])
def test_changed_data_under_the_same_names_is_evaluated_anew(tmp_path: Path, logged, part: str) -> None:
    write_data(tmp_path / "data", 0)
    old = run(tmp_path / "data", tmp_path / "out")
    write_data(tmp_path / "other", 3)
    shutil.copytree(tmp_path / "other" / part / "b", tmp_path / "data" / part / "b", dirs_exist_ok=True)
    new = run(tmp_path / "data", tmp_path / "out")
    assert "b: frames, masks or the package changed" in logged.text
    assert "1 videos kept" in logged.text
    fresh = run(tmp_path / "data", tmp_path / "fresh")
    assert new.overall == fresh.overall != old.overall


def test_another_version_of_the_package_is_evaluated_anew(tmp_path: Path, logged) -> None:
    write_data(tmp_path / "data", 0)
    run(tmp_path / "data", tmp_path / "out")
    for path in (tmp_path / "out" / "sequences").iterdir():
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | {"data": values["data"] + ".1"}))
    run(tmp_path / "data", tmp_path / "out")
    assert "kept" not in logged.text


def test_settings_that_an_earlier_version_did_not_record_are_not_taken_as_equal(tmp_path: Path) -> None:
    write_data(tmp_path / "data", 0)
    run(tmp_path / "data", tmp_path / "out")
    path = tmp_path / "out" / "sequences" / "a.json"
    values = json.loads(path.read_text())
    del values["settings"]["precision"]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"comes from other settings \(precision None != float32\)"):
        run(tmp_path / "data", tmp_path / "out")


def test_a_deleted_mask_is_written_again(tmp_path: Path) -> None:
    write_data(tmp_path / "data", 0)
    run(tmp_path / "data", tmp_path / "out")
    mask = tmp_path / "out" / "masks" / "a" / "00003.png"
    content = mask.read_bytes()
    mask.unlink()
    run(tmp_path / "data", tmp_path / "out")
    assert mask.read_bytes() == content


def test_a_sample_of_a_file_covers_its_size_ends_and_middle(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = bytearray(np.random.default_rng(0).integers(0, 256, 100_000, np.uint8).tobytes())
    path.write_bytes(content)
    before = sample_bytes(path)
    for place in (0, 50_000, 99_999):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert sample_bytes(path) != before
    path.write_bytes(content + b"x")
    assert sample_bytes(path) != before
    path.write_bytes(content)
    assert sample_bytes(path) == before


def test_files_that_a_crash_emptied_are_written_again(tmp_path: Path, logged) -> None:
    write_data(tmp_path / "data", 0)
    first = run(tmp_path / "data", tmp_path / "out")
    broken, mask = tmp_path / "out/sequences/a.json", tmp_path / "out/masks/b/00003.png"
    content = mask.read_bytes()
    for damaged in ("", "{}", "null"):
        broken.write_text(damaged)
        mask.write_bytes(b"")
        again = run(tmp_path / "data", tmp_path / "out")
        assert again.overall == first.overall and mask.read_bytes() == content
        assert f"{broken} is broken" in logged.text and "kept" not in logged.text
        logged.clear()


def test_changed_lists_of_a_video_are_evaluated_anew(tmp_path: Path) -> None:
    """What a data set's lists say of a video decides its scores as its pixels do."""
    write_data(tmp_path, 0)
    folders = tmp_path / "JPEGImages" / "a", tmp_path / "Annotations" / "a"
    plain = FileVideo("a", *folders).fingerprint()
    names = ["00003", "00001"]
    variants = [
        {"categories": {1: "unseen"}},
        {"first_frames": {1: "00002"}},
        {"scored_objects": [1]},
        {"output_frames": names},
        {"late_objects": True},
        {"frame_ranges": {1: (0, 4, 1)}},
    ]
    fingerprints = [FileVideo("a", *folders, **given).fingerprint() for given in variants]
    assert len({plain, *fingerprints}) == 1 + len(variants)
    assert FileVideo("a", *folders, output_frames=set(names)).fingerprint() == fingerprints[3]


def test_an_interrupted_evaluation_anew_leaves_no_score_of_overwritten_masks(tmp_path: Path) -> None:
    write_data(tmp_path / "data", 0)
    run(tmp_path / "data", tmp_path / "out")
    stored = tmp_path / "out" / "sequences"
    interrupted = benchmarks.folder(tmp_path / "data")
    interrupted.videos[0].frame = lambda t, shrink=1: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        evaluate(network(), None, interrupted, tmp_path / "out", progress=False, workers=0, reuse=False)
    assert [path.name for path in stored.iterdir()] == ["b.json"]


def test_scores_averaged_at_test_time_are_not_those_of_the_network_alone(tmp_path: Path) -> None:
    write_data(tmp_path / "data", 0)
    run(tmp_path / "data", tmp_path / "out", augmentation=Augmentation(flip=True))
    with pytest.raises(ValueError, match=r"comes from other settings \(augmentation {.*} != None\)"):
        run(tmp_path / "data", tmp_path / "out")
