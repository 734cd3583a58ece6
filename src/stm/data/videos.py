"""Videos on disk as `Video`s: DAVIS 2016 and 2017, YouTube-VOS, plain folders.

Building a set lists folders and decodes nothing. `data/README.md` shows each layout.
"""

from __future__ import annotations

import difflib
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from stm.data.image_io import check_size, list_images, read_frame
from stm.masks import object_ids, read_mask
from stm.video import VOID, Video


class FileVideo(Video):
    """A folder of frames and a folder of masks that share their names.

    Args:
        name: see `Video.name`.
        frames: the folder of frames.
        masks: the folder of masks, `<frame name>.png`; a video without the folder has no mask.
        merge: all objects are one, with id 1 (DAVIS 2016).
        binary: where the first mask that is not empty holds nothing but 0 and 255, 255 is the object and gets
            the id 1; otherwise 255 is void. For trees of 0/255 masks.
        late_objects: objects enter where their id first shows (reads every mask, once, when asked); otherwise
            the objects are those of the first mask.
        entries, categories, written: see `Video`; `written` by name. Given where the data set tells.

    Raises:
        FileNotFoundError: the folder of frames is missing or empty, or a mask has no frame.
    """

    def __init__(
        self,
        name: str,
        frames: str | Path,
        masks: str | Path,
        *,
        merge: bool = False,
        binary: bool = False,
        late_objects: bool = False,
        entries: Mapping[int, str] | None = None,
        categories: Mapping[int, str] | None = None,
        written: Collection[str] | None = None,
    ) -> None:
        self.name = name
        self.frame_names, self._suffix = list_images(frames)
        self._frames, self._masks = str(frames), str(masks)
        self._merge, self._binary, self._late_objects = merge, binary, late_objects
        place = {frame: t for t, frame in enumerate(self.frame_names)}
        self.annotated = self._places(place, list_images(masks, (".png",))[0] if Path(masks).is_dir() else [])
        if entries is not None:
            self.first_frames = dict(
                zip(entries, self._places(place, entries.values(), order=False), strict=True)
            )
        if categories is not None:
            self.categories = dict(categories)
        if written is not None:
            self.output_frames = self._places(place, written)

    def _places(self, place: Mapping[str, int], names: Collection[str], order: bool = True) -> Sequence[int]:
        missing = [name for name in names if name not in place]
        if missing:
            raise FileNotFoundError(
                f"{Path(self._frames) / (missing[0] + self._suffix)}: there is no such frame, "
                f"but {self._masks} or the data set's list names it"
            )
        places = [place[name] for name in names]
        return sorted(places) if order else places

    def frame_path(self, t: int) -> str:
        """Where frame t is."""
        return f"{self._frames}/{self.frame_names[t]}{self._suffix}"

    def mask_path(self, t: int) -> str:
        """Where the mask of frame t is, if it has one."""
        return f"{self._masks}/{self.frame_names[t]}.png"

    def frame(self, t: int, shrink: int = 1) -> np.ndarray:
        """Frame t, uint8 (H, W, 3) in RGB; with shrink 2, 4 or 8 it is decoded at that part of its size."""
        return read_frame(self.frame_path(t), shrink)

    @cached_property
    def _has_mask(self) -> frozenset[int]:
        return frozenset(self.annotated)

    def mask(self, t: int) -> np.ndarray | None:
        """Index mask of frame t, uint8 (H, W); None where there is none.

        Raises:
            ValueError: the mask is no index mask, or not of its frame's size.
        """
        if t not in self._has_mask:
            return None
        labels = read_mask(self.mask_path(t))
        check_size(self.frame_path(t), self.mask_path(t), labels.shape)
        if self._binary and self._void_is_object:
            labels = (labels == VOID).astype(np.uint8)
        if self._merge:
            labels = np.where(labels == VOID, VOID, labels > 0).astype(np.uint8)
        return labels

    @cached_property
    def _void_is_object(self) -> bool:
        """Is this a tree of 0/255 masks? The first mask that is not empty decides for the whole video."""
        masks = (read_mask(self.mask_path(t)) for t in self.annotated)
        first = next((mask for mask in masks if mask.any()), None)
        return first is not None and not object_ids(first)

    @cached_property
    def first_frames(self) -> Mapping[int, int]:
        """Object id -> the frame whose mask introduces it."""
        found: dict[int, int] = {}
        for t in self.annotated if self._late_objects else self.annotated[:1]:
            mask = self.mask(t)
            assert mask is not None
            for label in object_ids(mask):
                found.setdefault(label, t)
        return found


