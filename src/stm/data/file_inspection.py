"""What does a picture file hold? Each file is opened once, whatever it is, and never trusted."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from stm.data.image_io import read_frame
from stm.masks import object_ids, read_mask
from stm.video import VOID

LARGEST = 89_478_485
"""Pixels of a picture that is still decoded: what PIL holds for plausible."""
FLAT_COLORS = 32
"""A mask with more colors than these is a picture, not a map of objects."""
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_BLOCK = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a file holds.

    Attributes:
        fault: code and reason, where the file cannot be used at all; the rest then says nothing.
        size: height and width in pixels.
        mode: as PIL calls it.
        format: what the content is, whatever the name says.
        turned: EXIF asks viewers to turn the picture.
        labels: of a mask, label -> pixels, background included; of a gray mask stored as RGB, too; empty
            where it holds colors.
        smooth: of a mask, its values look blended at the edges.
        colors: of a mask that holds a few flat colors, 0xRRGGBB -> pixels; empty otherwise.
    """

    fault: tuple[str, str] | None = None
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    format: str = ""
    turned: bool = False
    labels: Mapping[int, int] = field(default_factory=dict)
    smooth: bool = False
    colors: Mapping[int, int] = field(default_factory=dict)


def inspect_frame(path: Path) -> FileInfo:
    """The facts of a frame. A JPEG is decoded at an eighth of its size, which finds the same faults.

    Two decoders look at it: one that tells most faults, then the one that training reads frames with.
    """
    return _look(path, mask=False)


def inspect_mask(path: Path) -> FileInfo:
    """The facts of a mask."""
    return _look(path, mask=True)


def _look(path: Path, mask: bool) -> FileInfo:
    try:
        status = path.stat()
    except OSError as error:
        return FileInfo(("not-a-file", f"it cannot be opened ({error.strerror})"))
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        return FileInfo(("not-a-file", "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no file"))
    if status.st_size == 0:
        return FileInfo(("empty-file", "the file holds no byte"))
    try:
        with Image.open(path, formats=_FORMATS) as image:
            facts = _of_picture(image, mask)
        if not mask and not facts.fault:
            read_frame(path, shrink=8)
        return facts
    except UnidentifiedImageError:
        return FileInfo(("broken-file", "the content is no picture"))
    except Image.DecompressionBombError:
        return FileInfo(("huge-image", f"its header asks for more than {LARGEST} pixels"))
    except Exception as error:  # hostile content raises nearly anything
        reason = str(error).removeprefix(f"{path}: ").strip() or type(error).__name__
        return FileInfo(("broken-file", f"decoding fails ({reason})"))


def _of_picture(image: Image.Image, mask: bool) -> FileInfo:
    width, height = image.size
    if width * height > LARGEST:
        return FileInfo(("huge-image", f"its header asks for {width}x{height} pixels"))
    kind, mode = image.format or "", image.mode
    if not mask:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        image.draft(None, (max(1, width // 8), max(1, height // 8)))
        image.load()
        return FileInfo(size=(height, width), mode=mode, format=kind, turned=turned)
    facts: dict[str, Any] = {"size": (height, width), "mode": mode, "format": kind}
    pixels = np.asarray(image)
    if mode in ("P", "L", "1"):
        return FileInfo(**facts, **_of_labels(pixels.astype(np.uint8)))
    if mode == "RGB" or (mode == "RGBA" and (pixels[..., 3] == 255).all()):
        return FileInfo(**facts, **_of_colors(pixels[..., :3]))
    return FileInfo(**facts)


def _of_labels(mask: np.ndarray) -> dict[str, Any]:
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()
    labels = {int(label): int(counts[label]) for label in np.flatnonzero(counts)}
    return {"labels": labels, "smooth": len(labels.keys() - {0, 255}) > 2 and _is_smooth(mask, labels)}


def _is_smooth(mask: np.ndarray, labels: Mapping[int, int]) -> bool:
    """Are there labels that only edges have, with values between those of their neighbors?

    An object has an inside, be it one pixel whose eight neighbors share its label; a blended edge has none.
    """
    lowest, highest = _around(mask)
    inside = set(np.unique(mask[lowest == highest]).tolist())
    thin = sorted(labels.keys() - inside - {0, 255})
    edge = np.isin(mask, thin)
    between = edge & (lowest < mask) & (mask < highest)
    return len(thin) > 2 and bool(2 * np.count_nonzero(between) > np.count_nonzero(edge))


def _around(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest label among each pixel and its neighbors."""
    border = cv2.BORDER_REPLICATE
    return cv2.erode(mask, _BLOCK, borderType=border), cv2.dilate(mask, _BLOCK, borderType=border)


def _of_colors(pixels: np.ndarray) -> dict[str, Any]:
    """Colors, where they are few and each has an inside; the labels of one channel, where all are gray."""
    packed = pack(pixels)
    colors, ranks, counts = np.unique(packed, return_inverse=True, return_counts=True)
    facts: dict[str, Any] = {}
    if len(colors) <= FLAT_COLORS:
        lowest, highest = _around(ranks.reshape(packed.shape).astype(np.uint8))
        if len(np.unique(lowest[lowest == highest])) == len(colors):
            facts["colors"] = dict(zip(colors.tolist(), counts.tolist(), strict=True))
    if (pixels == pixels[..., :1]).all():
        facts |= _of_labels(np.ascontiguousarray(pixels[..., 0]))
    return facts


def pack(pixels: np.ndarray) -> np.ndarray:
    """Colors (..., 3) as numbers 0xRRGGBB."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue


def read_image_file(path: Path) -> np.ndarray:
    """A picture, uint8 (H, W, 3).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, a broken one, or larger than is plausible.
    """
    _refuse(path, inspect_frame(path))
    return read_frame(path)


def read_mask_prompt(path: Path, size: tuple[int, int], picture: object) -> np.ndarray:
    """A mask that shows objects, uint8 (H, W) with their ids; where it holds only 0 and 255, 255 is object 1.

    Args:
        size: (H, W) of its picture, and what that is called.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no index mask, of another size, smoothed at the edges, or shows no object.
    """
    facts = inspect_mask(path)
    _refuse(path, facts)
    mask = read_mask(path)
    if facts.smooth:
        raise ValueError(
            f"{path}: the mask is smoothed at its edges, so that its values are no object ids; export it "
            "without smoothing (`stm check` mends whole folders)"
        )
    if mask.shape != size:
        raise ValueError(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, {picture} is {size[1]}x{size[0]} "
            "(width x height)"
        )
    if not object_ids(mask):
        mask = (mask == VOID).astype(np.uint8)
    if not mask.any():
        raise ValueError(f"{path}: the mask shows no object: all its pixels are 0")
    return mask


def _refuse(path: Path, facts: FileInfo) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if facts.fault:
        raise ValueError(f"{path}: {facts.fault[1]}")
