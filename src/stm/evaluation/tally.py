"""Scored frames and objects of a video, and its scorer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from stm.evaluation.protocols import VideoScorer, disappearance_measures
from stm.evaluation.protocols.lvos import counted_files
from stm.evaluation.protocols.protocol import ObjectMeasures, VideoMeasures
from stm.evaluation.protocols.vost import first_mask_objects
from stm.evaluation.scores import DAVIS_LIKE, ObjectScores
from stm.masks import object_ids, read_labels
from stm.video import Video

PROTOCOLS = (*DAVIS_LIKE, "mose", "mosev2", "lvos", "vost", "sav")
FrameLabels = tuple[int, np.ndarray]
"""Frame number and labels, (H, W) with object ids, or (O, H, W) with one mask an object."""


def scored_frames(video: Video, protocol: str) -> dict[int, list[int]]:
    """Return the frames on which each object is scored.

    `davis`: the objects of the first annotated frame, on all later annotated frames except the video's last.
    `youtube` and `all`: every object, on the annotated frames after the one in which it enters.
    The other protocols: see `docs/benchmarks.md`.
    Nothing is scored if each annotated frame only introduces objects, as in test sets.

    Args:
        video: with its annotated frames and the first frame of each object.
        protocol: one of `PROTOCOLS`.

    Returns:
        Object id -> frame numbers in order. Objects without scored frames are left out, except where the
        protocol scores them.

    Raises:
        ValueError: the protocol is unknown, or a frame that counts has no mask.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol}: must be one of {', '.join(PROTOCOLS)}")
    annotated, first_frames = list(video.annotated), video.first_frames
    if set(annotated) <= set(first_frames.values()):
        return {}
    if protocol not in DAVIS_LIKE:
        return _benchmark_frames(video, protocol)
    if protocol == "davis":
        first_frames = {label: first for label, first in first_frames.items() if first == annotated[0]}
        annotated = [t for t in annotated if t != len(video) - 1]
    scored = {label: [t for t in annotated if t > first] for label, first in sorted(first_frames.items())}
    return {label: frames for label, frames in scored.items() if frames}


def _benchmark_frames(video: Video, protocol: str) -> dict[int, list[int]]:
    """Return object id -> frames that count, of the protocols of `stm.evaluation.protocols`."""
    annotated = list(video.annotated)
    if protocol in ("mose", "mosev2"):
        scored = dict.fromkeys(video.scored_objects, list(range(1, len(video) - 1)))
    elif protocol == "vost":
        scored = dict.fromkeys(first_mask_objects(video.annotated_mask(annotated[0])), annotated[1:-1])
    elif protocol == "sav":
        frames = getattr(video, "object_frames", None) or dict.fromkeys(video.scored_objects, annotated)
        scored = {label: list(own[1:-1]) for label, own in frames.items()}
    else:
        scored = _lvos_frames(video)
    known = set(annotated)
    missing = sorted({t for frames in scored.values() for t in frames} - known)
    if missing:
        raise ValueError(
            f"{video.name}: must have a mask of every frame that counts; got none of {len(missing)} frames, "
            f"the first is {video.frame_names[missing[0]]}"
        )
    return scored


def _lvos_frames(video: Video) -> dict[int, list[int]]:
    if video.frame_ranges is None:
        raise ValueError(f"{video.name}: must have the frame range of each object for protocol=lvos")
    index = {int(name): t for t, name in enumerate(video.frame_names)}
    scored = {}
    for label, (start, end, frame_nums) in video.frame_ranges.items():
        try:
            files = [file for file in counted_files(start, end, frame_nums) if file >= 0]
        except ValueError as error:
            raise ValueError(f"{video.name}, object {label}: {error}") from error
        if missing := [file for file in files if file not in index]:
            raise ValueError(
                f"{video.name}: object {label} must have the frames of its range {start} to {end}; "
                f"got no frame {missing[0]:08d}"
            )
        scored[label] = [index[file] for file in files]
    return scored


