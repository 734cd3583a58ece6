"""What belongs to one visitor."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from threading import RLock
from time import monotonic

import numpy as np

from stm.config.memory_policies import parse_policy
from stm.demo.segmentation_run import SegmentationRun
from stm.demo.uploads import OBJECTS, DemoVideo, Limits, procedural, uploaded, uploaded_mask
from stm.masks import object_ids, relabel, restore_ids, write_mask
from stm.network import STM
from stm.visualization import overlay, write_video

POLICIES: Mapping[str, str] = {
    "Every 5th (paper)": "every_5",
    "First frame only": "every_5,previous=false,every=null",
    "Previous frame only": "every_5,first=false,every=null",
    "First and previous": "every_5,every=null",
    "Latest six": "every_5,max_frames=6",
    "Six unlike ones": "every_5,max_frames=6,eviction=most_similar",
    "Six most used": "every_5,max_frames=6,eviction=least_used",
    "Every 5th, 20 likest cells": "every_5,top_k=20",
    "Every 5th, near places first": "every_5,motion_sigma=0.1",
}
"""What a visitor may choose from; values of their own could ask for any amount of memory."""
PAPER = next(iter(POLICIES))


class Session:
    """A visitor's video, masks and runs. Calls come from several threads, one does its work at a time.

    Args:
        network: shared by all.
        folder: its own; `close` removes it.
        limits: of what is uploaded.
    """

    def __init__(self, network: STM, folder: Path, limits: Limits) -> None:
        self.network, self.folder, self.limits = network, folder, limits
        self.lock = RLock()
        self.last_used = monotonic()
        self.runs: dict[str, SegmentationRun] = {}
        """Policy -> its run, in the order of the page."""
        self.editing = 0
        """The frame whose mask is drawn: 0, or one to correct."""
        self.ids: list[int] = []
        """Objects of the runs as files have them; here they are numbered from 1."""
        self._numbers, self._procedural, self._turn = count(), -1, 0
        self.next_procedural()

    def next_procedural(self) -> None:
        """Take the next procedural video, its first mask given."""
        self._procedural += 1
        self._take(procedural(self._procedural, self._new_folder()))

    def upload(self, files: Sequence[Path]) -> None:
        """Take a film or pictures; see `stm.demo.uploads.uploaded`."""
        folder = self._new_folder()
        try:
            footage = uploaded(files, folder, self.limits)
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)  # what was read until then
            raise
        self._take(footage)

    def upload_mask(self, file: Path) -> None:
        """Take a mask of the frame that is edited. Objects are numbered from 1 here, and as given in files.

        Raises:
            ValueError: see `stm.demo.uploads.uploaded_mask`.
        """
        mask = uploaded_mask(file, self.footage)
        with self.lock:
            if self.editing == 0:
                ids = object_ids(mask)
                self._drawn_ids = (
                    ids + [label for label in range(1, 255) if label not in ids][: OBJECTS - len(ids)]
                )
            unknown = set(object_ids(mask)) - set(self._drawn_ids)
            if unknown:
                raise ValueError(f"{file.name}: object {min(unknown)} is not in the first mask")
            self.drawn = relabel(np.where(mask == 255, 0, mask), self._drawn_ids)

    def clear(self) -> None:
        """Begin the mask of the frame that is edited anew."""
        with self.lock:
            self.drawn = np.zeros(self.footage.size, np.uint8)

    def edit(self, t: int) -> None:
        """Take a frame to draw its mask: the first, or one that the first run has done.

        Raises:
            ValueError: nothing was segmented so far.
        """
        with self.lock:
            if t == 0 and not self.runs:
                self.editing, self.drawn = 0, self.first
                return
            t, self._drawn_ids = self.place(t), self.ids
            self.editing, self.drawn = t, np.array(self.run(0).masks[t])

    def draw(self, strokes: np.ndarray) -> None:
        """Put strokes over the mask: uint8 (H, W), objects; 255 for background, 0 where none is."""
        with self.lock:
            self.drawn = np.where(strokes == 255, 0, np.where(strokes == 0, self.drawn, strokes))

    def start(self, policies: Sequence[str]) -> Iterator[None]:
        """Segment by each policy, or go on from the frame that is edited; yields after each frame.

        A later start ends an earlier one.

        Raises:
            ValueError: nothing is drawn, or a policy is unknown.
        """
        with self.lock:
            self._turn += 1
            turn = self._turn
            chosen = list(dict.fromkeys(policies))
            for name in chosen:
                if name not in POLICIES:
                    raise ValueError(f"there is no policy {name!r}")
            if self.editing and list(self.runs) == chosen:  # other policies begin at the first frame
                self._correct()
            else:
                self._begin(chosen)
        return self._advance(turn)

    def run(self, place: int) -> SegmentationRun:
        """The first run or the second.

        Raises:
            ValueError: there is none.
        """
        runs = list(self.runs.values())
        if place >= len(runs) or not runs[place].done:
            raise ValueError("nothing is segmented yet: press Run (a page left alone for long begins anew)")
        return runs[place]

    def place(self, t: int) -> int:
        """The frame, or the last one that all runs have done."""
        return max(0, min([int(t), *(run.done - 1 for run in self.runs.values())]))

    def stop(self) -> None:
        """End what runs, after its frame."""
        self._turn += 1

    def write_masks(self) -> Path:
        """A zip of the masks, a palette PNG a frame; a folder for each of two policies."""
        with self.lock:
            path = self._downloads() / "masks.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for number, (name, run) in enumerate(self.runs.items(), 1):
                    inside = f"masks_{number}" if len(self.runs) > 1 else "masks"
                    archive.writestr(f"{inside}/policy.txt", f"{name}\n--memory {POLICIES[name]}\n")
                    for t in range(run.done):
                        file = path.with_name("mask.png")
                        write_mask(file, restore_ids(run.masks[t], self.ids))
                        archive.write(file, f"{inside}/{t:05d}.png")
            return path

    def write_film(self) -> Path:
        """The frames with their masks as an mp4, two policies side by side."""
        with self.lock:
            path = self._downloads() / "overlay.mp4"
            write_video(path, self._overlaid(), self.footage.fps)
            return path

    def close(self) -> None:
        """End what runs and remove all files."""
        self.stop()
        with self.lock:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _take(self, footage: DemoVideo) -> None:
        with self.lock:
            self.stop()
            self.footage = footage
            self.runs, self.editing = {}, 0
            self.ids = self._drawn_ids = list(range(1, OBJECTS + 1))
            self.first = self.drawn = np.zeros(footage.size, np.uint8)
            if footage.truth is not None:
                self.first = self.drawn = footage.truth[0]
            home = Path(footage.frames.filename).parent  # type: ignore[attr-defined]
            for old in self.folder.iterdir():  # who still reads from them holds them open
                if old != home:
                    shutil.rmtree(old, ignore_errors=True)

    def _begin(self, chosen: Sequence[str]) -> None:
        first, ids = (self.first, self.ids) if self.editing else (self.drawn, self._drawn_ids)
        if not first.any():
            raise ValueError("no object is drawn yet: paint one, or load a mask")
        policies = [parse_policy(POLICIES[name]) for name in chosen]
        for old in self.runs.values():
            shutil.rmtree(old.folder, ignore_errors=True)
        self.first, self.drawn, self.ids, self.editing, self.runs = first, first, ids, 0, {}
        for name, policy in zip(chosen, policies, strict=True):
            folder = self._new_folder()
            self.runs[name] = SegmentationRun(self.network, policy, self.footage.frames, first, folder)

    def _correct(self) -> None:
        t, mask = self.editing, self.drawn
        found = self.run(0).masks[t]
        differing = found != mask
        labels = {int(label) for label in np.unique([found[differing], mask[differing]])} - {0}
        if not labels:
            raise ValueError(f"frame {t}: nothing is painted that differs from what was found")
        for run in self.runs.values():
            run.correct(t, mask, labels)
        self.editing, self.drawn = 0, self.first

    def _advance(self, turn: int) -> Iterator[None]:
        while True:
            with self.lock:
                left = [run for run in self.runs.values() if not run.finished]
                if self._turn != turn or not left:
                    return
                min(left, key=lambda run: run.done).advance()
            yield

    def _overlaid(self) -> Iterator[np.ndarray]:
        runs = list(self.runs.values())
        for t in range(self.place(len(self.footage.frames) - 1) + 1):
            yield np.hstack([overlay(self.footage.frames[t], run.masks[t]) for run in runs])

    def _downloads(self) -> Path:
        folder = self.folder / "downloads"
        folder.mkdir(exist_ok=True)
        return folder

    def _new_folder(self) -> Path:
        folder = self.folder / str(next(self._numbers))
        folder.mkdir(parents=True)
        return folder
