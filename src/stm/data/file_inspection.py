"""Inspection of untrusted image and mask files, each of which is opened once."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stm.data.image_io import orientation, oriented_size, read_frame
from stm.masks import WIDE_MODES, narrow, object_ids, read_mask
from stm.video import VOID, void_label

MAX_PIXELS = 89_478_485
"""Largest image that is decoded, Pillow's limit against decompression bombs."""
FLAT_COLORS = 32
"""Largest number of colors in a mask; a file with more is a photo."""
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_BLOCK = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Content of an image or mask file.

    Attributes:
        fault: code and reason if the file is unusable; the other attributes are then meaningless.
        size: height and width in pixels, after the orientation.
        mode: Pillow's name of the pixel format.
        format: format of the content, whatever the suffix of the file is.
        orientation: EXIF orientation of a frame, 1..8; 1 where viewers neither rotate nor flip it.
        labels: label -> pixels of a mask, background included, also for a grayscale mask stored as RGB; empty
            if the mask holds colors.
        void: the label of void pixels, 65535 in a mask with ids above 254.
        smooth: whether the values of a mask look blended at the edges of objects.
        colors: 0xRRGGBB -> pixels of a mask that holds a few flat colors; otherwise empty.
    """

    fault: tuple[str, str] | None = None
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    format: str = ""
    orientation: int = 1
    labels: Mapping[int, int] = field(default_factory=dict)
    void: int = VOID
    smooth: bool = False
    colors: Mapping[int, int] = field(default_factory=dict)


def inspect_frame(path: Path) -> FileInfo:
    """Inspect a frame. A JPEG is decoded at an eighth of its size, which reveals the same faults.

    It is decoded twice: by Pillow, which reports most faults, and by the decoder that training uses.
    """
    return _inspect(path, is_mask=False)


def inspect_mask(path: Path) -> FileInfo:
    """Inspect a mask."""
    return _inspect(path, is_mask=True)


def _inspect(path: Path, is_mask: bool) -> FileInfo:
    try:
        status = path.stat()
    except OSError as error:
        return FileInfo(("not-a-file", f"it cannot be opened ({error.strerror})"))
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
        is_folder = stat.S_ISDIR(status.st_mode)
        return FileInfo(("not-a-file", "it is a folder" if is_folder else "it is not a regular file"))
    if status.st_size == 0:
        return FileInfo(("empty-file", "the file is empty"))
    try:
        with Image.open(path, formats=_FORMATS) as image:
            info = _describe(image, is_mask)
        if not is_mask and not info.fault:
            read_frame(path, shrink=8)
        return info
    except UnidentifiedImageError:
        return FileInfo(("broken-file", "the content is not an image"))
    except Image.DecompressionBombError:
        return FileInfo(("huge-image", f"its header asks for more than {MAX_PIXELS} pixels"))
    except Exception as error:  # malicious content can raise nearly any exception
        reason = str(error).removeprefix(f"{path}: ").strip() or type(error).__name__
        return FileInfo(("broken-file", f"decoding fails ({reason})"))


def _describe(image: Image.Image, is_mask: bool) -> FileInfo:
    width, height = image.size
    if width * height > MAX_PIXELS:
        return FileInfo(("huge-image", f"its header asks for {width}x{height} pixels"))
    kind, mode = image.format or "", image.mode
    if not is_mask:
        size, turn = oriented_size(image), orientation(image)
        image.draft(None, (max(1, width // 8), max(1, height // 8)))
        image.load()
        return FileInfo(size=size, mode=mode, format=kind, orientation=turn)
    ImageOps.exif_transpose(image, in_place=True)
    attributes: dict[str, Any] = {"size": (image.height, image.width), "mode": mode, "format": kind}
    pixels = np.asarray(image)
    if mode in WIDE_MODES:
        return FileInfo(**attributes, **_describe_labels(narrow(pixels)))
    if mode in ("P", "L", "1"):
        return FileInfo(**attributes, **_describe_labels(pixels.astype(np.uint8)))
    if mode == "RGB" or (mode == "RGBA" and (pixels[..., 3] == 255).all()):
        return FileInfo(**attributes, **_describe_colors(pixels[..., :3]))
    return FileInfo(**attributes)


def _describe_labels(mask: np.ndarray) -> dict[str, Any]:
    void = void_label(mask)
    counts = cv2.calcHist([mask], [0], None, [void + 1], [0, void + 1]).ravel()
    labels = {int(label): int(counts[label]) for label in np.flatnonzero(counts)}
    smooth = len(labels.keys() - {0, void}) > 2 and _is_smooth(mask, labels)
    return {"void": void, "labels": labels, "smooth": smooth}


def _is_smooth(mask: np.ndarray, labels: Mapping[int, int]) -> bool:
    """Return whether some labels occur only at edges, with values between those of their neighbors.

    An object has at least one pixel whose eight neighbors share its label; a blended edge has none.
    """
    lowest, highest = _neighborhood_range(mask)
    inside = set(np.unique(mask[lowest == highest]).tolist())
    thin = sorted(labels.keys() - inside - {0, void_label(mask)})
    edge = np.isin(mask, thin)
    between = edge & (lowest < mask) & (mask < highest)
    return len(thin) > 2 and bool(2 * np.count_nonzero(between) > np.count_nonzero(edge))


def _neighborhood_range(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the lowest and the highest label in the 3x3 neighborhood of each pixel."""
    border = cv2.BORDER_REPLICATE
    return cv2.erode(mask, _BLOCK, borderType=border), cv2.dilate(mask, _BLOCK, borderType=border)


