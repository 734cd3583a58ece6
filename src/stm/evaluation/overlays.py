"""Pictures of what a network did with a sequence, from the masks it wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event

import numpy as np

from stm.evaluation.scores import SequenceScores, written_masks
from stm.masks import read_mask
from stm.video import Video
from stm.visualization import contact_sheet, overlay, write_image, write_video

LEGIBLE = 192
"""Pixels of a picture's short side that show lines and labels well."""
LEGEND = "tinted as predicted, white dashes the truth"


def write_overlays(
    video: Video,
    output: Path,
    sequence: SequenceScores,
    sheet: bool,
    film: bool,
    again: bool,
    leave_off: Event | None = None,
) -> None:
    """Write `overlays/<video>.jpg`, `overlays/<video>.mp4` or both.

    Args:
        video: what was segmented.
        output: an evaluation's folder, with the video's masks in it.
        sequence: its scores, which stand beside the frames.
        sheet: five frames, the prediction tinted and the truth outlined in white.
        film: every frame with a written mask, in the same way.
        again: the masks are new, so that pictures which are there already are replaced.
        leave_off: once it is set, a film is given up: a long one takes minutes.

    Raises:
        CancelledError: a film was given up.
    """
    masks = output / "masks" / video.name
    path = output / "overlays" / f"{video.name}.jpg"
    if sheet and (again or not path.exists()) and len(video.output_frames):
        write_image(path, contact_sheet(*_chosen(video, masks, sequence), title=f"{video.name}: {LEGEND}"))
    path = path.with_suffix(".mp4")
    if film and (again or not path.exists()) and len(video.output_frames):
        write_video(path, _all(video, masks, leave_off))


def _all(video: Video, masks: Path, leave_off: Event | None) -> Iterator[np.ndarray]:
    truthful = set(video.annotated)
    for t, labels in written_masks(masks, video):
        if leave_off is not None and leave_off.is_set():
            raise CancelledError(f"{video.name}: the film was given up at frame {video.frame_names[t]}")
        yield overlay_sheet(video.frame(t), labels, video.mask(t) if t in truthful else None)


def overlay_sheet(frame: np.ndarray, labels: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """An overlay, in which a small picture's pixels are repeated until lines and labels are legible."""
    times = -(-LEGIBLE // min(labels.shape))
    frame, labels = (array.repeat(times, 0).repeat(times, 1) for array in (frame, labels))
    return overlay(frame, labels, truth=None if truth is None else truth.repeat(times, 0).repeat(times, 1))


def _chosen(
    video: Video, masks: Path, sequence: SequenceScores, count: int = 5
) -> tuple[list[np.ndarray], list[str]]:
    """Evenly spaced written frames, from the first given mask to the last frame, with their labels."""
    first = min(video.first_frames.values(), default=0)
    written = [t for t in video.output_frames if t >= first] or list(video.output_frames)
    places = np.unique(np.linspace(0, len(written) - 1, count).round().astype(int))
    truthful, j = set(video.annotated), _mean_j(sequence)
    pictures, labels = [], []
    for t in (written[place] for place in places):
        name = video.frame_names[t]
        truth = video.mask(t) if t in truthful and t > first else None
        pictures.append(overlay_sheet(video.frame(t), read_mask(masks / f"{name}.png"), truth))
        labels.append(f"{name}  J {j[t]:.2f}" if t in j else f"{name}  given" if t == first else name)
    return pictures, labels


def _mean_j(sequence: SequenceScores) -> Mapping[int, float]:
    """Frame -> J averaged over the objects that are scored on it."""
    values: dict[int, list[float]] = {}
    for row in sequence.objects:
        for t, j in zip(row.frames, row.j, strict=True):
            values.setdefault(t, []).append(j)
    return {t: float(np.mean(of_frame)) for t, of_frame in values.items()}
