"""Frames on disk: how they are listed, measured and decoded."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def list_images(folder: str | Path, suffixes: tuple[str, ...] = FRAME_SUFFIXES) -> tuple[list[str], str]:
    """The names of a folder's images without suffix, in natural order (2 before 10), and their one suffix.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: the images have several suffixes, so a name could mean two files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    found = [path.name for path in folder.iterdir() if path.suffix in suffixes and path.name[0] != "."]
    if not found:
        raise FileNotFoundError(
            f"{folder}: holds no image ({', '.join(sorted({*map(str.lower, suffixes)}))})"
        )
    endings = sorted({Path(name).suffix for name in found})
    if len(endings) > 1:
        raise ValueError(f"{folder}: images must share one suffix, found {', '.join(endings)}")
    # Videos share most of their names (00000, 00005, ...): interned, 100 k frames are a few thousand strings.
    names = [sys.intern(name.removesuffix(endings[0])) for name in found]
    return sorted(names, key=natural), endings[0]


def natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def frame_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image in pixels, from the file's header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image file") from error


def read_frame(path: str | Path, shrink: int = 1) -> np.ndarray:
    """Decode a frame, uint8 (ceil(H / shrink), ceil(W / shrink), 3), RGB.

    The pixels are those that are stored: an EXIF orientation is not applied, since masks don't have one.

    Args:
        path: a JPEG or PNG file.
        shrink: 1, 2, 4 or 8. A JPEG is decoded at the smaller size, which is several times as fast.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, or it is cut short.
    """
    path = str(path)
    data = np.fromfile(path, dtype=np.uint8)
    is_jpeg = data[:2].tobytes() == b"\xff\xd8"  # whatever its name says
    # The decoder silently fills the missing part of a truncated JPEG with gray: look for the end mark.
    if is_jpeg and b"\xff\xd9" not in data[len(data) // 2 :].tobytes():
        raise ValueError(f"{path}: the JPEG is cut short ({len(data)} bytes); copy or download it again")
    flags = _REDUCED[shrink] if is_jpeg else cv2.IMREAD_COLOR
    frame = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if frame is None:
        raise ValueError(f"{path}: not an image that can be decoded")
    frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    return frame if is_jpeg else shrink_image(frame, shrink)


def shrink_image(image: np.ndarray, by: int) -> np.ndarray:
    """Average blocks of by x by pixels, as a reduced JPEG does: (H, W, 3) -> (ceil(H/by), ceil(W/by), 3)."""
    if by == 1:
        return image
    down, right = -image.shape[0] % by, -image.shape[1] % by
    if down or right:
        image = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (image.shape[1] // by, image.shape[0] // by), interpolation=cv2.INTER_AREA)


def shrink_mask(mask: np.ndarray, by: int) -> np.ndarray:
    """Take the middle label of each block of by x by pixels: (H, W) -> (ceil(H/by), ceil(W/by))."""
    rows, columns = (np.minimum(np.arange(by // 2, n + by // 2, by), n - 1) for n in mask.shape)
    return mask[np.ix_(rows, columns)]


def check_size(frame: str | Path, mask: str | Path, mask_shape: tuple[int, ...]) -> None:
    """Refuse a mask whose size is not its frame's.

    Raises:
        ValueError: they differ; both paths and sizes are named.
    """
    height, width = frame_size(frame)
    if mask_shape != (height, width):
        raise ValueError(
            f"frame and mask must be of one size: {frame} is {width}x{height}, "
            f"{mask} is {mask_shape[1]}x{mask_shape[0]} (width x height)"
        )
