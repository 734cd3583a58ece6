"""Frames on disk: listing, measuring, decoding."""

from __future__ import annotations

import hashlib
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
    """List the names of a folder's images without suffix, in natural order (2 before 10), and their suffix.

    Raises:
        FileNotFoundError: the folder does not exist or holds no image.
        ValueError: the images have several suffixes, so that a name could mean two files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    files = [path.name for path in folder.iterdir() if path.suffix in suffixes and path.name[0] != "."]
    if not files:
        raise FileNotFoundError(
            f"{folder}: holds no image ({', '.join(sorted({*map(str.lower, suffixes)}))})"
        )
    endings = sorted({Path(name).suffix for name in files})
    if len(endings) > 1:
        raise ValueError(f"{folder}: images must share one suffix; got {', '.join(endings)}")
    # Videos share most names (00000, 00005, ...): interned, 100 k names are a few thousand strings.
    names = [sys.intern(name.removesuffix(endings[0])) for name in files]
    return sorted(names, key=natural), endings[0]


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that compares digits in a name as numbers, before text."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def frame_size(path: str | Path) -> tuple[int, int]:
    """Read the height and width of an image in pixels from the file's header.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image file") from error


def read_frame(path: str | Path, shrink: int = 1) -> np.ndarray:
    """Decode a frame, uint8 (ceil(H / shrink), ceil(W / shrink), 3), RGB.

    The EXIF orientation is not applied, since masks have none.

    Args:
        path: a JPEG or PNG file.
        shrink: 1, 2, 4 or 8. A JPEG is decoded at the smaller size, which is several times as fast.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, or it is truncated.
    """
    path = str(path)
    data = np.fromfile(path, dtype=np.uint8)
    is_jpeg = data[:2].tobytes() == b"\xff\xd8"  # whatever the suffix is
    # The decoder silently fills the missing part of a truncated JPEG with gray, so look for the end marker.
    if is_jpeg and b"\xff\xd9" not in data[len(data) // 2 :].tobytes():
        raise ValueError(f"{path}: the JPEG is truncated ({len(data)} bytes); copy or download it again")
    flags = _REDUCED[shrink] if is_jpeg else cv2.IMREAD_COLOR
    frame = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if frame is None:
        raise ValueError(f"{path}: not an image that can be decoded")
    frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    return frame if is_jpeg else shrink_image(frame, shrink)


def shrink_image(image: np.ndarray, by: int) -> np.ndarray:
    """Average blocks of by x by pixels like a reduced JPEG: (H, W, 3) -> (ceil(H / by), ceil(W / by), 3)."""
    if by == 1:
        return image
    down, right = -image.shape[0] % by, -image.shape[1] % by
    if down or right:
        image = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (image.shape[1] // by, image.shape[0] // by), interpolation=cv2.INTER_AREA)


def shrink_mask(mask: np.ndarray, by: int) -> np.ndarray:
    """Take the middle label of each block of by x by pixels: (H, W) -> (ceil(H / by), ceil(W / by))."""
    rows, columns = (np.minimum(np.arange(by // 2, n + by // 2, by), n - 1) for n in mask.shape)
    return mask[np.ix_(rows, columns)]


def check_size(frame: str | Path, mask: str | Path, mask_shape: tuple[int, ...]) -> None:
    """Check that a mask has the size of its frame.

    Raises:
        ValueError: the sizes differ; the message names both files and sizes.
    """
    height, width = frame_size(frame)
    if mask_shape != (height, width):
        raise ValueError(
            f"frame and mask must have the same size (width x height); got {frame} with {width}x{height} "
            f"and {mask} with {mask_shape[1]}x{mask_shape[0]}"
        )


def sample_bytes(path: str | Path, count: int = 3, length: int = 4096) -> bytes:
    """Return a digest of a file's size and of some blocks of it, evenly spaced; cheap for large files."""
    size = Path(path).stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with Path(path).open("rb") as file:
        for number in range(count):
            file.seek(max(0, size - length) * number // (count - 1))
            digest.update(file.read(length))
    return digest.digest()[:8]
