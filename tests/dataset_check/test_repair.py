"""`stm check --fix`: damaged masks are restored, and no other file is changed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers.check_trees import (
    A,
    B,
    check_issues,
    clean_davis,
    clean_folder,
    clean_stills,
    clean_youtube,
    hash_files,
    mask_files,
    repair,
    write_list,
)
from helpers.data_trees import boxes, smooth_image, write_frame, write_video
from PIL import Image, ImageFilter

from stm.cli import main as cli
from stm.data.stills import pairs
from stm.data.videos import davis, folder
from stm.masks import PALETTE, read_mask, write_mask
from stm.video import VOID


def masks_of(root: Path, name: str) -> dict[Path, np.ndarray]:
    return {path: read_mask(path) for path in sorted(root.glob(f"**/Annotations/**/{name}/*.png"))}


def in_colors(mask: np.ndarray, colors: Mapping[int, tuple[int, int, int]]) -> Image.Image:
    pixels = np.zeros((*mask.shape, 3), np.uint8)
    for label, color in colors.items():
        pixels[mask == label] = color
    return Image.fromarray(pixels)


DAMAGE = {
    "gray": lambda mask: Image.fromarray(mask),
    "palette colors": lambda mask: Image.fromarray(PALETTE[mask]),
    "palette colors, opaque": lambda mask: Image.fromarray(PALETTE[mask]).convert("RGBA"),
    "flat colors": lambda mask: in_colors(mask, {1: (9, 200, 30), 2: (250, 10, 10)}),
    "gray in RGB": lambda mask: Image.fromarray(mask).convert("RGB"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_ids_are_restored(kind, tmp_path):
    clean_davis(tmp_path / "set")
    truth = masks_of(tmp_path / "set", "ant")
    for path, mask in truth.items():
        DAMAGE[kind](mask).save(path)
    new, report = repair(tmp_path / "set")
    assert report["issues"] == report["skipped"] == [] and len(report["repaired"]) == 4
    assert check_issues(new) == []
    for path, mask in truth.items():
        restored = new / path.relative_to(tmp_path / "set")
        assert np.array_equal(read_mask(restored), mask)
        with Image.open(restored) as image:
            assert image.mode == "P" and image.getpalette()[:768] == PALETTE.flatten().tolist()
    assert hash_files(new).keys() == hash_files(tmp_path / "set").keys()


def test_void_in_palette_colors_stays_void(tmp_path):
    clean_davis(tmp_path / "set")
    path = tmp_path / "set" / "Annotations" / "480p" / "ant" / "00001.png"
    mask = boxes({1: A, 2: B, VOID: (0, 0, 5, 5)})
    Image.fromarray(PALETTE[mask]).save(path)
    new, _ = repair(tmp_path / "set")
    assert np.array_equal(read_mask(new / path.relative_to(tmp_path / "set")), mask)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
@pytest.mark.parametrize("layout", ["davis", "folder"])
def test_white_becomes_id_1_in_all_masks_of_a_video(mode, layout, tmp_path):
    root = tmp_path / "set"
    below = {"davis": "480p", "folder": ""}[layout]
    write_video(root, "v", [boxes({}), boxes({VOID: A}), boxes({VOID: B}), boxes({})], below=below)
    write_video(root, "w", [boxes({1: A})] * 3, below=below)
    write_list(root, "2017/train", "w", "v")
    for path, mask in masks_of(root, "v").items():
        if mode != "P":
            Image.fromarray(mask).convert(mode).save(path)
    code = 1 if layout == "davis" else 0  # DAVIS takes the objects from the first mask
    new, report = repair(root, code=code)
    expected = [boxes({}), boxes({1: A}), boxes({1: B}), boxes({})]
    for mask, (path, repaired) in zip(expected, masks_of(new, "v").items(), strict=True):
        assert np.array_equal(repaired, mask), path
    assert {entry["code"] for entry in report["issues"]} == {"first-mask-empty"}
    changes = [entry["changes"] for entry in report["repaired"]]
    black = [["colors -> background"]] if mode == "RGB" else []
    assert changes == [*black, ["255 -> 1"], ["255 -> 1"], *black]
    video = folder(new)[0] if layout == "folder" else davis(new)[1]
    assert np.array_equal(video.mask(1), boxes({1: A}))


def test_binary_masks_among_masks_of_ids_are_kept(tmp_path):
    clean_davis(tmp_path / "set")
    path = tmp_path / "set" / "Annotations" / "480p" / "ant" / "00002.png"
    write_mask(path, boxes({VOID: A}))
    new, report = repair(tmp_path / "set")
    assert report is None and not new.exists()


def test_colors_are_numbered_once_per_video_and_a_black_mask_is_empty(tmp_path):
    root = tmp_path / "set"
    red, green, blue = (200, 1, 1), (1, 200, 1), (1, 1, 200)
    frames = [{2: green}, {1: red, 2: green}, {}, {3: blue, 1: red}]
    masks = [boxes({1: A}), boxes({1: A, 2: B}), boxes({}), boxes({1: A, 2: B})]
    layout = {1: A, 2: B, 3: (30, 2, 38, 12)}
    write_video(root, "v", masks)
    for path, colors in zip(masks_of(root, "v"), frames, strict=True):
        in_colors(boxes({label: layout[label] for label in colors}), colors).save(path)
    new, report = repair(root)
    repaired = list(masks_of(new, "v").values())
    assert np.array_equal(repaired[0], boxes({1: B}))  # green appears first
    assert np.array_equal(repaired[1], boxes({2: A, 1: B}))
    assert not repaired[2].any()
    assert np.array_equal(repaired[3], boxes({2: A, 3: layout[3]}))  # blue appears after red
    assert [entry["changes"] for entry in report["repaired"]] == [
        ["colors -> 1"],
        ["colors -> 1, 2"],
        ["colors -> background"],
        ["colors -> 2, 3"],
    ]


def ambiguous_image(kind: str) -> Image.Image:
    colors = {
        "many colors": lambda: Image.fromarray(smooth_image(0)),
        "no black": lambda: in_colors(boxes({1: A}) + 1, {1: (1, 2, 3), 2: (9, 9, 200)}),
        "white among colors": lambda: in_colors(boxes({1: A, 2: B}), {1: (9, 9, 200), 2: (255,) * 3}),
        "white among grays": lambda: in_colors(boxes({1: A, 2: B}), {1: (9,) * 3, 2: (255,) * 3}),
        "transparent": lambda: Image.fromarray(PALETTE[boxes({1: A})]).convert("RGBA"),
        "smooth colors": lambda: in_colors(boxes({1: A}), {1: (9, 9, 200)}).filter(ImageFilter.BoxBlur(2)),
    }
    image = colors[kind]()
    if kind == "transparent":
        image.putpixel((0, 0), (0, 0, 0, 0))
    return image


AMBIGUOUS = [
    "many colors",
    "no black",
    "white among colors",
    "white among grays",
    "transparent",
    "smooth colors",
]


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_ambiguous_colors_are_kept_and_reported(kind, tmp_path):
    clean_folder(tmp_path / "set")
    paths = list(masks_of(tmp_path / "set", "dog"))
    for path in paths:
        ambiguous_image(kind).save(path)
    other = tmp_path / "set" / "Annotations" / "cat" / "00000.png"
    Image.fromarray(read_mask(other)).save(other)
    new, report = repair(tmp_path / "set", code=1)
    assert [entry["path"] for entry in report["repaired"]] == ["Annotations/cat/00000.png"]
    remaining = [(entry["code"], entry["path"]) for entry in report["issues"]]
    assert remaining == [("mask-rgb", str(path.relative_to(tmp_path / "set"))) for path in paths]
    assert (new / remaining[0][1]).samefile(paths[0])


def test_no_new_ids_are_invented_if_meta_json_defines_them(tmp_path):
    clean_youtube(tmp_path / "set")
    for path, mask in masks_of(tmp_path / "set", "aaa").items():
        in_colors(mask, {1: (9, 200, 30), 2: (250, 10, 10)}).save(path)
    assert repair(tmp_path / "set", code=1)[1] is None
    for path in mask_files(tmp_path / "set", "aaa"):
        write_mask(path, boxes({VOID: A}))
    assert repair(tmp_path / "set", code=1)[1] is None
    for path in mask_files(tmp_path / "set", "aaa"):
        Image.fromarray(PALETTE[boxes({1: A, 2: B})]).save(path)
    new, report = repair(tmp_path / "set")
    assert report["issues"] == [] and len(report["repaired"]) == 3


@pytest.mark.parametrize("by", [2, 3])
def test_sizes_of_the_same_aspect_ratio_are_repaired_by_nearest_neighbor(by, tmp_path):
    root = tmp_path / "set"
    masks = [boxes({1: A, 2: B}, (60, 90))] * 4
    write_video(root, "v", masks, size=(60, 90))
    paths = list(masks_of(root, "v"))
    write_mask(paths[0], masks[0][::by, ::by])
    write_mask(paths[1], masks[1].repeat(by, axis=0).repeat(by, axis=1))
    write_mask(paths[2], masks[2][:, :60])
    new, report = repair(root, code=1)
    repaired = list(masks_of(new, "v").values())
    blocks = masks[0][::by, ::by].repeat(by, axis=0).repeat(by, axis=1)
    assert np.array_equal(repaired[0], blocks) and np.array_equal(repaired[1], masks[1])
    assert repaired[2].shape == (60, 60)
    assert [entry["changes"] for entry in report["repaired"]] == [
        [f"{90 // by}x{60 // by} -> 90x60"],
        [f"{90 * by}x{60 * by} -> 90x60"],
    ]
    assert [(entry["code"], Path(entry["path"]).name) for entry in report["issues"]] == [
        ("mask-size", "00002.png")
    ]


def test_rounded_sizes_count_as_the_same_aspect_ratio(tmp_path):
    root = tmp_path / "set"  # 480p of DAVIS next to its full resolution
    write_video(root, "v", [boxes({1: A}, (480, 854))] * 3, size=(480, 854))
    path = mask_files(root, "v")[0]
    Image.fromarray(boxes({1: A}, (1080, 1920))).save(path)
    new, report = repair(root)
    assert report["repaired"] == [
        {"path": "Annotations/v/00000.png", "changes": ["palette", "1920x1080 -> 854x480"]}
    ]


def test_antialiased_masks_of_one_object_are_repaired_only_with_a_threshold(tmp_path):
    root = tmp_path / "set"
    clean_folder(root)
    truth = boxes({1: A})
    smooth = Image.fromarray(255 * truth).filter(ImageFilter.GaussianBlur(1.5))
    for path in mask_files(root, "dog"):
        smooth.save(path)
    smooth.convert("RGB").save(mask_files(root, "dog")[1])
    assert repair(root, code=1)[1] is None
    new, report = repair(root, "--threshold", "128")
    for path in mask_files(new, "dog"):
        assert np.array_equal(read_mask(path), np.asarray(smooth) >= 128)
    assert {tuple(entry["changes"]) for entry in report["repaired"]} == {("128 and above -> 1",)}
    Image.fromarray(boxes({2: A})).save(mask_files(root, "dog")[2])  # ids make the reading ambiguous
    (tmp_path / "other").mkdir()
    assert cli.run(["check", str(root), "--fix", str(tmp_path / "other" / "x"), "--threshold", "128"]) == 1
    with Image.open(mask_files(tmp_path / "other" / "x", "dog")[0]) as image:
        assert np.array_equal(image, smooth)


def test_stills_are_repaired_independently(tmp_path):
    root = tmp_path / "set"
    clean_stills(root)
    damaged = {
        "5": Image.fromarray(boxes({1: A, 3: B})),
        "6": Image.fromarray(255 * boxes({1: A})).convert("RGB"),
        "7": in_colors(boxes({1: A, 2: B}), {1: (200, 0, 9), 2: (9, 9, 200)}),
        "8": Image.fromarray(boxes({1: A, VOID: B})),
        "9": Image.fromarray(boxes({VOID: A})[::2, ::2]),
    }
    for name, image in damaged.items():
        write_frame(root / f"{name}.jpg", smooth_image(1))
        image.save(root / f"{name}.png")
    new, report = repair(root)
    assert {entry["path"]: entry["changes"] for entry in report["repaired"]} == {
        "5.png": ["palette"],
        "6.png": ["255 -> 1"],
        "7.png": ["colors -> 1, 2"],
        "9.png": ["30x20 -> 60x40"],
    }
    assert [(entry["code"], entry["path"]) for entry in report["issues"]] == [
        ("mask-gray", "8.png"),
        ("id-gap", "5.png"),
    ]
    masks = {i: pairs(new).read(i)[1] for i in range(len(pairs(new)))}
    assert np.array_equal(masks[4], boxes({1: A}))
    assert np.array_equal(masks[5], boxes({2: A, 1: B}))
    assert np.array_equal(masks[7], boxes({VOID: A})[::2, ::2].repeat(2, 0).repeat(2, 1) == VOID)
