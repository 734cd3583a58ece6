"""`stm check` on single files: each fault is the only issue, and files without issues can be read."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.check_trees import (
    TWO,
    A,
    B,
    C,
    check_issues,
    clean_davis,
    mask_files,
    save_binary,
    save_blurred,
    save_colored,
    save_gray,
)
from helpers.data_trees import boxes, smooth_image, write_frame, write_video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from stm.data.file_inspection import inspect_frame, inspect_mask
from stm.data.image_io import read_frame
from stm.masks import PALETTE, object_ids, read_mask, write_mask
from stm.video import VOID


def relabel(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: write_mask(path, change(read_mask(path)))


def save_smaller(path: Path) -> None:
    write_mask(path, boxes({1: A, 2: B})[::2, ::2])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_circular_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def replace_by_bomb(path: Path) -> None:
    path.write_bytes(png_header(60_000, 60_000))


def replace_by_small_bomb(path: Path) -> None:
    """Write a header within the limit of PIL, but beyond ours."""
    path.write_bytes(png_header(10_000, 10_000))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def rotate_by_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down, so that the size stays
    Image.open(path).save(path, exif=exif)


JPG, PNG = "JPEGImages/480p/ant/00002.jpg", "Annotations/480p/ant/00002.png"
FILES = [
    (JPG, lambda path: path.write_bytes(b""), "error", "empty-file"),
    (JPG, lambda path: path.write_text("not an image"), "error", "broken-file"),
    (JPG, truncate, "error", "broken-file"),
    (JPG, replace_by_folder, "error", "not-a-file"),
    (JPG, replace_by_pipe, "error", "not-a-file"),
    (JPG, replace_by_circular_link, "error", "not-a-file"),
    (JPG, replace_by_bomb, "error", "huge-image"),
    (JPG, replace_by_small_bomb, "error", "huge-image"),
    (JPG, rotate_by_exif, "note", "frame-rotated"),
    (JPG, lambda path: Image.open(path).convert("L").save(path), "note", "frame-mode"),
    (JPG, lambda path: Image.open(path).save(path, "BMP"), "warning", "wrong-format"),
    (PNG, lambda path: path.write_bytes(b""), "error", "empty-file"),
    (PNG, lambda path: path.write_text("not an image"), "error", "broken-file"),
    (PNG, lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n"), "error", "broken-file"),
    (PNG, truncate, "error", "broken-file"),
    (PNG, replace_by_folder, "error", "not-a-file"),
    (PNG, replace_by_pipe, "error", "not-a-file"),
    (PNG, replace_by_circular_link, "error", "not-a-file"),
    (PNG, replace_by_bomb, "error", "huge-image"),
    (PNG, save_colored, "error", "mask-rgb"),
    (PNG, lambda path: Image.open(path).convert("RGBA").save(path), "error", "mask-rgb"),
    (PNG, lambda path: Image.open(path).convert("LA").save(path), "error", "mask-mode"),
    (PNG, lambda path: Image.fromarray(read_mask(path).astype(np.uint16)).save(path), "note", "mask-gray"),
    (PNG, save_blurred, "error", "mask-antialiased"),
    (PNG, save_gray, "note", "mask-gray"),
    (PNG, lambda path: Image.open(path).save(path, "BMP"), "warning", "wrong-format"),
    (PNG, save_smaller, "error", "mask-size"),
    (PNG, save_binary, "warning", "mask-binary"),
    (PNG, relabel(lambda mask: mask + 4 * boxes({1: C})), "warning", "late-object"),
    (PNG, Path.unlink, "error", "mask-missing"),
    (JPG, Path.unlink, "error", "mask-without-frame"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "damage", "severity", "code"), FILES)
def test_a_fault_of_one_file_is_the_only_issue(path, damage, severity, code, tmp_path):
    clean_davis(tmp_path / "set")
    target = tmp_path / "set" / path
    damage(target)
    expected = [(severity, code, path)]
    if code == "mask-without-frame":
        expected = [("error", "mask-without-frame", PNG), ("warning", "frame-gap", "JPEGImages/480p/ant")]
    if code == "late-object":
        expected.append(("note", "id-gap", "Annotations/480p/ant"))
    assert check_issues(tmp_path / "set") == expected


# --- agreement with the loaders ---


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_files_without_issues_can_be_read(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / data.draw(st.sampled_from(["x.jpg", "x.png", "frame.png"]))
    write_mask(path, TWO[0]) if path.name == "x.png" else write_frame(path, smooth_image(1))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    is_mask = path.name == "x.png"
    info = (inspect_mask if is_mask else inspect_frame)(path)
    passes = info.fault is None and (not is_mask or info.mode in ("P", "L", "1"))
    try:
        read = read_mask(path) if is_mask else read_frame(path)
    except Exception:  # loaders may raise anything for hostile files
        read = None
    if passes:
        assert read is not None and info.size == read.shape[:2]
    if is_mask:
        assert passes == (read is not None)
        assert not passes or object_ids(read) == sorted(info.labels.keys() - {0, VOID})


def test_small_objects_are_not_mistaken_for_antialiased_edges(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):  # up to 12 overlapping boxes with sides of 2 to 8 pixels
        mask = np.zeros((60, 80), np.uint8)
        for label in range(1, int(rng.integers(4, 13))):
            y, x, h, w = *rng.integers(0, 50, 2), *rng.integers(2, 9, 2)
            mask[y : y + h, x : x + w] = label
        write_mask(tmp_path / "x.png", mask)
        assert not inspect_mask(tmp_path / "x.png").smooth, i


@pytest.mark.parametrize("kind", ["blur", "reduced", "enlarged", "jpeg"])
def test_antialiased_masks_are_detected(kind, tmp_path):
    path = tmp_path / "x.png"
    y, x = np.mgrid[:100, :140]
    white = Image.fromarray(255 * (((y - 50) / 30) ** 2 + ((x - 70) / 45) ** 2 < 1).astype(np.uint8))
    if kind == "jpeg":
        white.save(path, "JPEG", quality=90)
    else:
        size = {"blur": (140, 100), "reduced": (84, 60), "enlarged": (233, 166)}[kind]
        radius = 1 if kind == "blur" else 0
        white.filter(ImageFilter.GaussianBlur(radius)).resize(size, Image.Resampling.BILINEAR).save(path)
    assert inspect_mask(path).smooth


def test_the_palette_has_256_distinct_colors():
    assert len({tuple(color) for color in PALETTE.tolist()}) == 256


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((1, 255), [("warning", "wide-void", f"Annotations/v/{t:05d}.png") for t in range(3)]),
        ((1, 65_535), [("note", "void", "Annotations/v")]),
        ((254, 255), []),
        ((255, 256), []),
    ],
)
def test_void_of_16_bit_masks_is_65535(ids, expected, tmp_path):
    root = tmp_path / "set"
    mask = np.zeros((40, 60), np.uint16)
    mask[5:20, 5:25], mask[22:38, 30:55] = ids
    write_video(root, "v", [boxes({1: A})] * 3)
    for path in mask_files(root, "v"):
        write_mask(path, mask)
    assert [issue for issue in check_issues(root) if issue[1] not in ("id-gap", "mask-gray")] == expected
    messages = [issue["message"] for issue in json.loads((tmp_path / "set.json").read_text())["issues"]]
    assert expected[:1] != [("note", "void", "Annotations/v")] or any("void (65535)" in m for m in messages)
