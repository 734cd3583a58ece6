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

from stm.data.files import read_frame

LARGEST = 89_478_485
"""Pixels of a picture that is still decoded: what PIL holds for plausible."""
FLAT_COLOURS = 32
"""A mask with more colours than these is a picture, not a map of objects."""
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_BLOCK = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file holds.

    Attributes:
        fault: code and reason, where the file cannot be used at all; the rest then says nothing.
        size: height and width in pixels.
        mode: as PIL calls it.
        format: what the content is, whatever the name says.
        turned: EXIF asks viewers to turn the picture.
        labels: of a mask, label -> pixels, background included; of a grey mask stored as RGB, too; empty
            where it holds colours.
        smooth: of a mask, its values look blended at the edges.
        colours: of a mask that holds a few flat colours, 0xRRGGBB -> pixels; empty otherwise.
    """

    fault: tuple[str, str] | None = None
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    format: str = ""
    turned: bool = False
    labels: Mapping[int, int] = field(default_factory=dict)
    smooth: bool = False
    colours: Mapping[int, int] = field(default_factory=dict)


def look_at_frame(path: Path) -> Facts:
    """The facts of a frame. A JPEG is decoded at an eighth of its size, which finds the same faults.

    Two decoders look at it: one that tells most faults, then the one that training reads frames with.
    """
    return _look(path, mask=False)


def look_at_mask(path: Path) -> Facts:
    """The facts of a mask."""
    return _look(path, mask=True)


def _look(path: Path, mask: bool) -> Facts:
    try:
        status = path.stat()
    except OSError as error:
        return Facts(("not-a-file", f"it cannot be opened ({error.strerror})"))
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        return Facts(("not-a-file", "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no file"))
    if status.st_size == 0:
        return Facts(("empty-file", "the file holds no byte"))
    try:
        with Image.open(path, formats=_FORMATS) as image:
            facts = _of_picture(image, mask)
        if not mask and not facts.fault:
            read_frame(path, shrink=8)
        return facts
    except UnidentifiedImageError:
        return Facts(("broken-file", "the content is no picture"))
    except Image.DecompressionBombError:
        return Facts(("huge-picture", f"its header asks for more than {LARGEST} pixels"))
    except Exception as error:  # hostile content raises nearly anything
        reason = str(error).removeprefix(f"{path}: ").strip() or type(error).__name__
        return Facts(("broken-file", f"decoding fails ({reason})"))


def _of_picture(image: Image.Image, mask: bool) -> Facts:
    width, height = image.size
    if width * height > LARGEST:
        return Facts(("huge-picture", f"its header asks for {width}x{height} pixels"))
    kind, mode = image.format or "", image.mode
    if not mask:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        image.draft(None, (max(1, width // 8), max(1, height // 8)))
        image.load()
        return Facts(size=(height, width), mode=mode, format=kind, turned=turned)
    facts: dict[str, Any] = {"size": (height, width), "mode": mode, "format": kind}
    pixels = np.asarray(image)
    if mode in ("P", "L", "1"):
        return Facts(**facts, **_of_labels(pixels.astype(np.uint8)))
    if mode == "RGB" or (mode == "RGBA" and (pixels[..., 3] == 255).all()):
        return Facts(**facts, **_of_colours(pixels[..., :3]))
    return Facts(**facts)


def _of_labels(mask: np.ndarray) -> dict[str, Any]:
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()
    labels = {int(label): int(counts[label]) for label in np.flatnonzero(counts)}
    return {"labels": labels, "smooth": len(labels.keys() - {0, 255}) > 2 and _is_smooth(mask, labels)}


def _is_smooth(mask: np.ndarray, labels: Mapping[int, int]) -> bool:
    """Are there labels that only edges have, with values between those of their neighbours?

    An object has an inside, be it one pixel whose eight neighbours share its label; a blended edge has none.
    """
    lowest, highest = _around(mask)
    inside = set(np.unique(mask[lowest == highest]).tolist())
    thin = sorted(labels.keys() - inside - {0, 255})
    edge = np.isin(mask, thin)
    between = edge & (lowest < mask) & (mask < highest)
    return len(thin) > 2 and bool(2 * np.count_nonzero(between) > np.count_nonzero(edge))


def _around(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest label among each pixel and its neighbours."""
    border = cv2.BORDER_REPLICATE
    return cv2.erode(mask, _BLOCK, borderType=border), cv2.dilate(mask, _BLOCK, borderType=border)


def _of_colours(pixels: np.ndarray) -> dict[str, Any]:
    """Colours, where they are few and each has an inside; the labels of one channel, where all are grey."""
    packed = pack(pixels)
    colours, ranks, counts = np.unique(packed, return_inverse=True, return_counts=True)
    facts: dict[str, Any] = {}
    if len(colours) <= FLAT_COLOURS:
        lowest, highest = _around(ranks.reshape(packed.shape).astype(np.uint8))
        if len(np.unique(lowest[lowest == highest])) == len(colours):
            facts["colours"] = dict(zip(colours.tolist(), counts.tolist(), strict=True))
    if (pixels == pixels[..., :1]).all():
        facts |= _of_labels(np.ascontiguousarray(pixels[..., 0]))
    return facts


def pack(pixels: np.ndarray) -> np.ndarray:
    """Colours (..., 3) as numbers 0xRRGGBB."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue
