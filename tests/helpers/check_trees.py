"""Data sets without a fault, ways to spoil them, and what `stm check` finds in them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from helpers.data_trees import boxes, picture, write_frame, write_video
from stm.cli import main as cli
from stm.masks import read_mask, write_mask
from stm.video import VOID

A, B, C = (5, 5, 20, 25), (22, 30, 38, 55), (2, 40, 12, 58)
TWO = [boxes({1: A, 2: B})] * 4


def clean_davis(root: Path) -> None:
    for name in ("ant", "bear"):
        write_video(root, name, TWO, below="480p")
    write_list(root, "2017/train", "ant")
    write_list(root, "2017/val", "bear")


def write_list(root: Path, name: str, *videos: str) -> None:
    path = root / "ImageSets" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{video}\n" for video in videos))


def clean_youtube(root: Path) -> None:
    late = [boxes({1: A}), boxes({1: A}), boxes({1: A, 2: B})]
    write_video(root / "train", "aaa", late, step=5)
    write_video(root / "valid", "bbb", [boxes({1: A}), None, None], step=5)
    write_meta(root / "train", {"aaa": {1: [0, 5, 10], 2: [10]}})
    write_meta(root / "valid", {"bbb": {1: [0, 5, 10]}})
    for t in range(11):
        write_frame(root / "valid_all_frames" / "JPEGImages" / "bbb" / f"{t:05d}.jpg", picture(t))


def write_meta(split: Path, videos: dict[str, dict[int, list[int]]]) -> None:
    described = {
        name: {
            "objects": {
                str(label): {"category": "cat", "frames": [f"{t:05d}" for t in frames]}
                for label, frames in objects.items()
            }
        }
        for name, objects in videos.items()
    }
    (split / "meta.json").write_text(json.dumps({"videos": described}))


def clean_folder(root: Path) -> None:
    write_video(root, "dog", TWO)
    write_video(root, "cat", [boxes({1: A}), None, boxes({1: B}), boxes({1: B})])


def clean_stills(root: Path) -> None:
    for i, mask in enumerate([boxes({1: A}), boxes({1: A, 2: B}), boxes({VOID: A})]):
        write_frame(root / f"{i}.jpg", picture(i))
        write_mask(root / f"{i}.png", mask)
    Image.fromarray(boxes({VOID: B})).save(root / "0.png")  # gray, as salient-object sets have them


CLEAN = {"davis": clean_davis, "youtube_vos": clean_youtube, "folder": clean_folder, "stills": clean_stills}


def found(root: Path, *options: str, code: int | None = None) -> list[tuple[str, str, str]]:
    """Severity, code and path of what the command finds; its exit code is as it should be."""
    report = root.parent / f"{root.name}.json"
    exit_code = cli.run(["check", str(root), "--output", str(report), *options])
    findings = json.loads(report.read_text())["findings"]
    has_errors = any(finding["severity"] == "error" for finding in findings)
    assert exit_code == (int(has_errors) if code is None else code)
    return [(finding["severity"], finding["code"], finding["path"]) for finding in findings]


def gray(path: Path) -> None:
    Image.fromarray(read_mask(path)).save(path)


def colored(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def smoothed(path: Path) -> None:
    white = Image.fromarray(255 * (read_mask(path) > 0).astype(np.uint8))
    white.filter(ImageFilter.GaussianBlur(1)).save(path)


def black_and_white(path: Path) -> None:
    Image.fromarray(255 * (read_mask(path) > 0).astype(np.uint8)).save(path)


def every_mask(root: Path, damage: Callable[[Path], None], video: str = "ant") -> list[str]:
    paths = sorted(root.glob(f"**/Annotations/**/{video}/*.png"))
    for path in paths:
        damage(path)
    return [str(path.relative_to(root)) for path in paths]


def everything(root: Path) -> dict[str, str]:
    """Path -> what is there, links not followed."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def fix(root: Path, *options: str, code: int = 0) -> tuple[Path, dict | None]:
    """The mended copy, and what the report says of it; the data set itself stays as it was."""
    before, new, report = everything(root), root.parent / "new", root.parent / "report.json"
    assert cli.run(["check", str(root), "--fix", str(new), "--output", str(report), *options]) == code
    assert everything(root) == before
    assert not list(root.parent.glob(".*.part"))
    return new, json.loads(report.read_text())["fix"]


def masks_without_reading(root: Path, name: str) -> list[Path]:
    return sorted(root.glob(f"**/Annotations/**/{name}/*.png"))
