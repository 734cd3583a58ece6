"""Listing of a data set's videos, stills and list files, including everything that is wrong with them.

The layouts are those that `stm.data.videos` and `stm.data.stills` load. No file is decoded here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stm.data.image_io import FRAME_SUFFIXES, MASK_SUFFIXES, images_by_suffix, list_folders
from stm.dataset_check.issues import Issue


@dataclass
class VideoFiles:
    """The files of a video and the requirements of its layout.

    Attributes:
        name: Name of the video.
        frames: Frame name without suffix -> file, in order.
        masks: Mask name without suffix -> file, in order.
        frames_folder: Folder of the frames, which may be missing.
        masks_folder: Folder of the masks, which may be missing.
        required_masks: Names of the frames that need a mask; None if the masks may be sparse.
        meta_objects: Object id -> names of the frames that meta.json lists; None without a meta.json.
        binary_masks: How the loader treats masks of 0 and 255 alone: `invalid`; `allowed`, read as one
            object; or `expected`.
        allows_late_objects: Whether objects are tracked that the first mask does not show.
        for_training: Whether the video must be long enough for a training clip.
        for_davis_scores: Whether the video must be long enough for DAVIS's scores.
    """

    name: str
    frames: dict[str, Path]
    masks: dict[str, Path]
    frames_folder: Path
    masks_folder: Path
    required_masks: Collection[str] | None = None
    meta_objects: Mapping[int, list[str]] | None = None
    binary_masks: Literal["invalid", "allowed", "expected"] = "invalid"
    allows_late_objects: bool = False
    for_training: bool = True
    for_davis_scores: bool = False


@dataclass
class StillFiles:
    """A still and its mask."""

    frame: Path
    mask: Path


Unit = VideoFiles | StillFiles
"""A video or a still: the files that are checked together."""


@dataclass
class DatasetFiles:
    """A data set on disk.

    Attributes:
        root: Root folder.
        layout: Name of the layout.
        videos: Videos of the data set.
        stills: Stills of the data set.
        list_files: Other files that belong to it: lists of videos, meta.json.
        issues: Issues found while listing.
    """

    root: Path
    layout: str
    videos: list[VideoFiles] = field(default_factory=list)
    stills: list[StillFiles] = field(default_factory=list)
    list_files: list[Path] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)

    @property
    def units(self) -> list[Unit]:
        """The videos and stills."""
        return [*self.videos, *self.stills]

    def add_issue(self, code: str, path: Path, detail: str, severity: str = "") -> None:
        """Record an issue."""
        self.issues.append(Issue(code, self.relative(path), detail, severity))

    def relative(self, path: Path) -> str:
        """Return a path relative to the root, as issues show it."""
        return path.relative_to(self.root).as_posix()

    def list_video(self, frames: Path, masks: Path) -> VideoFiles | None:
        """List the two folders of a video; return None and record an issue if it has no frame."""
        frame_files = self.files_by_name(frames, FRAME_SUFFIXES)
        if not frame_files:
            suffixes = sorted({path.suffix for path in _entries(frames) if path.suffix})[:5]
            only = f", only {', '.join(suffixes)}" if suffixes else ""
            self.add_issue("no-frames", frames, f"the folder holds no frame{only}")
            return None
        return VideoFiles(frames.name, frame_files, self.files_by_name(masks, MASK_SUFFIXES), frames, masks)

    def files_by_name(self, folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
        """Map names without suffix to files, in natural order; the most frequent suffix counts."""
        try:
            by_suffix = images_by_suffix(folder, suffixes)
        except OSError:
            return {}
        if len(by_suffix) > 1:
            counts = ", ".join(f"{len(names)} {suffix}" for suffix, names in sorted(by_suffix.items()))
            self.add_issue("mixed-suffixes", folder, f"the folder holds {counts}")
        suffix, names = max(by_suffix.items(), key=lambda item: len(item[1]), default=("", []))
        return {name: folder / f"{name}{suffix}" for name in names}

    def add_orphan_mask_folders(self, masks: Path, names: Collection[str]) -> None:
        """Record folders of masks that belong to no video."""
        for path in folders(masks):
            if path.name not in names:
                detail = "a folder of masks without a folder of frames"
                self.add_issue("mask-without-frame", path, detail, "warning")


def error_reason(error: Exception, path: Path) -> str:
    """Return an error's reason without the path, which the issue already has."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).removeprefix(f"{path}: ")


def folders(path: Path) -> list[Path]:
    """Return the subfolders of a folder by name, without hidden ones; none if it cannot be read."""
    try:
        return list_folders(path)
    except OSError:
        return []


def _entries(path: Path) -> Iterator[Path]:
    try:
        yield from path.iterdir()
    except OSError:
        return
