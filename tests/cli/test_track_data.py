"""`stm track` on data that changes, ends early or is long: fingerprints, `--fresh`, masks, policies."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import small_networks as small
from helpers.small_networks import only, save
from helpers.video_files import encode
from PIL import Image

from stm.cli import main as cli
from stm.cli import track_video as tracking
from stm.data.video_files import VideoFile, open_frames
from stm.masks import read_mask, write_mask
from stm.memory import MemoryPolicy, published_policy
from stm.visualization import write_video

LENGTH = 8
FRAMES = small.frames(LENGTH).permute(0, 2, 3, 1).numpy()
MASKS = small.masks(LENGTH, 3).numpy()


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A folder of 8 frames, a mask of objects 1 and 2, and weights."""
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{t:05d}.png")
    write_mask(tmp_path / "m0.png", only(MASKS[0], 1, 2))
    save(tmp_path / "w.ckpt")
    return tmp_path


def track(case: Path, *more: object, video: str = "frames", mask: str = "m0.png") -> int:
    paths = ["--video", case / video, "--mask", case / mask, "--weights", case / "w.ckpt"]
    return cli.run([*map(str, ["track", *paths, "--output", case / "out", "--no-overlay", *more])])


def masks(case: Path) -> list[np.ndarray]:
    return [read_mask(path) for path in sorted((case / "out" / "masks").iterdir())]


def test_a_changed_frame_under_the_same_name_is_noticed(case, capsys):
    assert track(case) == 0
    Image.fromarray(FRAMES[0]).save(case / "frames" / "00006.png")
    assert track(case) == 2
    assert "the frames have changed since its results were computed" in capsys.readouterr().err
    before = masks(case)
    assert track(case, "--fresh") == 0
    assert "kept" not in capsys.readouterr().out
    assert any(not np.array_equal(a, b) for a, b in zip(before, masks(case), strict=True))


def test_deleted_masks_are_computed_anew(case, capsys):
    assert track(case) == 0
    expected = masks(case)
    (case / "out" / "masks" / "00004.png").unlink()
    assert track(case) == 0
    assert "kept" not in capsys.readouterr().out
    assert all(np.array_equal(a, b) for a, b in zip(expected, masks(case), strict=True))


def test_fresh_keeps_files_of_others(case, capsys):
    (case / "out" / "masks").mkdir(parents=True)
    (case / "out" / "masks" / "mine.png").write_bytes(b"x")
    assert track(case, "--fresh") == 2
    assert "holds masks of another program" in capsys.readouterr().err
    assert (case / "out" / "masks" / "mine.png").exists()


def test_a_folder_of_masks_gives_a_mask_at_each_of_its_frames(case, capsys):
    for t in (0, 5):
        write_mask(case / "given" / f"{t:05d}.png", MASKS[t])
    assert track(case, mask="given") == 0
    by_folder = masks(case)
    assert np.array_equal(by_folder[5], MASKS[5])
    assert track(case, "--fresh", "--mask", f"0:{case}/given/00000.png", mask="given") == 2
    assert "frame 0 has the mask" in capsys.readouterr().err
    write_mask(case / "given" / "00009.png", MASKS[5])
    assert track(case, "--fresh", mask="given") == 2
    assert "00009.png: must have the name of a frame" in capsys.readouterr().err
    (case / "given" / "00009.png").unlink()
    write_mask(case / "given" / "00003.png", np.where(MASKS[3] == 1, 255, 0))
    assert track(case, "--fresh", mask="given") == 2
    assert "00003.png: holds only 0 and 255, but other masks hold object ids" in capsys.readouterr().err


def test_a_folder_of_masks_of_a_video_file_is_named_by_frame_numbers(case):
    write_video(case / "v.mp4", FRAMES)
    for name in ("0", "00005"):
        write_mask(case / "given" / f"{name}.png", MASKS[int(name)])
    assert track(case, mask="given", video="v.mp4") == 0
    assert np.array_equal(masks(case)[5], MASKS[5])


def test_a_video_file_that_was_cut_short_is_reported_and_its_masks_are_kept(case, capsys):
    encode(case / "v.mkv", "ffv1", FRAMES)
    assert VideoFile(case / "v.mkv").missing == ""
    content = (case / "v.mkv").read_bytes()
    (case / "v.mkv").write_bytes(content[: len(content) // 2])
    frames = VideoFile(case / "v.mkv")
    assert 0 < len(frames) < LENGTH - 2
    for _ in range(2):  # also where all results are kept
        assert track(case, video="v.mkv") == 1
        error = capsys.readouterr().err
        assert "v.mkv: the file was cut short: 0." in error and "of 0.33 seconds are missing" in error
        assert len(masks(case)) == len(frames)


def test_a_damaged_video_file_is_reported_and_its_masks_are_kept(case, capsys):
    packets = encode(case / "v.mkv", "mjpeg", FRAMES)
    content = (case / "v.mkv").read_bytes()
    (case / "v.mkv").write_bytes(content.replace(packets[3], b"\x01" * len(packets[3])))
    for is_repeated in (False, True):
        assert track(case, video="v.mkv") == 1
        printed = capsys.readouterr()
        assert f"v.mkv: 1 of {LENGTH} frames cannot be decoded" in printed.err
        assert (f"all {LENGTH - 1} frames kept from an earlier run" in printed.out) == is_repeated
        assert len(masks(case)) == LENGTH - 1
    record = json.loads((case / "out" / "track.json").read_text())
    assert record["status"] == "ok" and record["missing"] == f"1 of {LENGTH} frames cannot be decoded"


def test_a_long_video_gets_a_bounded_memory_and_a_line_about_it(case, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "LONG_VIDEO", 4)
    assert track(case, "--fresh") == 0
    assert "8 frames: the memory grows up to 0 MB" in capsys.readouterr().err
    monkeypatch.setattr(tracking, "MIN_BUDGET_MB", 1e-3)
    assert track(case) == 2, "the policy is another one"
    assert "limited to" in capsys.readouterr().err
    monkeypatch.setattr(tracking, "MIN_BUDGET_FRAMES", 100)
    assert track(case, "--memory", "every_5") == 0
    assert "limited to" not in capsys.readouterr().err


def test_a_size_that_changes_names_file_and_frame(case, capsys):
    Image.fromarray(FRAMES[3][:30]).save(case / "frames" / "00003.png")
    assert track(case) == 2
    assert "frames/00003.png: frames must have the size of the first" in capsys.readouterr().err


def test_published_weights_are_tracked_with_their_own_policy(case: Path) -> None:
    network, frames = small.network(), open_frames(case / "frames")
    assert tracking._choose_policy(None, network, frames, {0: MASKS[0]}, 32) == MemoryPolicy()
    network.policy = published_policy("stcn")
    assert tracking._choose_policy(None, network, frames, {0: MASKS[0]}, 32) == network.policy
