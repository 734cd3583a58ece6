"""Frames on disk: listing, measuring, decoding.

Frames, stills, masks and queries are oriented as their EXIF metadata asks, like in image viewers.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from stm.masks import open_image

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MASK_SUFFIXES = (".png",)
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def list_images(folder: str | Path, suffixes: tuple[str, ...] = FRAME_SUFFIXES) -> tuple[list[str], str]:
    """List the names of a folder's images without suffix, in natural order (2 before 10), and their suffix.

    Args:
        folder: the folder; hidden files are left out.
        suffixes: accepted suffixes in lower case; a file's suffix may be in upper case.

    Raises:
        FileNotFoundError: the folder does not exist or holds no image.
        ValueError: the images have several suffixes, so that a name could mean two files.
    """
    by_suffix = images_by_suffix(folder, suffixes)
    if not by_suffix:
        raise FileNotFoundError(f"{folder}: holds no image ({', '.join(sorted(suffixes))})")
    if len(by_suffix) > 1:
        raise ValueError(f"{folder}: images must share one suffix; got {', '.join(sorted(by_suffix))}")
    [(suffix, names)] = by_suffix.items()
    return names, suffix


def images_by_suffix(folder: str | Path, suffixes: tuple[str, ...]) -> dict[str, list[str]]:
    """Return suffix, as it is spelled -> names of the images without it, in natural order.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    by_suffix: dict[str, list[str]] = {}
    for path in folder.iterdir():
        if path.suffix.lower() in suffixes and path.name[0] != ".":
            # Videos share most names (00000, 00005, ...): interned, 100 k names are a few thousand strings.
            by_suffix.setdefault(path.suffix, []).append(sys.intern(path.stem))
    return {suffix: sorted(names, key=natural) for suffix, names in by_suffix.items()}


def list_folders(folder: str | Path) -> list[Path]:
    """Return the subfolders of a folder by name, without hidden ones such as `.ipynb_checkpoints`."""
    return sorted(entry for entry in Path(folder).iterdir() if entry.name[0] != "." and entry.is_dir())


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that compares digits in a name as numbers, before text."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def frame_size(path: str | Path) -> tuple[int, int]:
    """Read the height and width in pixels of an image, oriented as its EXIF metadata asks, from its header.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, or it is broken.
    """
    with open_image(path) as image:
        return oriented_size(image)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1..8; 1 if nothing is to be rotated or flipped."""
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Return the height and width of an opened image after its orientation."""
    if orientation(image) >= 5 and image.format != "TIFF":  # Pillow itself orients TIFF files
        return image.width, image.height
    return image.height, image.width


def read_frame(path: str | Path, shrink: int = 1) -> np.ndarray:
    """Decode a frame, oriented as its EXIF metadata asks: uint8 (ceil(H / shrink), ceil(W / shrink), 3), RGB.

    Args:
        path: an image file; more than 8 bits per channel are reduced to 8.
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
    try:
        frame = cv2.imdecode(data, flags) if len(data) else None  # applies the EXIF orientation
    except cv2.error:  # an image that is larger than OpenCV's limit
        frame = None
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
    """Check that a mask has the size of its frame, both after their EXIF orientation.

    Raises:
        ValueError: the sizes differ; the message names both files and sizes.
    """
    height, width = frame_size(frame)
    if mask_shape != (height, width):
        with open_image(frame) as image:
            turned = "" if orientation(image) == 1 else " after its EXIF orientation, as viewers show it,"
        raise ValueError(
            f"frame and mask must have the same size (width x height); got {frame} with {width}x{height}"
            f"{turned} and {mask} with {mask_shape[1]}x{mask_shape[0]}"
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
