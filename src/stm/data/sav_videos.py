"""Videos of SA-V val and test, whose objects overlap: each has a folder of masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from stm.data.dataset_lists import video_names
from stm.data.image_io import MASK_SUFFIXES, check_size, list_folders, list_images, read_frame, sample_bytes
from stm.masks import object_ids, read_mask, stack_to_labels
from stm.video import Video


class ObjectFoldersVideo(Video):
    """A folder of frames, and a folder of masks for each object, `<three digits>/<frame name>.png`.

    The object of folder `000` has id 1. As index masks, which the network gets, the smallest of overlapping
    objects is on top. Masks are written for annotated frames.

    Args:
        name: see `Video.name`.
        frames: the folder of frames; None if only masks are known, which suffices to score.
        masks: the folder of the objects' folders.

    Raises:
        FileNotFoundError: a folder is missing or empty, or a mask has no frame.
        ValueError: an object's folder is not named by a number.
    """

    def __init__(self, name: str, frames: str | Path | None, masks: str | Path) -> None:
        self.name, self._masks, self._frames = name, Path(masks), frames
        if not self._masks.is_dir():
            raise FileNotFoundError(f"{masks}: there is no such folder of masks")
        folders = [path.name for path in list_folders(self._masks)]
        if not folders or not all(folder.isdecimal() for folder in folders):
            raise ValueError(f"{masks}: must hold folders of objects, 000, 001, ...; got {folders}")
        self.object_folders: Mapping[int, str] = {int(folder) + 1: folder for folder in folders}
        files = {
            label: list_images(self._masks / folder, MASK_SUFFIXES)[0]
            for label, folder in self.object_folders.items()
        }
        if frames is None:
            self.frame_names = sorted(set().union(*files.values()))
        else:
            self.frame_names, self._suffix = list_images(frames)
        index = {frame: t for t, frame in enumerate(self.frame_names)}
        for label, names in files.items():
            if missing := [frame for frame in names if frame not in index]:
                raise FileNotFoundError(
                    f"{frames}: has no frame {missing[0]}, but {self._masks / self.object_folders[label]} "
                    "has its mask"
                )
        self.object_frames = {label: [index[frame] for frame in names] for label, names in files.items()}
        """Object id -> frames that have a mask of it."""
        self.annotated = sorted(set().union(*self.object_frames.values()))
        self.output_frames = self.annotated
        self.scored_objects = list(files)

    @cached_property
    def first_frames(self) -> Mapping[int, int]:
        """Object id -> index of the first frame whose index mask shows it.

        In SA-V this is the first frame. An object whose first file is missing or empty, or that others cover
        there, enters later. An object that no index mask shows has no entry.
        """
        first_frames: dict[int, int] = {}
        for t in self.annotated:
            for label in object_ids(self.annotated_mask(t)):
                first_frames.setdefault(label, t)
            if len(first_frames) == len(self.object_folders):
                break  # after one frame in SA-V, so that listing a benchmark reads few masks
        return first_frames

    @cached_property
    def _frames_of(self) -> dict[int, frozenset[int]]:
        return {label: frozenset(frames) for label, frames in self.object_frames.items()}

    def fingerprint(self) -> str:
        """Return a short hash of the video's files: their names, sizes, and samples of their bytes."""
        digest = hashlib.sha256(self.name.encode())
        for t in range(len(self)):
            digest.update(f"{self.frame_names[t]} ".encode() + sample_bytes(self._frame_path(t)))
        for label, frames in self.object_frames.items():
            for t in frames:
                digest.update(f"{label} {t} ".encode() + self._object_path(label, t).read_bytes())
        return digest.hexdigest()[:16]

    def mask_path(self, t: int) -> str:
        """Return the pattern of the paths of a frame's masks."""
        return f"{self._masks}/*/{self.frame_names[t]}.png"

    @property
    def masks_folder(self) -> str:
        """Path of the folder of the objects' folders."""
        return str(self._masks)

    def frame(self, t: int) -> np.ndarray:
        """Read frame t, uint8 (H, W, 3), RGB."""
        return read_frame(self._frame_path(t))

    def mask(self, t: int) -> np.ndarray | None:
        """Read the labels of frame t, uint8 (H, W); None if no object has a mask there."""
        masks = {label: self._read(label, t) for label in self.object_frames if t in self._frames_of[label]}
        return stack_to_labels(masks) if masks else None

    def truth(self, t: int) -> np.ndarray:
        """Read the masks of all objects, bool (O, H, W), empty where an object has no file."""
        masks = {label: self._read(label, t) for label in self.object_frames if t in self._frames_of[label]}
        empty = np.zeros_like(next(iter(masks.values())))
        return np.stack([masks.get(label, empty) for label in self.scored_objects])

    def _frame_path(self, t: int) -> Path:
        if self._frames is None:
            raise FileNotFoundError(f"{self.name}: has no folder of frames beside {self._masks}")
        return Path(self._frames) / f"{self.frame_names[t]}{self._suffix}"

    def _object_path(self, label: int, t: int) -> Path:
        return self._masks / self.object_folders[label] / f"{self.frame_names[t]}.png"

    def _read(self, label: int, t: int) -> np.ndarray:
        path = self._object_path(label, t)
        mask = read_mask(path) > 0
        if self._frames is not None:
            check_size(self._frame_path(t), path, mask.shape)
        return mask


def sav(root: str | Path, split: str = "val") -> Sequence[ObjectFoldersVideo]:
    """List the videos of SA-V val or test, in the order of its list, else by name.

    Args:
        root: `sav_val` or `sav_test`, which holds JPEGImages_24fps and Annotations_6fps; or its parent.
        split: `val` or `test`.

    Raises:
        FileNotFoundError: a folder or file is missing.
    """
    root = Path(root)
    root = root / f"sav_{split}" if (root / f"sav_{split}").is_dir() else root
    frames, masks, listed = root / "JPEGImages_24fps", root / "Annotations_6fps", root / f"sav_{split}.txt"
    if not masks.is_dir():
        raise FileNotFoundError(f"{masks}: there is no such folder; root must be the one that holds it")
    names = video_names(listed) if listed.is_file() else [path.name for path in list_folders(masks)]
    return [
        ObjectFoldersVideo(name, frames / name if frames.is_dir() else None, masks / name) for name in names
    ]
