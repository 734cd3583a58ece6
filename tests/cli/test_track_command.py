"""`stm track`: video files and folders, masks at several frames, resuming, and errors."""

import csv
import io
import json
import os
import re
import struct
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import commands
from helpers import small_networks as small
from helpers.small_networks import only, save
from PIL import Image

import stm
from stm.cli import main as cli
from stm.cli import track_video as tracking
from stm.data.video_files import Frames, VideoFile
from stm.inference import Segmenter
from stm.masks import read_mask, write_mask
from stm.memory import MemoryPolicy
from stm.visualization import write_video

LENGTH = 20
FRAMES = small.frames(LENGTH).permute(0, 2, 3, 1).numpy()
MASKS = small.masks(LENGTH, 3).numpy()


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """Write 20 frames, a mask of objects 1 and 2 at frame 0 and of 2 and 3 at frame 7, and weights."""
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / "frames" / f"shot{t}.png")  # natural order: 2 before 10
    write_mask(tmp_path / "m0.png", only(MASKS[0], 1, 2))
    write_mask(tmp_path / "m7.png", only(MASKS[7], 2, 3))
    save(tmp_path / "w.ckpt")
    return tmp_path


def words(case: Path, output: str = "out", *more: object, video: str = "frames") -> list[str]:
    paths = ["--video", case / video, "--mask", case / "m0.png", "--weights", case / "w.ckpt"]
    return ["track", *map(str, paths), "--output", str(case / output), *map(str, more)]


def masks(folder: Path) -> dict[str, np.ndarray]:
    """Return name -> labels of a folder that contains nothing else."""
    return {path.stem: read_mask(path) for path in sorted((folder / "masks").iterdir())}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "confidence.csv").open() as file:
        return list(csv.DictReader(file))


def test_masks_and_scores_equal_those_of_the_segmenter(case: Path) -> None:
    assert cli.run(words(case, "out", "--mask", f"7:{case}/m7.png", "--memory", "every_5,every=3")) == 0
    segmenter = stm.Segmenter(small.network(), MemoryPolicy(every=3), length=LENGTH)
    expected, found = [], masks(case / "out")
    assert list(found) == sorted(f"shot{t}" for t in range(LENGTH))
    for t, frame in enumerate(FRAMES):
        given = {0: only(MASKS[0], 1, 2), 7: only(MASKS[7], 2, 3)}.get(t)
        probabilities = segmenter.step(frame, given)
        labels = segmenter.labels(probabilities)
        assert np.array_equal(found[f"shot{t}"], labels)
        for label, sure in segmenter.confidence().items():
            area = int((labels == label).sum())
            expected.append([t, f"shot{t}", label, f"{sure.score:.4f}", f"{sure.inside:.4f}", area])
    assert [list(row.values()) for row in rows(case / "out")] == [[str(v) for v in row] for row in expected]
    told = json.loads((case / "out" / "track.json").read_text())
    assert told["status"] == "ok" and told["timing"]["frames"] == LENGTH
    assert {label: o["enters"] for label, o in told["objects"].items()} == {"1": 0, "2": 0, "3": 7}
    scores = [float(row["score"]) for row in rows(case / "out") if row["object"] == "3"]
    assert told["objects"]["3"]["mean_score"] == pytest.approx(np.mean(scores))
    assert sorted(p.name for p in (case / "out").iterdir()) == [
        "confidence.csv",
        "masks",
        "overlay.mp4",
        "track.json",
    ]
    with av.open(str(case / "out" / "overlay.mp4")) as film:
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(shown) == LENGTH and shown[0].shape == (32, 48, 3)
    assert np.abs(shown[0][MASKS[0] == 1].astype(int) - FRAMES[0][MASKS[0] == 1]).mean() > 20, "tinted"


def test_frames_before_the_first_mask_are_background(case: Path) -> None:
    command = words(case, "out", "--no-overlay")
    command[command.index("--mask") + 1] = f"5:{case}/m0.png"
    assert cli.run(command) == 0
    found = masks(case / "out")
    assert not any(found[f"shot{t}"].any() for t in range(5))
    assert np.array_equal(found["shot5"], only(MASKS[0], 1, 2))
    assert min(int(row["frame"]) for row in rows(case / "out")) == 5
    assert not (case / "out" / "overlay.mp4").exists()


def test_a_video_file_equals_its_frames(case: Path) -> None:
    write_video(case / "film.mp4", FRAMES, fps=12.5)
    with av.open(str(case / "film.mp4")) as film:
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    film = VideoFile(case / "film.mp4")
    assert (len(film), film.size, film.fps) == (LENGTH, (32, 48), 12.5)
    for start in (0, 13):
        for ours, theirs in zip(film.read(start), decoded[start:], strict=True):
            assert np.array_equal(ours, theirs)
    (case / "decoded").mkdir()
    for t, frame in enumerate(decoded):
        Image.fromarray(frame).save(case / "decoded" / f"{t:05d}.png")
    assert cli.run(words(case, "of_film", video="film.mp4")) == 0
    assert cli.run(words(case, "of_folder", "--no-overlay", video="decoded")) == 0
    ours, theirs = masks(case / "of_film"), masks(case / "of_folder")
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    with av.open(str(case / "of_film" / "overlay.mp4")) as film:
        assert float(film.streams.video[0].average_rate) == 12.5


def test_a_rotated_video_is_read_upright(case: Path) -> None:
    """The display matrix of an upright phone rotates clockwise."""
    write_video(case / "film.mp4", FRAMES[:3])
    plain = list(VideoFile(case / "film.mp4").read())
    content = bytearray((case / "film.mp4").read_bytes())
    matrix = content.index(b"tkhd") + 44
    one, whole = 1 << 16, 1 << 30
    assert struct.unpack(">9i", content[matrix : matrix + 36]) == (one, 0, 0, 0, one, 0, 0, 0, whole)
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 32 * one, 0, whole)
    (case / "film.mp4").write_bytes(content)
    film = VideoFile(case / "film.mp4")
    assert film.size == (48, 32)
    for turned, frame in zip(film.read(), plain, strict=True):
        assert np.array_equal(turned[:, -1], frame[0]), "the top row is the last column"


@pytest.mark.parametrize("memory", ["every_5,every=2", "prototypes", "diverse,motion_sigma=0.2", "spaced"])
def test_an_interrupted_run_resumes_with_equal_results(memory: str, case: Path, monkeypatch) -> None:
    more = ("--no-overlay", "--mask", f"7:{case}/m7.png", "--memory", memory, "--save-every", 0)
    assert cli.run(words(case, "whole", *more)) == 0
    step, calls = Segmenter.step, 0

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls in (4, 9, 20, 23):
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(Segmenter, "step", interrupted)
    monkeypatch.setattr(tracking, "SHARE", 0)  # save after each frame
    codes = []
    while not codes or codes[-1] == 130:
        codes.append(cli.run(words(case, "parts", *more)))
        state = case / "parts" / "resume.pth"
        assert state.exists() == (codes[-1] != 0)
    assert codes == [130, 130, 130, 130, 0]
    assert calls < 2 * LENGTH, "it goes on, and does not begin anew"
    ours, theirs = masks(case / "parts"), masks(case / "whole")
    assert list(ours) == list(theirs) and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert (case / "parts" / "confidence.csv").read_bytes() == (
        case / "whole" / "confidence.csv"
    ).read_bytes()


@pytest.mark.slow
def test_a_killed_run_resumes_with_equal_results(case: Path) -> None:
    """SIGKILL arrives twice, at arbitrary moments."""
    for t in range(LENGTH, 400):
        os.link(case / "frames" / f"shot{t % LENGTH}.png", case / "frames" / f"shot{t}.png")
    more = ("--no-overlay", "--save-every", 0)
    state, before = case / "parts" / "resume.pth", 0.0
    for _ in range(2):
        running = commands.start("src/stm/cli/main.py", *words(case, "parts", *more), folder=case / "log")
        running.wait_until(lambda: state.exists() and state.stat().st_mtime > before)  # noqa: B023
        running.kill()
        before = state.stat().st_mtime
    assert len(list((case / "parts" / "masks").glob("[!.]*"))) < 400
    assert cli.run(words(case, "parts", *more)) == 0
    assert json.loads((case / "parts" / "track.json").read_text())["timing"]["frames"] < 400
    assert cli.run(words(case, "whole", *more)) == 0
    ours, theirs = masks(case / "parts"), masks(case / "whole")
    assert list(ours) == list(theirs) and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert (case / "parts" / "confidence.csv").read_bytes() == (
        case / "whole" / "confidence.csv"
    ).read_bytes()
    assert sorted(p.name for p in (case / "parts").iterdir()) == ["confidence.csv", "masks", "track.json"]


