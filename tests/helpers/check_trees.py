"""Valid data sets, ways to damage them, and the issues that `stm check` finds in them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from helpers.data_trees import boxes, smooth_image, write_frame, write_video
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
        write_frame(root / "valid_all_frames" / "JPEGImages" / "bbb" / f"{t:05d}.jpg", smooth_image(t))


def write_meta(split: Path, videos: dict[str, dict[int, list[int]]]) -> None:
    entries = {
        name: {
            "objects": {
                str(label): {"category": "cat", "frames": [f"{t:05d}" for t in frames]}
                for label, frames in objects.items()
            }
        }
        for name, objects in videos.items()
    }
    (split / "meta.json").write_text(json.dumps({"videos": entries}))


def clean_folder(root: Path) -> None:
    write_video(root, "dog", TWO)
    write_video(root, "cat", [boxes({1: A}), None, boxes({1: B}), boxes({1: B})])


def clean_stills(root: Path) -> None:
    for i, mask in enumerate([boxes({1: A}), boxes({1: A, 2: B}), boxes({VOID: A})]):
        write_frame(root / f"{i}.jpg", smooth_image(i))
        write_mask(root / f"{i}.png", mask)
    Image.fromarray(boxes({VOID: B})).save(root / "0.png")  # gray, as in salient-object data sets


def write_json(path: Path, videos: dict) -> None:
    path.write_text(json.dumps({"videos": videos}))


def clean_mose(root: Path) -> None:
    write_video(root / "train", "aaa", TWO)
    write_video(root / "valid", "bbb", [TWO[0], None, None])
    write_json(root / "meta_train.json", {"aaa": {"objects": [1, 2], "length": 4}})
    write_json(root / "meta_valid.json", {"bbb": {"objects": {"1": {}, "2": {}}, "length": 3}})


def clean_lvos(root: Path) -> None:
    for folder, stem, masks in (
        ("train", "train", TWO),
        ("val", "valid", [boxes({1: A}), *TWO[1:]]),
        ("test", "test", [TWO[0], None, None, None]),
    ):
        for t, mask in enumerate(masks):
            name = f"{1 + 5 * t:08d}"
            write_frame(root / folder / "JPEGImages" / stem / f"{name}.jpg", smooth_image(t))
            if mask is not None:
                write_mask(root / folder / "Annotations" / stem / f"{name}.png", mask)
        enters = 6 if folder == "val" else 1
        ranges = {"1": (1, 16, 4), "2": (enters, 16, 3 if folder == "val" else 4)}
        keys = ("start", "end", "frame_nums")
        objects = {label: {"frame_range": dict(zip(keys, one, strict=True))} for label, one in ranges.items()}
        write_json(root / folder / f"{stem}_meta.json", {stem: {"objects": objects}})


def clean_vost(root: Path) -> None:
    (root / "ImageSets").mkdir(parents=True)
    for split, masks in (("train", TWO), ("val", TWO), ("test", [TWO[0], None])):
        write_video(root, f"1_cut_{split}", masks, step=6)
        (root / "ImageSets" / f"{split}.txt").write_text(f"1_cut_{split}")


def clean_sav(root: Path) -> None:
    for t in range(9):
        write_frame(root / "JPEGImages_24fps" / "sav_000001" / f"{t:05d}.jpg", smooth_image(t))
        if t % 4 == 0:
            write_mask(root / "Annotations_6fps" / "sav_000001" / "000" / f"{t:05d}.png", boxes({VOID: A}))
    (root / "sav_val.txt").write_text("sav_000001\n")


CLEAN = {
    "davis": clean_davis,
    "youtube_vos": clean_youtube,
    "mose": clean_mose,
    "lvos": clean_lvos,
    "vost": clean_vost,
    "sav": clean_sav,
    "folder": clean_folder,
    "stills": clean_stills,
}


def check_issues(root: Path, *options: str, code: int | None = None) -> list[tuple[str, str, str]]:
    """Return the severity, code and path of each issue that the command finds, and assert its exit code."""
    report = root.parent / f"{root.name}.json"
    exit_code = cli.run(["check", str(root), "--output", str(report), *options])
    issues = json.loads(report.read_text())["issues"]
    has_errors = any(issue["severity"] == "error" for issue in issues)
    assert exit_code == (int(has_errors) if code is None else code)
    return [(issue["severity"], issue["code"], issue["path"]) for issue in issues]


def save_gray(path: Path) -> None:
    Image.fromarray(read_mask(path)).save(path)


def save_colored(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def save_blurred(path: Path) -> None:
    white = Image.fromarray(255 * (read_mask(path) > 0).astype(np.uint8))
    white.filter(ImageFilter.GaussianBlur(1)).save(path)


def save_binary(path: Path) -> None:
    Image.fromarray(255 * (read_mask(path) > 0).astype(np.uint8)).save(path)


def damage_all_masks(root: Path, damage: Callable[[Path], None], video: str = "ant") -> list[str]:
    paths = sorted(root.glob(f"**/Annotations/**/{video}/*.png"))
    for path in paths:
        damage(path)
    return [str(path.relative_to(root)) for path in paths]


def hash_files(root: Path) -> dict[str, str]:
    """Map each file to a hash of its content, without following links."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def repair(root: Path, *options: str, code: int = 0) -> tuple[Path, dict | None]:
    """Return the repaired copy and its entry in the report, and assert that the data set is unchanged."""
    before, new, report = hash_files(root), root.parent / "new", root.parent / "report.json"
    assert cli.run(["check", str(root), "--fix", str(new), "--output", str(report), *options]) == code
    assert hash_files(root) == before
    assert not list(root.parent.glob(".*.part"))
    return new, json.loads(report.read_text())["fix"]


def mask_files(root: Path, name: str) -> list[Path]:
    return sorted(root.glob(f"**/Annotations/**/{name}/*.png"))