def _describe_colors(pixels: np.ndarray) -> dict[str, Any]:
    """Count the colors if they are few and each fills a 3x3 block; count labels if all pixels are gray."""
    packed = pack_rgb(pixels)
    colors, ranks, counts = np.unique(packed, return_inverse=True, return_counts=True)
    attributes: dict[str, Any] = {}
    if len(colors) <= FLAT_COLORS:
        lowest, highest = _neighborhood_range(ranks.reshape(packed.shape).astype(np.uint8))
        if len(np.unique(lowest[lowest == highest])) == len(colors):
            attributes["colors"] = dict(zip(colors.tolist(), counts.tolist(), strict=True))
    if (pixels == pixels[..., :1]).all():
        attributes |= _describe_labels(np.ascontiguousarray(pixels[..., 0]))
    return attributes


def pack_rgb(pixels: np.ndarray) -> np.ndarray:
    """Convert RGB colors (..., 3) to integers 0xRRGGBB (...)."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue


def read_image_file(path: Path) -> np.ndarray:
    """Read an untrusted image, uint8 (H, W, 3), RGB.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, is broken, or is larger than `MAX_PIXELS`.
    """
    _raise_fault(path, inspect_frame(path))
    return read_frame(path)


def read_mask_prompt(path: Path, size: tuple[int, int], image: object) -> np.ndarray:
    """Read a mask of object ids (H, W); if it holds only background and void, void becomes object 1.

    Args:
        path: a mask file.
        size: height and width of the image.
        image: name of the image for error messages.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an index mask, has another size, has smooth edges, or shows no object.
    """
    info = inspect_mask(path)
    _raise_fault(path, info)
    mask = read_mask(path)
    if info.smooth:
        raise ValueError(
            f"{path}: the edges of the mask are smoothed, so its values are not object ids; export it "
            "without smoothing (`stm check --fix` repairs whole folders)"
        )
    if mask.shape != size:
        is_unturned = mask.shape == size[::-1] and mask.shape[0] != mask.shape[1]
        hint = "; frames are rotated as their EXIF tags ask, so must masks be" if is_unturned else ""
        raise ValueError(
            f"{path}: the mask must have the size of {image}, {size[1]}x{size[0]} (width x height); "
            f"got {mask.shape[1]}x{mask.shape[0]}{hint}"
        )
    if not object_ids(mask):
        mask = (mask == void_label(mask)).astype(np.uint8)
    if not mask.any():
        raise ValueError(f"{path}: the mask must show an object; got only zeros")
    return mask


def _raise_fault(path: Path, info: FileInfo) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if info.fault:
        raise ValueError(f"{path}: {info.fault[1]}")
