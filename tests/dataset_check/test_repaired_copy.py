"""`stm check --fix`: the mended copy as a folder: what is linked, where it may be written, how it may end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.check_trees import (
    A,
    clean_davis,
    clean_stills,
    everything,
    fix,
    masks_without_reading,
)
from helpers.data_trees import boxes, write_video
from PIL import Image

from stm.cli import main as cli
from stm.dataset_check import repaired_copy as renewing
from stm.masks import read_mask


def test_other_files_are_hard_links_and_links_become_files(tmp_path):
    root, real = tmp_path / "set", tmp_path / "real"
    clean_davis(real)
    (real / "notes.txt").write_text("kept")
    (root / "Annotations").mkdir(parents=True)
    for name in ("JPEGImages", "ImageSets", "Annotations/480p"):
        (root / name).symlink_to(real / name)
    (root / "notes.txt").symlink_to(real / "notes.txt")
    (root / "loop").symlink_to("loop")
    (real / "JPEGImages" / "480p" / "ant" / "up").symlink_to("..")
    os.mkfifo(root / "pipe")
    path = "Annotations/480p/ant/00000.png"
    Image.fromarray(read_mask(real / path)).save(real / path)
    before = everything(real)
    new, told = fix(root)
    assert everything(real) == before
    assert told["left_out"] == ["loop", "pipe", "JPEGImages/480p/ant/up"]
    assert not [path for path in new.rglob("*") if path.is_symlink()]
    assert everything(new).keys() == before.keys()
    for name in before.keys() - {path}:
        assert (new / name).samefile(real / name)
    assert not (new / path).samefile(real / path)


def test_a_disk_without_hard_links_gets_copies(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    clean_stills(tmp_path / "set")
    Image.fromarray(boxes({1: A})).save(tmp_path / "set" / "1.png")
    new, _ = fix(tmp_path / "set")
    assert (new / "0.jpg").read_bytes() == (tmp_path / "set" / "0.jpg").read_bytes()
    assert not (new / "0.jpg").samefile(tmp_path / "set" / "0.jpg")


# --- where it may be written, and how it may end ---


def test_only_a_new_or_empty_folder_outside_is_written_to(tmp_path, capsys):
    root = tmp_path / "set"
    clean_stills(root)
    Image.fromarray(boxes({1: A})).save(root / "1.png")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for new in (
        tmp_path / "full",
        tmp_path / "full" / "file",
        root,
        root / "below",
        root / ".." / "set" / "x",
    ):
        before = everything(tmp_path)
        assert cli.run(["check", str(root), "--fix", str(new)]) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith(f"stm: {new}: the mended copy")
        assert everything(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert cli.run(["check", str(root), "--fix", str(tmp_path / "empty")]) == 0
    assert len(everything(tmp_path / "empty")) == 6
    assert cli.run(["check", str(root), "--fix", str(tmp_path / "some" / "where")]) == 0
    assert len(everything(tmp_path / "some" / "where")) == 6
    assert cli.run(["check", str(root), "--threshold", "3"]) == 2


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_nothing(error, tmp_path, monkeypatch, capsys):
    clean_stills(tmp_path / "set")
    Image.fromarray(boxes({1: A})).save(tmp_path / "set" / "1.png")
    linked = []

    def fail(source: Path, target: Path) -> None:
        linked.append(target)
        if len(linked) == 4:
            raise error

    monkeypatch.setattr(renewing, "_link", fail)
    code = cli.run(["check", str(tmp_path / "set"), "--fix", str(tmp_path / "new")])
    assert code == (2 if isinstance(error, OSError) else 130) and len(linked) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert "Traceback" not in capsys.readouterr().err


def test_killed_in_the_middle_there_is_no_folder_of_that_name(tmp_path):
    root = tmp_path / "set"
    tiny = boxes({1: (1, 1, 3, 3)}, (4, 6))
    write_video(root, "v", [tiny] * 400, size=(4, 6))
    for path in masks_without_reading(root, "v"):
        Image.fromarray(tiny).save(path)
    command = [sys.executable, "-m", "stm.cli.main", "check", str(root), "--fix", str(tmp_path / "new")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not (begun := list(tmp_path.glob(".new.*.part"))) and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.001)
        process.kill()
    assert begun and not (tmp_path / "new").exists()
    assert cli.run(["check", str(root), "--fix", str(tmp_path / "new")]) == 0  # and it can be had again
    assert len(everything(tmp_path / "new")) == 800