def test_a_finished_run_is_not_repeated(case: Path, monkeypatch, capsys) -> None:
    assert cli.run(words(case, "out", "--no-overlay")) == 0
    told = (case / "out" / "track.json").read_bytes()
    monkeypatch.setattr(Segmenter, "step", None)
    assert cli.run(words(case)) == 0  # the film is left to do
    assert (case / "out" / "overlay.mp4").exists()
    assert (case / "out" / "track.json").read_bytes() == told
    assert "all 20 frames kept from an earlier run" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_progress_bar(case: Path, monkeypatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    for name, value in {"TERM": "xterm", "COLUMNS": "150"}.items():
        monkeypatch.setenv(name, value)
    assert cli.run(words(case, "out")) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert re.search(r"frames \S+ 20/20 [\d.]+ frames/s memory \d+ MB", plain)
    assert re.search(r"overlay \S+ 20/20 [\d.]+ frames/s", plain)


def test_a_redirected_output_has_no_progress_bar(case: Path, capfd) -> None:
    assert cli.run(words(case, "out")) == 0
    assert capfd.readouterr().err == ""


def test_the_overlay_of_a_very_slow_video(case: Path, monkeypatch) -> None:
    monkeypatch.setattr(Frames, "fps", 1 / 3600)
    assert cli.run(words(case, "out")) == 0
    with av.open(str(case / "out" / "overlay.mp4")) as film:
        assert float(film.streams.video[0].average_rate) == 0.001


def test_results_of_other_settings_raise(case: Path, capsys) -> None:
    assert cli.run(words(case, "out", "--no-overlay")) == 0
    (case / "other" / "masks").mkdir(parents=True)
    (case / "broken").mkdir()
    (case / "broken" / "track.json").write_text("[]")
    for output, more, named in (
        ("out", ["--memory", "first"], "holds results of other settings, memory: "),
        ("out", ["--mask", f"3:{case}/m7.png"], "the masks have changed since its results were computed"),
        ("out", ["--size", "20"], "settings, size: 480 (now 20)"),
        ("other", [], "holds masks of another program"),
        ("broken", [], "track.json: was not written by stm track"),
        ("m0.png", [], "must be a folder; it is a file"),
    ):
        capsys.readouterr()
        assert cli.run(words(case, output, *more)) == 2
        printed = capsys.readouterr()
        assert named in printed.err and printed.err.count("\n") == 1 and printed.out == ""


def test_errors_are_one_line(case: Path, capsys) -> None:
    write_mask(case / "wide.png", np.ones((32, 50), np.uint8))
    (case / "text.mp4").write_text("no film")
    write_video(case / "cut.mp4", FRAMES)
    (case / "cut.mp4").write_bytes((case / "cut.mp4").read_bytes()[:-800])
    (case / "empty").mkdir()
    for changes, named in (
        (["--mask", f"20:{case}/m7.png"], "the frame must be in 0..19; got 20"),
        (["--mask", f"-1:{case}/m7.png"], "the frame must be in 0..19; got -1"),
        (["--mask", f"{case}/m7.png"], "frame 0 has the mask"),
        (["--mask", f"3:{case}/wide.png"], "48x32 (width x height); got 50x32"),
        (["--mask", "3:absent.png"], "absent.png: there is no such file"),
        (["--video", str(case / "absent.mp4")], "there is no such video file or folder"),
        (["--video", str(case / "text.mp4")], "not a readable video"),
        (["--video", str(case / "cut.mp4")], "cut.mp4"),
        (["--video", str(case / "empty")], "holds no image"),
        (["--memory", "evry_5"], "Did you mean every_5?"),
        (["--memory", ""], "--memory '' does not exist. The policies are "),
        (["--memory", "every_5,evry=3"], "Did you mean every?"),
        (["--memory", "every_5,every"], "must be key=value"),
        (["--memory", "every_5,every=often"], "every=often: must be int or null"),
        (["--memory", "every_5,first=1"], "first=1: must be bool"),
        (["--memory", "every_5,every=true"], "every=true: must be int or null"),
        (["--memory", "every_5,max_frames=1"], "memory.max_frames=1: must be at least 2"),
        (["--weights", str(case / "m0.png")], "cannot be read"),
        (["--device", "tpu9"], "must be auto, cpu or cuda"),
    ):
        capsys.readouterr()
        assert cli.run(words(case, "out", *changes)) == 2, changes
        printed = capsys.readouterr()
        assert named in printed.err and printed.err.count("\n") == 1, printed.err
    assert not (case / "out" / "masks").exists()


def test_frames_of_two_sizes_raise(case: Path, capsys) -> None:
    Image.fromarray(FRAMES[3][:30]).save(case / "frames" / "shot3.png")
    assert cli.run(words(case)) == 2
    message = "shot3.png: frames must have the size of the first, 48x32 (width x height); got 48x30"
    assert message in capsys.readouterr().err
    assert len(Frames(case / "frames")) == LENGTH


def test_masks_keep_the_video_s_size(case: Path) -> None:
    assert cli.run(words(case, "out", "--size", "16", "--no-overlay")) == 0
    found = masks(case / "out")
    assert found["shot19"].shape == (32, 48)
    assert np.array_equal(found["shot0"], only(MASKS[0], 1, 2)), "as given"
