"""Overlay images and videos of an evaluation, from its written masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event

import numpy as np

from stm.evaluation.scores import SequenceScores
from stm.evaluation.tally import read_masks
from stm.masks import read_labels
from stm.video import Video
from stm.visualization import contact_sheet, overlay, write_image, write_video

MIN_SHORT_SIDE = 192
"""Short side in pixels from which lines and labels are legible."""
LEGEND = "prediction tinted, ground truth in white dashes"


def write_overlays(
    video: Video,
    output: Path,
    sequence: SequenceScores,
    sheet: bool,
    clip: bool,
    overwrite: bool,
    cancelled: Event | None = None,
) -> None:
    """Write `overlays/<video>.jpg`, `overlays/<video>.mp4` or both.

    Args:
        video: the segmented video.
        output: the evaluation's folder, with the video's masks.
        sequence: its scores, shown with the frames.
        sheet: write a sheet of five frames, the prediction tinted and the ground truth outlined in white.
        clip: write a video of all frames with a written mask.
        overwrite: replace existing files, because the masks are new.
        cancelled: cancels the writing of a video once it is set, since a long one takes minutes.

    Raises:
        CancelledError: the writing of a video was cancelled.
    """
    masks = output / "masks" / video.name
    path = output / "overlays" / f"{video.name}.jpg"
    if sheet and (overwrite or not path.exists()) and len(video.output_frames):
        write_image(
            path, contact_sheet(*_sheet_frames(video, masks, sequence), title=f"{video.name}: {LEGEND}")
        )
    path = path.with_suffix(".mp4")
    if clip and (overwrite or not path.exists()) and len(video.output_frames):
        write_video(path, _overlays(video, masks, cancelled))


def _overlays(video: Video, masks: Path, cancelled: Event | None) -> Iterator[np.ndarray]:
    annotated = set(video.annotated)
    for t, labels in read_masks(masks, video):
        if cancelled is not None and cancelled.is_set():
            raise CancelledError(f"{video.name}: the overlay video was cancelled at {video.frame_names[t]}")
        yield overlay_sheet(video.frame(t), labels, video.mask(t) if t in annotated else None)


def overlay_sheet(frame: np.ndarray, labels: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """Return an overlay; pixels of a small frame are repeated until lines and labels are legible."""
    times = -(-MIN_SHORT_SIDE // min(labels.shape))
    frame, labels = (array.repeat(times, 0).repeat(times, 1) for array in (frame, labels))
    return overlay(frame, labels, truth=None if truth is None else truth.repeat(times, 0).repeat(times, 1))


def _sheet_frames(
    video: Video, masks: Path, sequence: SequenceScores, count: int = 5
) -> tuple[list[np.ndarray], list[str]]:
    """Return overlays and captions of evenly spaced frames from the first given mask to the last frame."""
    first = min(video.first_frames.values(), default=0)
    written = [t for t in video.output_frames if t >= first] or list(video.output_frames)
    indices = np.unique(np.linspace(0, len(written) - 1, count).round().astype(int))
    annotated, j = set(video.annotated), _mean_j(sequence)
    overlays, captions = [], []
    for t in (written[i] for i in indices):
        name = video.frame_names[t]
        truth = video.mask(t) if t in annotated and t > first else None
        overlays.append(overlay_sheet(video.frame(t), read_labels(masks, video, t), truth))
        captions.append(f"{name}  J {j[t]:.2f}" if t in j else f"{name}  given" if t == first else name)
    return overlays, captions


def _mean_j(sequence: SequenceScores) -> Mapping[int, float]:
    """Return frame -> mean J of the objects that are scored on it."""
    values: dict[int, list[float]] = {}
    for row in sequence.objects:
        for t, j in zip(row.frames, row.j, strict=True):
            values.setdefault(t, []).append(j)
    return {t: float(np.mean(frame_values)) for t, frame_values in values.items()}
