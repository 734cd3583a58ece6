"""Videos on disk as `Video`s: DAVIS 2016 and 2017, YouTube-VOS, plain folders.

Building a data set lists folders and decodes nothing. `docs/datasets.md` shows the layouts.
"""

from __future__ import annotations

import difflib
import hashlib
import zlib
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from stm.data.dataset_lists import read_meta, video_names
from stm.data.image_io import (
    MASK_SUFFIXES,
    check_size,
    list_folders,
    list_images,
    read_frame,
    sample_bytes,
)
from stm.masks import object_ids, read_mask
from stm.video import VOID, Video, void_label


class FileVideo(Video):
    """A folder of frames and a folder of masks with the same names.

    Args:
        name: see `Video.name`.
        frames: the folder of frames; None if only masks are known, which suffices to score.
        masks: the folder of masks, `<frame name>.png`. If it does not exist, the video has no masks.
        merge: merge all objects into one with id 1 (DAVIS 2016).
        binary: if the first mask that is not empty holds only 0 and 255, treat 255 as the object and give it
            id 1. Otherwise 255 is void.
        late_objects: let each object enter at the first frame that shows its id. Every mask is read once,
            when the first frames are needed. Otherwise the objects are those of the first mask.
        first_frames: see `Video.first_frames`, with names of frames, for data sets that provide them.
        categories: see `Video.categories`.
        output_frames: see `Video.output_frames`, with names of frames.
        scored_objects: see `Video.scored_objects`.
        frame_ranges: see `Video.frame_ranges`.

    Raises:
        FileNotFoundError: the folder of frames is missing or empty, or a named frame does not exist.
    """

    def __init__(
        self,
        name: str,
        frames: str | Path | None,
        masks: str | Path,
        *,
        merge: bool = False,
        binary: bool = False,
        late_objects: bool = False,
        first_frames: Mapping[int, str] | None = None,
        categories: Mapping[int, str] | None = None,
        output_frames: Collection[str] | None = None,
        scored_objects: Sequence[int] | None = None,
        frame_ranges: Mapping[int, tuple[int, int, int]] | None = None,
    ) -> None:
        self.name = name
        self._has_frames = frames is not None
        frames = masks if frames is None else frames
        self.frame_names, self._suffix = list_images(frames)
        self._frames, self._masks = str(frames), str(masks)
        self._merge, self._binary, self._late_objects = merge, binary, late_objects
        has_masks = Path(masks).is_dir()
        mask_names, self._mask_suffix = list_images(masks, MASK_SUFFIXES) if has_masks else ([], ".png")
        self.annotated = sorted(self._indices(mask_names))
        if first_frames is not None:
            self.first_frames = dict(zip(first_frames, self._indices(first_frames.values()), strict=True))
        if categories is not None:
            self.categories = dict(categories)
        if output_frames is not None:
            self.output_frames = sorted(self._indices(output_frames))
        if scored_objects is not None:
            self.scored_objects = sorted(scored_objects)
        self.frame_ranges = frame_ranges
        mappings = [value and sorted(value.items()) for value in (first_frames, categories, frame_ranges)]
        lists = [value and sorted(value) for value in (output_frames, scored_objects)]
        self._given = f"{late_objects} {mappings} {lists}"

    def _indices(self, names: Collection[str]) -> list[int]:
        index = {name: t for t, name in enumerate(self.frame_names)}
        missing = [name for name in names if name not in index]
        if missing:
            raise FileNotFoundError(
                f"{Path(self._frames) / (missing[0] + self._suffix)}: there is no such frame, "
                f"but {self._masks} or the data set's list names it"
            )
        return [index[name] for name in names]

    def fingerprint(self) -> str:
        """Return a short hash of the video's lists, its masks, and names, sizes and samples of its frames."""
        digest = hashlib.sha256(f"{self.name} {self._merge} {self._binary} {self._given}\n".encode())
        for path in map(self.frame_path, range(len(self))):
            digest.update(f"{Path(path).name} ".encode() + sample_bytes(path))
        for path in map(self.mask_path, self.annotated):
            digest.update(f"{Path(path).name} ".encode() + Path(path).read_bytes())
        return digest.hexdigest()[:16]

    @property
    def masks_folder(self) -> str:
        """Path of the folder of masks, whether or not it exists."""
        return self._masks

    def frame_path(self, t: int) -> str:
        """Return the path of frame t."""
        return f"{self._frames}/{self.frame_names[t]}{self._suffix}"

    def mask_path(self, t: int) -> str:
        """Return the path of the mask of frame t, whether or not it exists."""
        return f"{self._masks}/{self.frame_names[t]}{self._mask_suffix}"

    def frame(self, t: int, shrink: int = 1) -> np.ndarray:
        """Read frame t, uint8 (H, W, 3), RGB; with `shrink` 2, 4 or 8, at that fraction of its size."""
        if not self._has_frames:
            raise FileNotFoundError(f"{self.name}: has no folder of frames beside {self._masks}")
        return read_frame(self.frame_path(t), shrink)

    @cached_property
    def _has_mask(self) -> frozenset[int]:
        return frozenset(self.annotated)

    def mask(self, t: int) -> np.ndarray | None:
        """Read the index mask of frame t, uint8 or uint16 (H, W); None if the frame has no mask.

        Raises:
            ValueError: the file is not an index mask, or its size differs from its frame's.
        """
        if t not in self._has_mask:
            return None
        labels = read_mask(self.mask_path(t))
        if self._has_frames:
            check_size(self.frame_path(t), self.mask_path(t), labels.shape)
        if self._binary and self._void_is_object:
            labels = (labels == void_label(labels)).astype(np.uint8)
        if self._merge:
            labels = np.where(labels == void_label(labels), VOID, labels > 0).astype(np.uint8)
        return labels

    @cached_property
    def _void_is_object(self) -> bool:
        """Whether the first mask that is not empty holds only 0 and 255; it decides for the whole video."""
        masks = (read_mask(self.mask_path(t)) for t in self.annotated)
        first = next((mask for mask in masks if mask.any()), None)
        return first is not None and not object_ids(first)

    @cached_property
    def first_frames(self) -> Mapping[int, int]:
        """Object id -> index of the frame whose mask introduces the object."""
        first_frames: dict[int, int] = {}
        for t in self.annotated if self._late_objects else self.annotated[:1]:
            for label in object_ids(self.annotated_mask(t)):
                first_frames.setdefault(label, t)
        return first_frames