class Tally:
    """Scorer of one video, frame by frame, so that the video need not be in memory.

    Args:
        video: the segmented video.
        protocol: selects the scored frames and objects, see `scored_frames`.
    """

    def __init__(self, video: Video, protocol: str = "davis") -> None:
        self.video, self.protocol = video, protocol
        self.scored = scored_frames(video, protocol)
        """Object id -> frames on which it is scored."""
        self.frames = {t for frames in self.scored.values() for t in frames}
        """Frames on which any object is scored."""
        ranges = None
        if protocol == "lvos" and video.frame_ranges and self.scored:
            ranges = [video.frame_ranges[label] for label in self.scored]
        columns = max(
            [len(frames) for frames in self.scored.values()] + [r[2] - 2 for r in ranges or ()] + [0]
        )
        counted = np.full((len(self.scored), columns), -1, dtype=np.int64)
        for row, frames in zip(counted, self.scored.values(), strict=True):
            row[: len(frames)] = frames
        name = "davis" if protocol in DAVIS_LIKE else protocol
        self._scorer = VideoScorer(name, self.scored, len(video), ranges, counted)
        self._added: set[int] = set()

    def add(self, t: int, labels: np.ndarray, truth: np.ndarray) -> None:
        """Score frame t.

        Args:
            t: its number.
            labels: prediction, (H, W) with object ids, or (O, H, W) with one mask an object.
            truth: ground truth, which may have void pixels.
        """
        self._scorer.add(t, truth, labels)
        self._added.add(t)

    def objects(self) -> tuple[ObjectScores, ...]:
        """Return the scores of each object.

        Raises:
            ValueError: a scored frame has no prediction.
        """
        for label, frames in self.scored.items():
            missing = [self.video.frame_names[t] for t in frames if t not in self._added]
            if missing:
                raise ValueError(
                    f"{self.video.name}: object {label} has no prediction on {len(missing)} of the "
                    f"{len(frames)} frames it is scored on, the first is {missing[0]}"
                )
        scores = self._scorer.scores()
        measures = self._measures(scores)
        rows = []
        for i, label in enumerate(self.scored):
            chosen = (scores["frames"][i] >= 0) & ~np.isnan(scores["J"][i])
            numbers, j, f = (
                tuple(scores[name][i, chosen].tolist()) if name in scores else ()
                for name in ("frames", "J", "F")
            )
            values = {name: float(column[i]) for name, column in measures.items()}
            rows.append(
                ObjectScores(
                    self.video.name,
                    label,
                    self.video.categories.get(label),
                    numbers,
                    j,
                    f,
                    self.protocol,
                    {name: value if value == value else None for name, value in values.items()},
                )
            )
        return tuple(rows)

    def _measures(self, scores: VideoMeasures) -> ObjectMeasures:
        """Return the protocol's measures of each object, with the properties that it needs beside."""
        annotated, result = list(self.video.annotated), {}
        is_whole = annotated[:1] and annotated == list(range(annotated[0], len(self.video)))
        if self.protocol == "lvos" or (self.protocol in DAVIS_LIKE and is_whole):
            result = disappearance_measures(scores)
        if self.protocol not in DAVIS_LIKE:
            result |= self._scorer.protocol.summarize_objects(scores)
        if self.protocol == "lvos":
            seen = [self.video.categories.get(label) != "unseen" for label in self.scored]
            result["is_unseen"] = ~np.array(seen, dtype=bool)
        if self.protocol == "vost" and self.scored:
            first = object_ids(self.video.annotated_mask(annotated[0]))
            result["is_in_first_mask"] = np.isin(list(self.scored), first)
        return result


def score(
    video: Video, predictions: Iterable[FrameLabels], protocol: str = "davis"
) -> tuple[ObjectScores, ...]:
    """Compute J and F of each object from a stream of predictions.

    Args:
        video: the segmented video.
        predictions: frame number and labels, (H, W) with object ids, of at least the scored frames.
        protocol: selects the scored frames and objects, see `scored_frames`.

    Raises:
        ValueError: a scored frame has no prediction, or the protocol is unknown.
    """
    tally = Tally(video, protocol)
    for t, labels in predictions:
        if t in tally.frames:
            tally.add(t, labels, video.truth(t))
    return tally.objects()


def copy_first(video: Video) -> Iterator[FrameLabels]:
    """Yield the predictions of the baseline that repeats each object's given mask."""
    labels: np.ndarray | None = None
    for t in range(len(video)):
        given = video.prompt_mask(t)
        if given is not None:
            labels = given if labels is None else np.where(given > 0, given, labels)
        if labels is not None:
            yield t, labels


def read_masks(folder: Path, video: Video) -> Iterator[FrameLabels]:
    """Yield the predictions of a video's output frames from a folder of index PNGs, `<frame>.png`."""
    for t in video.output_frames:
        yield t, read_labels(folder, video, t)
