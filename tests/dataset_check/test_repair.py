"""`stm check --fix`: masks come out as they were before they were spoilt, and nothing else is touched."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers.check_trees import (
    A,
    B,
    clean_davis,
    clean_folder,
    clean_stills,
    clean_youtube,
    everything,
    fix,
    found,
    masks_without_reading,
    write_list,
)
from helpers.data_trees import boxes, picture, write_frame, write_video
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


SPOILT = {
    "gray": lambda mask: Image.fromarray(mask),
    "palette colors": lambda mask: Image.fromarray(PALETTE[mask]),
    "palette colors, opaque": lambda mask: Image.fromarray(PALETTE[mask]).convert("RGBA"),
    "flat colors": lambda mask: in_colors(mask, {1: (9, 200, 30), 2: (250, 10, 10)}),
    "gray in RGB": lambda mask: Image.fromarray(mask).convert("RGB"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_spoilt_ids_come_back(kind, tmp_path):
    clean_davis(tmp_path / "set")
    truth = masks_of(tmp_path / "set", "ant")
    for path, mask in truth.items():
        SPOILT[kind](mask).save(path)
    new, told = fix(tmp_path / "set")
    assert told["findings"] == told["left_out"] == [] and len(told["mended"]) == 4
    assert found(new) == []
    for path, mask in truth.items():
        mended = new / path.relative_to(tmp_path / "set")
        assert np.array_equal(read_mask(mended), mask)
        with Image.open(mended) as image:
            assert image.mode == "P" and image.getpalette()[:768] == PALETTE.flatten().tolist()
    assert everything(new).keys() == everything(tmp_path / "set").keys()


def test_void_in_palette_colors_stays_void(tmp_path):
    clean_davis(tmp_path / "set")
    path = tmp_path / "set" / "Annotations" / "480p" / "ant" / "00001.png"
    mask = boxes({1: A, 2: B, VOID: (0, 0, 5, 5)})
    Image.fromarray(PALETTE[mask]).save(path)
    new, _ = fix(tmp_path / "set")
    assert np.array_equal(read_mask(new / path.relative_to(tmp_path / "set")), mask)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
@pytest.mark.parametrize("layout", ["davis", "folder"])
def test_white_becomes_1_in_the_whole_video(mode, layout, tmp_path):
    root = tmp_path / "set"
    below = {"davis": "480p", "folder": ""}[layout]
    write_video(root, "v", [boxes({}), boxes({VOID: A}), boxes({VOID: B}), boxes({})], below=below)
    write_video(root, "w", [boxes({1: A})] * 3, below=below)
    write_list(root, "2017/train", "w", "v")
    for path, mask in masks_of(root, "v").items():
        if mode != "P":
            Image.fromarray(mask).convert(mode).save(path)
    code = 1 if layout == "davis" else 0  # there the first mask must show the objects
    new, told = fix(root, code=code)
    expected = [boxes({}), boxes({1: A}), boxes({1: B}), boxes({})]
    for mask, (path, mended) in zip(expected, masks_of(new, "v").items(), strict=True):
        assert np.array_equal(mended, mask), path
    assert {one["code"] for one in told["findings"]} == {"first-mask-empty"}
    done = [one["done"] for one in told["mended"]]
    black = [["colors -> background"]] if mode == "RGB" else []
    assert done == [*black, ["255 -> 1"], ["255 -> 1"], *black]
    video = folder(new)[0] if layout == "folder" else davis(new)[1]
    assert np.array_equal(video.mask(1), boxes({1: A}))


def test_black_and_white_masks_among_ids_stay_as_they_are(tmp_path):
    clean_davis(tmp_path / "set")
    path = tmp_path / "set" / "Annotations" / "480p" / "ant" / "00002.png"
    write_mask(path, boxes({VOID: A}))
    new, told = fix(tmp_path / "set")
    assert told is None and not new.exists()


def test_colors_get_one_numbering_a_video_and_a_frame_without_objects_is_empty(tmp_path):
    root = tmp_path / "set"
    red, green, blue = (200, 1, 1), (1, 200, 1), (1, 1, 200)
    frames = [{2: green}, {1: red, 2: green}, {}, {3: blue, 1: red}]
    masks = [boxes({1: A}), boxes({1: A, 2: B}), boxes({}), boxes({1: A, 2: B})]
    layout = {1: A, 2: B, 3: (30, 2, 38, 12)}
    write_video(root, "v", masks)
    for path, colors in zip(masks_of(root, "v"), frames, strict=True):
        in_colors(boxes({label: layout[label] for label in colors}), colors).save(path)
    new, told = fix(root)
    mended = list(masks_of(new, "v").values())
    assert np.array_equal(mended[0], boxes({1: B}))  # green comes first
    assert np.array_equal(mended[1], boxes({2: A, 1: B}))
    assert not mended[2].any()
    assert np.array_equal(mended[3], boxes({2: A, 3: layout[3]}))  # blue comes after red
    assert [one["done"] for one in told["mended"]] == [
        ["colors -> 1"],
        ["colors -> 1, 2"],
        ["colors -> background"],
        ["colors -> 2, 3"],
    ]


def unsure(kind: str) -> Image.Image:
    colors = {
        "many colors": lambda: Image.fromarray(picture(0)),
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


UNSURE = [
    "many colors",
    "no black",
    "white among colors",
    "white among grays",
    "transparent",
    "smooth colors",
]


@pytest.mark.parametrize("kind", UNSURE)
def test_colors_that_are_not_sure_stay_and_are_listed(kind, tmp_path):
    clean_folder(tmp_path / "set")
    paths = list(masks_of(tmp_path / "set", "dog"))
    for path in paths:
        unsure(kind).save(path)
    other = tmp_path / "set" / "Annotations" / "cat" / "00000.png"
    Image.fromarray(read_mask(other)).save(other)
    new, told = fix(tmp_path / "set", code=1)
    assert [one["path"] for one in told["mended"]] == ["Annotations/cat/00000.png"]
    left = [(one["code"], one["path"]) for one in told["findings"]]
    assert left == [("mask-rgb", str(path.relative_to(tmp_path / "set"))) for path in paths]
    assert (new / left[0][1]).samefile(paths[0])


def test_new_ids_are_not_made_up_where_meta_json_has_its_own(tmp_path):
    clean_youtube(tmp_path / "set")
    for path, mask in masks_of(tmp_path / "set", "aaa").items():
        in_colors(mask, {1: (9, 200, 30), 2: (250, 10, 10)}).save(path)
    assert fix(tmp_path / "set", code=1)[1] is None
    for path in masks_without_reading(tmp_path / "set", "aaa"):
        write_mask(path, boxes({VOID: A}))
    assert fix(tmp_path / "set", code=1)[1] is None
    for path in masks_without_reading(tmp_path / "set", "aaa"):
        Image.fromarray(PALETTE[boxes({1: A, 2: B})]).save(path)
    new, told = fix(tmp_path / "set")
    assert told["findings"] == [] and len(told["mended"]) == 3


@pytest.mark.parametrize("by", [2, 3])
def test_sizes_are_mended_by_nearest_neighbor_where_the_aspect_is_one(by, tmp_path):
    root = tmp_path / "set"
    masks = [boxes({1: A, 2: B}, (60, 90))] * 4
    write_video(root, "v", masks, size=(60, 90))
    paths = list(masks_of(root, "v"))
    write_mask(paths[0], masks[0][::by, ::by])
    write_mask(paths[1], masks[1].repeat(by, axis=0).repeat(by, axis=1))
    write_mask(paths[2], masks[2][:, :60])
    new, told = fix(root, code=1)
    mended = list(masks_of(new, "v").values())
    blocks = masks[0][::by, ::by].repeat(by, axis=0).repeat(by, axis=1)
    assert np.array_equal(mended[0], blocks) and np.array_equal(mended[1], masks[1])
    assert mended[2].shape == (60, 60)
    assert [one["done"] for one in told["mended"]] == [
        [f"{90 // by}x{60 // by} -> 90x60"],
        [f"{90 * by}x{60 * by} -> 90x60"],
    ]
    assert [(one["code"], Path(one["path"]).name) for one in told["findings"]] == [("mask-size", "00002.png")]


def test_sizes_that_rounding_made_are_of_one_aspect(tmp_path):
    root = tmp_path / "set"  # 480p of DAVIS beside its full size
    write_video(root, "v", [boxes({1: A}, (480, 854))] * 3, size=(480, 854))
    path = masks_without_reading(root, "v")[0]
    Image.fromarray(boxes({1: A}, (1080, 1920))).save(path)
    new, told = fix(root)
    assert told["mended"] == [
        {"path": "Annotations/v/00000.png", "done": ["palette", "1920x1080 -> 854x480"]}
    ]


def test_smooth_masks_of_one_object_are_mended_only_when_asked(tmp_path):
    root = tmp_path / "set"
    clean_folder(root)
    truth = boxes({1: A})
    smooth = Image.fromarray(255 * truth).filter(ImageFilter.GaussianBlur(1.5))
    for path in masks_without_reading(root, "dog"):
        smooth.save(path)
    smooth.convert("RGB").save(masks_without_reading(root, "dog")[1])
    assert fix(root, code=1)[1] is None
    new, told = fix(root, "--threshold", "128")
    for path in masks_without_reading(new, "dog"):
        assert np.array_equal(read_mask(path), np.asarray(smooth) >= 128)
    assert {tuple(one["done"]) for one in told["mended"]} == {("128 and above -> 1",)}
    Image.fromarray(boxes({2: A})).save(masks_without_reading(root, "dog")[2])  # ids: then it is not sure
    (tmp_path / "other").mkdir()
    assert cli.run(["check", str(root), "--fix", str(tmp_path / "other" / "x"), "--threshold", "128"]) == 1
    with Image.open(masks_without_reading(tmp_path / "other" / "x", "dog")[0]) as image:
        assert np.array_equal(image, smooth)


def test_stills_are_mended_one_by_one(tmp_path):
    root = tmp_path / "set"
    clean_stills(root)
    spoilt = {
        "5": Image.fromarray(boxes({1: A, 3: B})),
        "6": Image.fromarray(255 * boxes({1: A})).convert("RGB"),
        "7": in_colors(boxes({1: A, 2: B}), {1: (200, 0, 9), 2: (9, 9, 200)}),
        "8": Image.fromarray(boxes({1: A, VOID: B})),
        "9": Image.fromarray(boxes({VOID: A})[::2, ::2]),
    }
    for name, image in spoilt.items():
        write_frame(root / f"{name}.jpg", picture(1))
        image.save(root / f"{name}.png")
    new, told = fix(root)
    assert {one["path"]: one["done"] for one in told["mended"]} == {
        "5.png": ["palette"],
        "6.png": ["255 -> 1"],
        "7.png": ["colors -> 1, 2"],
        "9.png": ["30x20 -> 60x40"],
    }
    assert [(one["code"], one["path"]) for one in told["findings"]] == [
        ("mask-gray", "8.png"),
        ("id-gap", "5.png"),
    ]
    read = {i: pairs(new).read(i)[1] for i in range(len(pairs(new)))}
    assert np.array_equal(read[4], boxes({1: A}))
    assert np.array_equal(read[5], boxes({2: A, 1: B}))
    assert np.array_equal(read[7], boxes({VOID: A})[::2, ::2].repeat(2, 0).repeat(2, 1) == VOID)