def davis(
    root: str | Path, year: int = 2017, split: str = "train", resolution: str = "480p"
) -> list[FileVideo]:
    """List the videos of a DAVIS split, in the order of its list.

    Args:
        root: the folder that holds JPEGImages, Annotations and ImageSets.
        year: 2017, or 2016 for one object per video: 255 in the masks of the 2016 archive, which hold only 0
            and 255, and all objects merged in the masks of the 2017 archive. The first mask of a video
            decides which archive it is.
        split: name of a list in ImageSets/<year>, such as `train`, `val` or `test-dev`. The 2016 archive
            keeps its lists in ImageSets/480p with two paths per line, which is supported as well.
        resolution: the folder below JPEGImages and Annotations.

    Raises:
        FileNotFoundError: the root, the list, or a listed video is missing.
        ValueError: the year is neither 2016 nor 2017, or the list is empty.
    """
    if year not in (2016, 2017):
        raise ValueError(f"year={year}: must be 2016 or 2017")
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: there is no such folder; root must be the one that holds JPEGImages"
        )
    lists = [root / "ImageSets" / folder / f"{split}.txt" for folder in (str(year), resolution)]
    path = next((candidate for candidate in lists if candidate.is_file()), None)
    if path is None:
        available = sorted(str(p.relative_to(root)) for p in root.glob("ImageSets/*/*.txt"))
        raise FileNotFoundError(
            f"{lists[0]}: there is no such list; available are {', '.join(available) or 'none'}"
        )
    return [
        FileVideo(
            name,
            root / "JPEGImages" / resolution / name,
            root / "Annotations" / resolution / name,
            merge=year == 2016,
            binary=year == 2016,
        )
        for name in video_names(path)
    ]


