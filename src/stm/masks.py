"""Index masks on disk and in memory: the DAVIS palette, PNG in and out, one channel an object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from stm.atomic_io import atomic_path
from stm.video import VOID


def davis_palette() -> np.ndarray:
    """The 256 colors that DAVIS, VOC and YouTube-VOS masks are drawn in, uint8 (256, 3).

    Bit j of a label's j-th group of three bits goes to bit 7-j of red, green and blue, as in the PASCAL VOC
    development kit.
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            palette[:, channel] |= (((labels >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return palette


PALETTE = davis_palette()


def read_mask(path: str | Path) -> np.ndarray:
    """Read an index mask, uint8 (H, W): the labels of a palette or gray PNG as they are stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, or has colors in place of labels (which a conversion would
            re-quantize silently), or more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise ValueError(
                    f"{path}: a mask must hold labels (PNG mode P or L), this image has mode {image.mode}; "
                    "save it as a palette PNG whose pixel values are the object ids"
                )
            return np.asarray(image, dtype=np.uint8)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image file") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: the image is broken ({error})") from error


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write an index mask, integer (H, W), as a palette PNG; the file appears whole or not at all.

    Raises:
        ValueError: a label is not in 0..255.
    """
    path = Path(path)
    if mask.ndim != 2 or mask.min(initial=0) < 0 or mask.max(initial=0) > 255:
        raise ValueError(
            f"{path}: a mask must be (H, W) with labels in 0..255, got {mask.shape} "
            f"with labels {mask.min(initial=0)}..{mask.max(initial=0)}"
        )
    image = Image.fromarray(mask.astype(np.uint8))  # mode L; the palette turns it into mode P
    image.putpalette(PALETTE.flatten().tolist())
    with atomic_path(path) as beside:
        image.save(beside, format="PNG")


def object_ids(mask: np.ndarray) -> list[int]:
    """The object ids in an index mask, ascending; neither background nor void."""
    present = np.bincount(mask.ravel(), minlength=256) > 0
    return [int(label) for label in np.flatnonzero(present) if label not in (0, VOID)]


def relabel(mask: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Map object ids to labels 1..len(ids), in their order; void stays, every other id becomes background."""
    table = np.zeros(256, dtype=np.uint8)
    table[VOID] = VOID
    table[list(ids)] = np.arange(1, len(ids) + 1)
    return table[mask]


def restore_ids(labels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Map labels 1..len(ids) back to object ids; 0 stays background."""
    return np.array([0, *ids], dtype=np.uint8)[labels]
