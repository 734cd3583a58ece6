"""`stm check --fix` as a copy: hard links, allowed target folders, and failures in the middle."""

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
    hash_files,
    mask_files,
    repair,
)
from helpers.data_trees import boxes, write_video
from PIL import Image

from stm.cli import main as cli
from stm.dataset_check import repaired_copy
from stm.masks import read_mask


def test_unchanged_files_are_hard_links_and_links_become_files(tmp_path):
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
    before = hash_files(real)
    new, report = repair(root)
    assert hash_files(real) == before
    assert report["skipped"] == ["loop", "pipe", "JPEGImages/480p/ant/up"]
    assert not [path for path in new.rglob("*") if path.is_symlink()]
    assert hash_files(new).keys() == before.keys()
    for name in before.keys() - {path}:
        assert (new / name).samefile(real / name)
    assert not (new / path).samefile(real / path)


def test_files_are_copied_if_hard_links_fail(tmp_path, monkeypatch):
    def fail_to_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", fail_to_link)
    clean_stills(tmp_path / "set")
    Image.fromarray(boxes({1: A})).save(tmp_path / "set" / "1.png")
    new, _ = repair(tmp_path / "set")
    assert (new / "0.jpg").read_bytes() == (tmp_path / "set" / "0.jpg").read_bytes()
    assert not (new / "0.jpg").samefile(tmp_path / "set" / "0.jpg")


# --- target folders and failures ---


def test_the_target_must_be_a_new_or_empty_folder_outside_of_the_data_set(tmp_path, capsys):
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
        before = hash_files(tmp_path)
        assert cli.run(["check", str(root), "--fix", str(new)]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith(f"stm: {new}: the repaired copy")
        assert hash_files(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert cli.run(["check", str(root), "--fix", str(tmp_path / "empty")]) == 0
    assert len(hash_files(tmp_path / "empty")) == 6
    assert cli.run(["check", str(root), "--fix", str(tmp_path / "some" / "where")]) == 0
    assert len(hash_files(tmp_path / "some" / "where")) == 6
    assert cli.run(["check", str(root), "--threshold", "3"]) == 2


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_copy_leaves_nothing_behind(error, tmp_path, monkeypatch, capsys):
    clean_stills(tmp_path / "set")
    Image.fromarray(boxes({1: A})).save(tmp_path / "set" / "1.png")
    copies = []

    def fail(source: Path, target: Path) -> None:
        copies.append(target)
        if len(copies) == 4:
            raise error

    monkeypatch.setattr(repaired_copy, "_link", fail)
    code = cli.run(["check", str(tmp_path / "set"), "--fix", str(tmp_path / "new")])
    assert code == (2 if isinstance(error, OSError) else 130) and len(copies) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_killed_copy_leaves_no_target_folder(tmp_path):
    root = tmp_path / "set"
    tiny = boxes({1: (1, 1, 3, 3)}, (4, 6))
    write_video(root, "v", [tiny] * 400, size=(4, 6))
    for path in mask_files(root, "v"):
        Image.fromarray(tiny).save(path)
    command = [sys.executable, "-m", "stm.cli.main", "check", str(root), "--fix", str(tmp_path / "new")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not (parts := list(tmp_path.glob(".new.*.part"))) and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.001)
        process.kill()
    assert parts and not (tmp_path / "new").exists()
    assert cli.run(["check", str(root), "--fix", str(tmp_path / "new")]) == 0
    assert len(hash_files(tmp_path / "new")) == 800