def youtube_vos(
    root: str | Path,
    split: str = "train",
    holdout_categories: Sequence[str] = (),
    holdout_share: float = 0.0,
) -> list[FileVideo]:
    """List the videos of a YouTube-VOS split, in the order of meta.json.

    An object enters at the first frame that meta.json lists for it. If `<split>_all_frames` exists beside a
    split other than `train`, the videos have its frames, and `output_frames` are those that meta.json lists.

    Args:
        root: the folder that holds `train`, `valid`, ...
        split: a folder of root, or `holdout` for the part of `train` that the next two arguments withhold.
            With equal arguments, `train` and `holdout` share no video, so G can be computed locally.
        holdout_categories: withhold the videos that show one of these categories ('unseen').
        holdout_share: withhold this fraction of the other videos ('seen'), chosen by a hash of their names.

    Raises:
        FileNotFoundError: meta.json or a frame that it lists is missing.
        ValueError: meta.json does not have the official form, or no video shows a given category.
    """
    root = Path(root)
    folder = root / ("train" if split == "holdout" else split)
    described = read_meta(folder / "meta.json")
    known = {o["category"] for video in described.values() for o in video["objects"].values()}
    for category in holdout_categories:
        if category not in known:
            close = difflib.get_close_matches(category, known, n=3)
            raise ValueError(
                f"holdout_categories={category}: must be categories in {folder / 'meta.json'}"
                + (f"; did you mean {', '.join(close)}?" if close else "")
            )
    frames = folder / "JPEGImages"
    all_frames = root / f"{split}_all_frames" / "JPEGImages"
    if split not in ("train", "holdout") and all_frames.is_dir():
        frames = all_frames
    videos = []
    for name, video in described.items():
        objects = {int(label): o for label, o in video["objects"].items()}
        is_unseen = any(o["category"] in holdout_categories for o in objects.values())
        is_withheld = is_unseen or is_held_out(name, holdout_share)
        if split not in ("train", "holdout") or is_withheld == (split == "holdout"):
            videos.append(
                FileVideo(
                    name,
                    frames / name,
                    folder / "Annotations" / name,
                    first_frames={label: min(o["frames"]) for label, o in objects.items()},
                    categories={label: o["category"] for label, o in objects.items()},
                    output_frames={frame for o in objects.values() for frame in o["frames"]},
                )
            )
    return videos


def is_held_out(name: str, share: float) -> bool:
    """Return whether a hash of the video's name is in the share, 0..1, that is withheld from training.

    Raises:
        ValueError: the share is not in 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"holdout_share={share}: must be in 0..1")
    return zlib.crc32(name.encode()) < share * 2**32


def folder(root: str | Path) -> list[FileVideo]:
    """List the videos of a plain folder, by name: JPEGImages/<video>/*.jpg and Annotations/<video>/*.png.

    Frames may lack masks. An object enters at the first mask that shows its id. If a video's first mask that
    is not empty holds only 0 and 255, the video has one object.

    Raises:
        FileNotFoundError: JPEGImages is missing or holds no video.
    """
    frames, masks = Path(root) / "JPEGImages", Path(root) / "Annotations"
    if not frames.is_dir():
        raise FileNotFoundError(f"{frames}: there is no such folder; must hold a folder of frames per video")
    names = [path.name for path in list_folders(frames)]
    if not names:
        raise FileNotFoundError(f"{frames}: holds no video; must hold a folder of frames per video")
    return [FileVideo(name, frames / name, masks / name, binary=True, late_objects=True) for name in names]
