"""State of one visitor: the video, the mask that is edited, and the runs."""

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
from stm.demo.uploads import (
    MAX_OBJECTS,
    DemoVideo,
    Limits,
    example_video,
    read_upload,
    read_uploaded_mask,
)
from stm.inference.resize import resize_mask
from stm.masks import object_ids, relabel, restore_ids, write_mask
from stm.network import STM
from stm.video import VOID, void_label
from stm.visualization import overlay, write_video

POLICIES: Mapping[str, str] = {
    "Every 5th frame (paper)": "every_5",
    "First frame only": "every_5,previous=false,every=null",
    "Previous frame only": "every_5,first=false,every=null",
    "First and previous frame": "every_5,every=null",
    "6 latest frames": "every_5,max_frames=6",
    "6 frames, evict most similar": "every_5,max_frames=6,eviction=most_similar",
    "6 frames, evict least used": "every_5,max_frames=6,eviction=least_used",
    "Every 5th frame, top 20 cells": "every_5,top_k=20",
    "Every 5th frame, spatial prior": "every_5,motion_sigma=0.1",
}
"""Policies to choose from; free values could request any amount of memory."""
PAPER = next(iter(POLICIES))
NOT_STARTED = "no frame is segmented yet: press Run (an idle session may have been closed)"


class Session:
    """A visitor's video, masks and runs. Calls from several threads are serialized.

    Args:
        network: Network, shared by all sessions.
        folder: Folder of the session, removed by `close`.
        limits: Limits of uploads.

    Attributes:
        lock: Lock that serializes the calls.
        last_used: Time of the last use, monotonic, in seconds.
        video: Current video.
        runs: Policy -> its run, in the order of the page.
        first_mask: Mask of the first frame of the runs, uint8 (H, W).
        edited_frame: Frame whose mask is edited: 0, or one to correct.
        edited_mask: Mask that is edited, uint8 (H, W).
        ids: Object ids of the runs in files; in a session, objects are numbered from 1.
    """

    def __init__(self, network: STM, folder: Path, limits: Limits) -> None:
        self.network, self.folder, self.limits = network, folder, limits
        self.lock = RLock()
        self.last_used = monotonic()
        self.runs: dict[str, SegmentationRun] = {}
        self.edited_frame = 0
        self.ids: list[int] = []
        self._folder_numbers, self._example_index, self._start_number = count(), -1, 0
        self.load_next_example()

    def load_next_example(self) -> None:
        """Load the next example with its true first mask."""
        self._example_index += 1
        self._set_video(example_video(self._example_index, self._new_folder()))

    def load_upload(self, files: Sequence[Path]) -> None:
        """Load an uploaded video or images; see `stm.demo.uploads.read_upload`."""
        folder = self._new_folder()
        try:
            video = read_upload(files, folder, self.limits)
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)  # frames that were stored before the error
            raise
        self._set_video(video)

    def load_mask(self, file: Path) -> None:
        """Load a mask of the edited frame; its objects are numbered from 1, and keep their ids in files.

        Raises:
            ValueError: The mask is invalid, see `stm.demo.uploads.read_uploaded_mask`, or a correction shows
                an object that is not in the first mask.
        """
        mask = read_uploaded_mask(file, self.video)
        with self.lock:
            if self.edited_frame == 0:
                ids = object_ids(mask)
                unused = [label for label in range(1, VOID) if label not in ids]
                self._edited_ids = ids + unused[: MAX_OBJECTS - len(ids)]
            unknown = set(object_ids(mask)) - set(self._edited_ids)
            if unknown:
                raise ValueError(f"{file.name}: object {min(unknown)} is not in the first mask")
            self.edited_mask = relabel(mask * (mask != void_label(mask)), self._edited_ids)

    def clear_mask(self) -> None:
        """Clear the mask of the edited frame."""
        with self.lock:
            self.edited_mask = np.zeros(self.video.size, np.uint8)

    def edit_frame(self, t: int) -> None:
        """Start to edit the mask of the first frame, or of a frame that all runs have segmented.

        Raises:
            ValueError: No frame is segmented yet.
        """
        with self.lock:
            if t == 0 and not self.runs:
                self.edited_frame, self.edited_mask = 0, self.first_mask
                return
            t, self._edited_ids = self.last_done(t), self.ids
            self.edited_frame, self.edited_mask = t, np.array(self.get_run(0).masks[t])

    def draw(self, strokes: np.ndarray) -> None:
        """Draw strokes over the mask: uint8 (H, W), object labels; 255 is background, 0 is unchanged."""
        with self.lock:
            changed = np.where(strokes == 0, self.edited_mask, strokes)
            self.edited_mask = np.where(strokes == VOID, 0, changed)

    def start(self, policies: Sequence[str]) -> Iterator[None]:
        """Segment with each policy, or continue from the edited frame; yield after each frame.

        A later start ends an earlier one.

        Raises:
            ValueError: No object is drawn, or a policy is unknown.
        """
        with self.lock:
            self._start_number += 1
            start_number = self._start_number
            names = list(dict.fromkeys(policies))
            for name in names:
                if name not in POLICIES:
                    raise ValueError(f"policy={name}: must be one of {', '.join(POLICIES)}")
            if self.edited_frame and list(self.runs) == names:  # other policies start at the first frame
                self._apply_correction()
            else:
                self._start_runs(names)
        return self._advance(start_number)

    def get_run(self, index: int) -> SegmentationRun:
        """Return the first or the second run.

        Raises:
            ValueError: The run does not exist or has no frame yet.
        """
        runs = list(self.runs.values())
        if index >= len(runs) or not runs[index].num_done:
            raise ValueError(NOT_STARTED)
        return runs[index]

    def last_done(self, t: int) -> int:
        """Return frame t, or the last frame that all runs have segmented if that is earlier."""
        return max(0, min([int(t), *(run.num_done - 1 for run in self.runs.values())]))

    def stop(self) -> None:
        """Stop the runs after the current frame."""
        self._start_number += 1

    def write_masks(self) -> Path:
        """Write a zip file of the masks at the video's size as palette PNGs, one folder per policy."""
        with self.lock:
            path = self._downloads() / "masks.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for number, (name, run) in enumerate(self.runs.items(), 1):
                    folder = f"masks_{number}" if len(self.runs) > 1 else "masks"
                    archive.writestr(f"{folder}/policy.txt", f"{name}\n--memory {POLICIES[name]}\n")
                    for t in range(run.num_done):
                        file = path.with_name("mask.png")
                        mask = resize_mask(run.masks[t], self.video.original_size)
                        write_mask(file, restore_ids(mask, self.ids))
                        archive.write(file, f"{folder}/{t:05d}.png")
            return path

    def write_overlay(self) -> Path:
        """Write the frames with their masks as an mp4 file, two policies side by side."""
        with self.lock:
            path = self._downloads() / "overlay.mp4"
            write_video(path, self._overlays(), self.video.fps)
            return path

    def close(self) -> None:
        """Stop the runs and remove all files."""
        self.stop()
        with self.lock:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _set_video(self, video: DemoVideo) -> None:
        with self.lock:
            self.stop()
            self.video = video
            self.runs, self.edited_frame = {}, 0
            self.ids = self._edited_ids = list(range(1, MAX_OBJECTS + 1))
            self.first_mask = self.edited_mask = np.zeros(video.size, np.uint8)
            if video.true_masks is not None:
                self.first_mask = self.edited_mask = video.true_masks[0]
            current = Path(video.frames.filename).parent  # type: ignore[attr-defined]
            for folder in self.folder.iterdir():  # files that are still mapped stay readable until closed
                if folder != current:
                    shutil.rmtree(folder, ignore_errors=True)

    def _start_runs(self, names: Sequence[str]) -> None:
        is_correction = self.edited_frame > 0  # of other policies: it is dropped
        mask, ids = (self.first_mask, self.ids) if is_correction else (self.edited_mask, self._edited_ids)
        if not mask.any():
            raise ValueError("no object is drawn yet: paint one, or load a mask")
        policies = [parse_policy(POLICIES[name]) for name in names]
        for run in self.runs.values():
            shutil.rmtree(run.folder, ignore_errors=True)
        self.first_mask, self.edited_mask, self.ids, self.edited_frame, self.runs = mask, mask, ids, 0, {}
        self.runs = {
            name: SegmentationRun(self.network, policy, self.video.frames, mask, self._new_folder())
            for name, policy in zip(names, policies, strict=True)
        }

    def _apply_correction(self) -> None:
        t, mask = self.edited_frame, self.edited_mask
        predicted = self.get_run(0).masks[t]
        differs = predicted != mask
        labels = {int(label) for label in np.unique([predicted[differs], mask[differs]])} - {0}
        if not labels:
            raise ValueError(f"frame {t}: the painted mask must differ from the prediction")
        for run in self.runs.values():
            run.correct(t, mask, labels)
        self.edited_frame, self.edited_mask = 0, self.first_mask

    def _advance(self, start_number: int) -> Iterator[None]:
        while True:
            with self.lock:
                unfinished = [run for run in self.runs.values() if not run.is_finished]
                if self._start_number != start_number or not unfinished:
                    return
                min(unfinished, key=lambda run: run.num_done).advance()
            yield

    def _overlays(self) -> Iterator[np.ndarray]:
        frames, runs = self.video.frames, list(self.runs.values())
        for t in range(self.last_done(len(frames) - 1) + 1):
            yield np.hstack([overlay(frames[t], run.masks[t]) for run in runs])

    def _downloads(self) -> Path:
        folder = self.folder / "downloads"
        folder.mkdir(exist_ok=True)
        return folder

    def _new_folder(self) -> Path:
        folder = self.folder / str(next(self._folder_numbers))
        folder.mkdir(parents=True)
        return folder
