"""Still pictures with index masks: X.jpg + X.png folders, PASCAL VOC, SBD, COCO, frames of videos.

Building a set lists names into numpy arrays and decodes nothing: 100 k stills take a few MB, and no Python
object is held for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from stm.data.coco import coco
from stm.data.image_io import check_size, list_images, read_frame
from stm.data.matfile import read_mat_field
from stm.masks import read_mask
from stm.video import VOID, Video

__all__ = ["FileStills", "Stills", "coco", "pairs", "sbd", "video_frames", "voc"]

Kind = Literal["auto", "ids", "binary"]


class Stills(Protocol):
    """A set of stills."""

    name: str
    """How the `source` of its clips begins."""

    def __len__(self) -> int: ...

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Still i: frame uint8 (H, W, 3) in RGB, and object ids uint8 (H, W), 0 background, 255 void."""


class FileStills:
    """Pairs of a frame and a mask that share their name.

    Args:
        name: see `Stills.name`.
        images, masks: the two folders.
        names: file names without suffix.
        suffix: of the frames.
        kind: `ids`: the labels are object ids and 255 is void. `binary`: 128 and more is the one object.
            `auto`: binary where a gray mask reaches 255 or a palette mask holds only 0 and 255, else ids.
        mask_suffix: of the masks; `.mat` for SBD's.
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
        """Still i, see `Stills.read`.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is broken, the mask has colors, or the sizes differ.
        """
        name = self._names[i].decode()
        image, mask = f"{self._images}/{name}{self._suffix}", f"{self._masks}/{name}{self._mask_suffix}"
        is_mat = self._mask_suffix == ".mat"
        labels = (
            read_mat_field(mask, "GTinst", "Segmentation").astype(np.uint8) if is_mat else read_mask(mask)
        )
        check_size(image, mask, labels.shape)
        if self._kind == "binary" or (self._kind == "auto" and _is_binary(mask, labels)):
            labels = (labels >= 128).astype(np.uint8)
        return read_frame(image), labels


def _is_binary(path: str, labels: np.ndarray) -> bool:
    """Is 255 the object? Not beside other ids in a palette mask; a gray mask may be smooth at the edge."""
    if not (labels == VOID).any():
        return False
    with Image.open(path) as image:
        gray = image.mode != "P"
    return gray or bool(((labels == 0) | (labels == VOID)).all())


def pairs(
    images: str | Path, masks: str | Path | None = None, name: str | None = None, kind: Kind = "auto"
) -> FileStills:
    """X.jpg (or X.png) and X.png in two folders or one: salient-object sets such as ECSSD, MSRA10K, DUTS.

    Args:
        images: the folder of frames.
        masks: the folder of masks; None where they lie beside the frames.
        name: see `Stills.name`; the folder's name if None.
        kind: see `FileStills`.

    Raises:
        FileNotFoundError: a folder is missing or empty, or a frame has no mask.
    """
    images = Path(images)
    beside = masks is None or Path(masks).resolve() == images.resolve()
    masks = images if masks is None else Path(masks)
    names, suffix = list_images(images, (".jpg", ".jpeg", ".JPG", ".JPEG")) if beside else list_images(images)
    missing = sorted(set(names) - set(list_images(masks, (".png",))[0]))
    if missing:
        raise FileNotFoundError(
            f"{masks / missing[0]}.png: {len(missing)} of {len(names)} frames have no such mask"
        )
    return FileStills(name or images.name, images, masks, names, suffix, kind)


def voc(root: str | Path, split: str = "train") -> FileStills:
    """PASCAL VOC's pictures with their instances (SegmentationObject; 255 is void).

    Args:
        root: the folder that holds JPEGImages, SegmentationObject and ImageSets, such as VOCdevkit/VOC2012.
        split: the name of a list in ImageSets/Segmentation.

    Raises:
        FileNotFoundError: the list is missing.
    """
    root = Path(root)
    names = _listed(root / "ImageSets" / "Segmentation", split)
    return FileStills(f"voc-{split}", root / "JPEGImages", root / "SegmentationObject", names, kind="ids")


def sbd(root: str | Path, split: str = "train") -> FileStills:
    """The Semantic Boundaries Dataset's pictures with their instances.

    Args:
        root: the folder that holds `img`, `inst` and the lists, benchmark_RELEASE/dataset in its archive.
        split: the name of a list.

    Raises:
        FileNotFoundError: the list is missing.
    """
    root = Path(root)
    names = _listed(root, split)
    return FileStills(f"sbd-{split}", root / "img", root / "inst", names, kind="ids", mask_suffix=".mat")


def _listed(folder: Path, split: str) -> list[str]:
    path = folder / f"{split}.txt"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.txt")))
        raise FileNotFoundError(f"{path}: there is no such list; there are {there or 'none'}")
    return path.read_text().split()


class VideoStills:
    """Annotated frames of videos, each a still of its own.

    Args:
        name: see `Stills.name`.
        videos: where the frames are.
    """

    def __init__(self, name: str, videos: Sequence[Video]) -> None:
        self.name, self._videos = name, videos
        counts = [len(video.annotated) for video in videos]
        self._video = np.repeat(np.arange(len(videos), dtype=np.int32), counts)
        self._time = np.array([t for video in videos for t in video.annotated], dtype=np.int32)

    def __len__(self) -> int:
        return len(self._time)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Still i, see `Stills.read`."""
        video, t = self._videos[self._video[i]], int(self._time[i])
        mask = video.mask(t)
        assert mask is not None, f"{video.name}: frame {t} is annotated but has no mask"
        return video.frame(t), mask


def video_frames(videos: Sequence[Video], name: str = "frames") -> VideoStills:
    """The annotated frames of videos as stills.

    Raises:
        ValueError: there is none.
    """
    stills = VideoStills(name, videos)
    if len(stills) == 0:
        raise ValueError(f"{name}: none of {len(videos)} videos has an annotated frame")
    return stills