def davis(
    root: str | Path, year: int = 2017, split: str = "train", resolution: str = "480p"
) -> list[FileVideo]:
    """The videos of a DAVIS split, in its order.

    Args:
        root: the folder that holds JPEGImages, Annotations and ImageSets.
        year: 2017, or 2016: one object a video. From 2017's masks, all objects are merged (mask > 0 and not
            255); from 2016's own tree of 0/255 masks, 255 is the object. A video's first mask tells which.
        split: the name of a list in ImageSets/<year>, such as `train`, `val` or `test-dev` (2016's original
            release keeps its lists in ImageSets/480p, with two paths a line: both are understood).
        resolution: the folder below JPEGImages and Annotations.

    Raises:
        FileNotFoundError: the list, or a video that it names, is missing.
        ValueError: the year is neither 2016 nor 2017.
    """
    if year not in (2016, 2017):
        raise ValueError(f"year={year}: DAVIS is of 2016 or 2017")
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder; root is the one that holds JPEGImages")
    lists = [root / "ImageSets" / folder / f"{split}.txt" for folder in (str(year), resolution)]
    path = next((candidate for candidate in lists if candidate.is_file()), None)
    if path is None:
        there = sorted(str(p.relative_to(root)) for p in root.glob("ImageSets/*/*.txt"))
        raise FileNotFoundError(f"{lists[0]}: there is no such list; there are {', '.join(there) or 'none'}")
    one_object = year == 2016
    return [
        FileVideo(
            name,
            root / "JPEGImages" / resolution / name,
            root / "Annotations" / resolution / name,
            merge=one_object,
            binary=one_object,
        )
        for name in video_names(path)
    ]


def video_names(path: Path) -> list[str]:
    """The video names in a list: one a line, or (DAVIS 2016) `/JPEGImages/480p/bear/00000.jpg ...` a line.

    Raises:
        ValueError: the list is empty.
    """
    names = []
    for line in path.read_text().split("\n"):
        if line.strip():
            first = Path(line.split()[0])
            names.append(first.parent.name if first.suffix in (".jpg", ".png") else line.strip())
    if not names:
        raise ValueError(f"{path}: the list is empty")
    return list(dict.fromkeys(names))


def youtube_vos(
    root: str | Path,
    split: str = "train",
    holdout_categories: Sequence[str] = (),
    holdout_share: float = 0.0,
) -> list[FileVideo]:
    """The videos of a YouTube-VOS split, by meta.json.

    Objects enter in the first frame that meta.json lists for them. Where `<split>_all_frames` lies beside a
    split other than `train`, its frames are the video's; `written` are those that meta.json lists.

    Args:
        root: the folder that holds `train`, `valid`, ...
        split: a folder of root, or `holdout`: the part of `train` that the two switches below withhold. With
            the same switches `train` and `holdout` share no video, so a local G can be had from them.
        holdout_categories: videos that show one of these categories are withheld ('unseen').
        holdout_share: this share of the others is withheld, too ('seen'), chosen by their names.

    Raises:
        FileNotFoundError: meta.json or a frame it lists is missing.
        ValueError: meta.json is not of the official form, or no video has such a category.
    """
    root = Path(root)
    folder = root / ("train" if split == "holdout" else split)
    described = read_meta(folder / "meta.json")
    known = {o["category"] for video in described.values() for o in video["objects"].values()}
    for category in holdout_categories:
        if category not in known:
            close = difflib.get_close_matches(category, known, n=3)
            raise ValueError(
                f"holdout_categories: {folder / 'meta.json'} has no category '{category}'"
                + (f"; did you mean {', '.join(close)}?" if close else "")
            )
    frames = folder / "JPEGImages"
    every_frame = root / f"{split}_all_frames" / "JPEGImages"
    if split not in ("train", "holdout") and every_frame.is_dir():
        frames = every_frame
    videos = []
    for name, video in described.items():
        objects = {int(label): o for label, o in video["objects"].items()}
        unseen = any(o["category"] in holdout_categories for o in objects.values())
        withheld = unseen or zlib.crc32(name.encode()) < holdout_share * 2**32
        if split not in ("train", "holdout") or withheld == (split == "holdout"):
            videos.append(
                FileVideo(
                    name,
                    frames / name,
                    folder / "Annotations" / name,
                    entries={label: min(o["frames"]) for label, o in objects.items()},
                    categories={label: o["category"] for label, o in objects.items()},
                    written={frame for o in objects.values() for frame in o["frames"]},
                )
            )
    return videos


def read_meta(path: Path) -> dict:
    """The videos of a meta.json: name -> `objects` -> id -> `category` and `frames`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of the official form.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; YouTube-VOS keeps one beside JPEGImages")
    try:
        videos = json.loads(path.read_text())["videos"]
        for name, video in videos.items():
            for label, o in video["objects"].items():
                named = o["frames"] and all(isinstance(frame, str) for frame in o["frames"])
                if not 1 <= int(label) <= 254 or not named:
                    raise ValueError(f"object {label} of {name}")
                o.setdefault("category", "")  # the test sets hide it
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        form = "videos.<video>.objects.<id 1..254>.{category,frames}"
        raise ValueError(f"{path}: must have {form} ({error!r})") from error
    return videos


def folder(root: str | Path) -> list[FileVideo]:
    """The videos of a plain folder, by name: JPEGImages/<video>/*.jpg and Annotations/<video>/*.png.

    Masks may be sparse; an object enters in the first mask that shows its id. 0/255 masks hold one object.

    Raises:
        FileNotFoundError: there is no JPEGImages, or no video in it.
    """
    frames, masks = Path(root) / "JPEGImages", Path(root) / "Annotations"
    if not frames.is_dir():
        raise FileNotFoundError(f"{frames}: there is no such folder; videos lie in JPEGImages/<video>/*.jpg")
    names = sorted(path.name for path in frames.iterdir() if path.is_dir())
    if not names:
        raise FileNotFoundError(f"{frames}: holds no video; a video is a folder of frames")
    return [FileVideo(name, frames / name, masks / name, binary=True, late_objects=True) for name in names]
