"""Stills with index masks: image-mask pairs, PASCAL VOC, SBD, COCO, frames of videos.

Building a data set lists names into numpy arrays and decodes nothing: 100 k stills take a few MB, without a
Python object for each.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from stm.data.coco import coco
from stm.data.dataset_lists import read_text
from stm.data.image_io import FRAME_SUFFIXES, MASK_SUFFIXES, check_size, list_images, read_frame
from stm.data.matfile import read_mat_field
from stm.masks import read_mask
from stm.video import Video, void_label

__all__ = ["FileStills", "Stills", "coco", "pairs", "sbd", "video_frames", "voc"]

Kind = Literal["auto", "ids", "binary"]


class Stills(Protocol):
    """A data set of still images with index masks."""

    name: str
    """Prefix of `Clip.source` for clips of these stills."""

    def __len__(self) -> int: ...

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Read still i: image uint8 (H, W, 3), RGB, and object ids (H, W), 0 background."""


class FileStills:
    """Pairs of an image and a mask with the same name.

    Args:
        name: see `Stills.name`.
        images: the folder of images.
        masks: the folder of masks.
        names: file names without suffix.
        suffix: suffix of the images.
        kind: `ids`: labels are object ids and 255 is void. `binary`: labels of 128 and more are the one
            object. `auto`: `binary` for a grayscale mask that contains 255 and for a palette mask of only 0
            and 255; `ids` otherwise.
        mask_suffix: suffix of the masks; `.mat` for SBD.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(
        self,
        name: str,
        images: str | Path,
        masks: str | Path,
        names: Sequence[str],
        suffix: str = ".jpg",
        kind: Kind = "auto",
        mask_suffix: str = ".png",
    ) -> None:
        if kind not in ("auto", "ids", "binary"):
            raise ValueError(f"kind={kind!r}: must be auto, ids or binary")
        self.name = name
        self._images, self._masks = str(images), str(masks)
        self._suffix, self._mask_suffix, self._kind = suffix, mask_suffix, kind
        self._names = np.array([n.encode() for n in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Read still i, see `Stills.read`.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is broken, the mask holds colors, or the sizes differ.
        """
        name = self._names[i].decode()
        image, mask = f"{self._images}/{name}{self._suffix}", f"{self._masks}/{name}{self._mask_suffix}"
        is_mat = self._mask_suffix == ".mat"
        labels = (
            read_mat_field(mask, "GTinst", "Segmentation").astype(np.uint8) if is_mat else read_mask(mask)
        )
        check_size(image, mask, labels.shape)
        if self._kind == "binary" or (self._kind == "auto" and _is_binary(mask, labels)):
            labels = (labels > void_label(labels) // 2).astype(np.uint8)
        return read_frame(image), labels


def _is_binary(path: str, labels: np.ndarray) -> bool:
    """Return whether 255 is the object: a grayscale mask may have smooth edges, a palette mask may not."""
    void = void_label(labels)
    if not (labels == void).any():
        return False
    with Image.open(path) as image:
        is_gray = image.mode != "P"
    return is_gray or bool(((labels == 0) | (labels == void)).all())


def pairs(
    images: str | Path,
    masks: str | Path | None = None,
    name: str | None = None,
    kind: Kind = "auto",
    only: str = "*",
) -> FileStills:
    """List X.jpg (or X.png) with X.png in two folders or one, as in ECSSD, MSRA10K and DUTS.

    Args:
        images: the folder of images.
        masks: the folder of masks; None if they are in the folder of images.
        name: see `Stills.name`; by default the name of the folder of images.
        kind: see `FileStills`.
        only: pattern of the names X to list, such as `davis*`.

    Raises:
        FileNotFoundError: a folder is missing, or an image has no mask.
        ValueError: no name matches the pattern.
    """
    images = Path(images)
    is_one_folder = masks is None or Path(masks).resolve() == images.resolve()
    masks = images if masks is None else Path(masks)
    suffixes = tuple(set(FRAME_SUFFIXES) - set(MASK_SUFFIXES)) if is_one_folder else FRAME_SUFFIXES
    names, suffix = list_images(images, suffixes)
    mask_names, mask_suffix = list_images(masks, MASK_SUFFIXES)
    missing = sorted(set(names) - set(mask_names))
    if missing:
        raise FileNotFoundError(
            f"{masks / missing[0]}{mask_suffix}: there is no such mask "
            f"({len(missing)} of {len(names)} are missing)"
        )
    names = fnmatch.filter(names, only)
    if not names:
        raise ValueError(f"only={only}: must match a name in {images}")
    return FileStills(name or images.name, images, masks, names, suffix, kind, mask_suffix)


def voc(root: str | Path, split: str = "train") -> FileStills:
    """List the PASCAL VOC images that have instance masks (SegmentationObject; 255 is void).

    Args:
        root: the folder that holds JPEGImages, SegmentationObject and ImageSets, such as VOCdevkit/VOC2012.
        split: name of a list in ImageSets/Segmentation.

    Raises:
        FileNotFoundError: the list is missing.
    """
    root = Path(root)
    names = _read_list(root / "ImageSets" / "Segmentation", split)
    return FileStills(f"voc-{split}", root / "JPEGImages", root / "SegmentationObject", names, kind="ids")


def sbd(root: str | Path, split: str = "train") -> FileStills:
    """List the images of the Semantic Boundaries Dataset with their instance masks.

    Args:
        root: the folder that holds `img`, `inst` and the lists, in the archive benchmark_RELEASE/dataset.
        split: name of a list.

    Raises:
        FileNotFoundError: the list is missing.
    """
    root = Path(root)
    names = _read_list(root, split)
    return FileStills(f"sbd-{split}", root / "img", root / "inst", names, kind="ids", mask_suffix=".mat")


def _read_list(folder: Path, split: str) -> list[str]:
    path = folder / f"{split}.txt"
    if not path.is_file():
        available = ", ".join(sorted(p.stem for p in folder.glob("*.txt")))
        raise FileNotFoundError(f"{path}: there is no such list; available are {available or 'none'}")
    return read_text(path).split()


class VideoStills:
    """Annotated frames of videos as stills.

    Args:
        name: see `Stills.name`.
        videos: the videos.
    """

    def __init__(self, name: str, videos: Sequence[Video]) -> None:
        self.name, self._videos = name, videos
        counts = [len(video.annotated) for video in videos]
        self._video = np.repeat(np.arange(len(videos), dtype=np.int32), counts)
        self._time = np.array([t for video in videos for t in video.annotated], dtype=np.int32)

    def __len__(self) -> int:
        return len(self._time)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Read still i, see `Stills.read`."""
        video, t = self._videos[self._video[i]], int(self._time[i])
        return video.frame(t), video.annotated_mask(t)


def video_frames(videos: Sequence[Video], name: str = "frames") -> VideoStills:
    """List the annotated frames of videos as stills.

    Raises:
        ValueError: no frame is annotated.
    """
    stills = VideoStills(name, videos)
    if len(stills) == 0:
        raise ValueError(f"{name}: none of {len(videos)} videos has an annotated frame")
    return stills
