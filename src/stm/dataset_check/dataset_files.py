"""What belongs together on disk: the videos and stills of a data set, listed with all their faults.

The layouts are those that `stm.data.videos` and `stm.data.stills` load. Nothing is decoded here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stm.data.image_io import FRAME_SUFFIXES, list_images
from stm.dataset_check.issues import Issue

MASK_SUFFIXES = (".png",)


@dataclass
class VideoFiles:
    """The files of a video, and what its layout asks of them.

    Attributes:
        name: of the video.
        frames, masks: name without suffix -> file, in order.
        frames_folder, masks_folder: where they lie, whether or not they are there.
        wanted: names of the frames that need a mask; None where any will do.
        objects: id -> names of the frames that a meta.json lists for it; None without a meta.json.
        one_object: masks of 0 and 255 are one object: `never`, `may` (so they are read), or `as meant`.
        late: are objects followed that the first mask does not show?
        clips: should it give training clips?
    """

    name: str
    frames: dict[str, Path]
    masks: dict[str, Path]
    frames_folder: Path
    masks_folder: Path
    wanted: Collection[str] | None = None
    objects: Mapping[int, list[str]] | None = None
    one_object: str = "never"
    late: bool = False
    clips: bool = True


@dataclass
class StillFiles:
    """A still and its mask."""

    frame: Path
    mask: Path


Unit = VideoFiles | StillFiles
"""What is judged as a whole."""


@dataclass
class DatasetFiles:
    """A data set on disk.

    Attributes:
        root, layout: where it is, and how it lies there.
        videos, stills: what it holds.
        lists: its other files: lists of videos, meta.json.
        findings: what listing alone has found.
    """

    root: Path
    layout: str
    videos: list[VideoFiles] = field(default_factory=list)
    stills: list[StillFiles] = field(default_factory=list)
    lists: list[Path] = field(default_factory=list)
    findings: list[Issue] = field(default_factory=list)

    @property
    def units(self) -> list[Unit]:
        """The videos and stills."""
        return [*self.videos, *self.stills]

    def find(self, code: str, path: Path, detail: str, severity: str = "") -> None:
        """Keep a finding."""
        self.findings.append(Issue(code, self.relative(path), detail, severity))

    def relative(self, path: Path) -> str:
        """A path as findings tell it."""
        return path.relative_to(self.root).as_posix()

    def video(self, frames: Path, masks: Path) -> VideoFiles | None:
        """List a video's two folders; None where there is no frame."""
        listed = self.pictures(frames, FRAME_SUFFIXES)
        if not listed:
            held = sorted({path.suffix for path in _entries(frames) if path.suffix})[:5]
            self.find(
                "no-frames",
                frames,
                f"it holds no frame, only {', '.join(held)}" if held else "it holds no frame",
            )
            return None
        return VideoFiles(frames.name, listed, self.pictures(masks, MASK_SUFFIXES), frames, masks)

    def pictures(self, folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
        """Name without suffix -> file, in natural order; of several suffixes the most frequent counts."""
        try:
            names, suffix = list_images(folder, suffixes)
        except OSError:
            return {}
        except ValueError:
            each = {suffix: self.pictures(folder, (suffix,)) for suffix in suffixes}
            told = ", ".join(f"{len(listed)} {suffix}" for suffix, listed in each.items() if listed)
            self.find("mixed-suffixes", folder, f"there are {told}")
            return max(each.values(), key=len)
        return {name: folder / f"{name}{suffix}" for name in names}

    def masks_without_frames(self, masks: Path, names: Collection[str]) -> None:
        """Tell of folders of masks that no video uses."""
        for path in folders(masks):
            if path.name not in names:
                self.find("mask-alone", path, "a folder of masks without a folder of frames", "warning")


def folders(path: Path) -> list[Path]:
    """The folders in a folder, by name, without hidden ones."""
    return sorted(entry for entry in _entries(path) if entry.name[0] != "." and entry.is_dir())


def _entries(path: Path) -> Iterator[Path]:
    try:
        yield from path.iterdir()
    except OSError:
        return
