"""Index masks: the DAVIS palette, reading and writing PNG files, object ids and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stm.atomic_io import atomic_path
from stm.video import VOID, Video, void_label

WIDE_MODES = ("I;16", "I;16B", "I")
LABEL_MODES = ("P", "L", "1", *WIDE_MODES)
"""Pillow's modes of images that hold labels, of 8 bits and of 16."""


def davis_palette() -> np.ndarray:
    """Return the 256 colors of DAVIS, VOC and YouTube-VOS masks, uint8 (256, 3), RGB.

    As in the PASCAL VOC development kit, bits 3j, 3j + 1 and 3j + 2 of a label become bit 7 - j of red, green
    and blue.
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((labels >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


PALETTE = davis_palette()


def read_mask(path: str | Path) -> np.ndarray:
    """Read an index mask (H, W): the labels that a palette or grayscale PNG stores.

    Labels of 16-bit files are uint16, unless all ids are at most 254; see `narrow`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, or holds colors instead of labels (a conversion would silently
            quantize them).
    """
    with open_image(path) as image:
        if image.mode not in LABEL_MODES:
            raise ValueError(
                f"{path}: a mask must hold labels (PNG mode P or L); got mode {image.mode}. "
                "Save it as a palette PNG whose pixel values are the object ids"
            )
        ImageOps.exif_transpose(image, in_place=True)  # like frames
        labels = np.asarray(image)
        return narrow(labels) if image.mode in WIDE_MODES else labels.astype(np.uint8, copy=False)


def narrow(labels: np.ndarray) -> np.ndarray:
    """Convert 16-bit labels (H, W), void 65535, to uint8 with void 255, or to uint16 if an id exceeds 254.

    Raises:
        ValueError: a label is not in 0..65535.
    """
    if labels.min(initial=0) < 0 or labels.max(initial=0) > 65_535:
        raise ValueError(f"labels must be in 0..65535; got {labels.min()}..{labels.max()}")
    labels = labels.astype(np.uint16)
    is_id = labels != void_label(labels)
    return labels if (labels[is_id] > 254).any() else np.where(is_id, labels, VOID).astype(np.uint8)


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image with Pillow; errors in the block name the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, or it is broken.
    """
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image file") from error
    except Exception as error:  # damaged content can raise nearly any exception
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: the image is broken ({error or type(error).__name__})") from error


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write an index mask, integer (H, W), atomically, as a palette PNG.

    A mask that is uint16 or has a label above 255 becomes a 16-bit grayscale PNG.

    Raises:
        ValueError: the mask is not two-dimensional, or a label is not in 0..65535.
    """
    path = Path(path)
    if mask.ndim != 2 or mask.min(initial=0) < 0 or mask.max(initial=0) > 65_535:
        raise ValueError(
            f"{path}: a mask must be (H, W) with labels in 0..65535; got {mask.shape} "
            f"with labels {mask.min(initial=0)}..{mask.max(initial=0)}"
        )
    is_wide = mask.dtype == np.uint16 or mask.max(initial=0) > VOID
    image = Image.fromarray(mask.astype(np.uint16 if is_wide else np.uint8))
    if not is_wide:
        image.putpalette(PALETTE.flatten().tolist())  # turns it into mode P
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def mask_files(folder: Path, video: Video, t: int) -> dict[int | None, Path]:
    """Return the files of a frame's predicted masks: one, with key None, or one for each object's id."""
    name = f"{video.frame_names[t]}.png"
    if video.object_folders is None:
        return {None: folder / name}
    return {label: folder / below / name for label, below in video.object_folders.items()}


def write_labels(folder: Path, video: Video, t: int, labels: np.ndarray) -> None:
    """Write a frame's predicted labels, (H, W), to the files that the video's data set expects."""
    for label, path in mask_files(folder, video, t).items():
        write_mask(path, labels if label is None else labels == label)


def read_labels(folder: Path, video: Video, t: int) -> np.ndarray:
    """Read a frame's predicted labels (H, W); the smallest of overlapping objects is on top."""
    files = mask_files(folder, video, t)
    if None in files:
        return read_mask(files[None])
    return stack_to_labels({label: read_mask(path) > 0 for label, path in files.items() if label})


def stack_to_labels(masks: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return masks of objects, bool (H, W) each, as labels (H, W), with the smallest on top."""
    labels = np.zeros(next(iter(masks.values())).shape, dtype=_dtype(masks))
    for label in sorted(masks, key=lambda label: -np.count_nonzero(masks[label])):
        labels[masks[label]] = label
    return labels


def object_ids(mask: np.ndarray) -> list[int]:
    """Return the object ids in an index mask, ascending, without background and void."""
    present = np.bincount(mask.ravel(), minlength=256) > 0
    return [int(label) for label in np.flatnonzero(present) if label not in (0, void_label(mask))]


def relabel(mask: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Map object ids to labels 1..len(ids), at most 254, in the given order, as uint8.

    Void stays void, other ids become background. An 8-bit mask may lack ids beyond 254 that others of its
    video have.
    """
    void = void_label(mask)
    table = np.zeros(1 + max([void, *ids]), dtype=np.uint8)
    table[list(ids)] = np.arange(1, len(ids) + 1)
    table[void] = VOID
    return table.take(mask)


def restore_ids(labels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Map labels 1..len(ids) back to object ids, uint8 or (beyond 254) uint16; 0 stays background."""
    return np.array([0, *ids], dtype=_dtype(ids))[labels]


def _dtype(ids: Iterable[int]) -> type[np.uint8 | np.uint16]:
    return np.uint16 if max(ids, default=0) > 254 else np.uint8
