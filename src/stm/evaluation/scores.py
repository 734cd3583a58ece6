"""Scored frames and objects, and the scores of a network and the baselines on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stm.evaluation.calibration import Track, pair_with_j, tracks_from_dicts
from stm.evaluation.metrics import Statistics, similarity_and_accuracy, statistics
from stm.masks import read_mask
from stm.video import VOID, Video

PROTOCOLS = ("davis", "youtube", "all")
NETWORK, COPY_FIRST, ALL_BACKGROUND = "network", "copy-first", "all-background"
MEASURES = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
"""Measures under the names and in the order in which the DAVIS evaluation prints them."""

Prediction = tuple[int, np.ndarray]
"""Frame number and labels, uint8 (H, W) with object ids."""


def scored_frames(video: Video, protocol: str) -> dict[int, list[int]]:
    """Return the frames on which each object is scored.

    `davis`: the objects of the first annotated frame, on all later annotated frames except the video's last.
    `youtube` and `all`: every object, on the annotated frames after the one in which it enters.
    Nothing is scored if each annotated frame only introduces objects, as in the test sets of both.

    Args:
        video: with its annotated frames and the first frame of each object.
        protocol: `davis`, `youtube` or `all`.

    Returns:
        Object id -> frame numbers in order; objects without scored frames are left out.

    Raises:
        ValueError: the protocol is unknown.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol}: must be one of {', '.join(PROTOCOLS)}")
    annotated, first_frames = list(video.annotated), video.first_frames
    if set(annotated) <= set(first_frames.values()):
        return {}
    if protocol == "davis":
        first_frames = {label: first for label, first in first_frames.items() if first == annotated[0]}
        annotated = [t for t in annotated if t != len(video) - 1]
    scored = {label: [t for t in annotated if t > first] for label, first in sorted(first_frames.items())}
    return {label: frames for label, frames in scored.items() if frames}


@dataclass(frozen=True)
class ObjectScores:
    """Scores of one object of one sequence.

    Attributes:
        sequence: the video's name.
        object: the object's id in the video's masks.
        category: the object's category; None where the data set has none.
        frames: the scored frames.
        j: J of each frame.
        f: F of each frame.
    """

    sequence: str
    object: int
    category: str | None
    frames: Sequence[int]
    j: Sequence[float]
    f: Sequence[float]

    @cached_property
    def J(self) -> Statistics:
        """Return mean, recall and decay of J."""
        return statistics(np.asarray(self.j))

    @cached_property
    def F(self) -> Statistics:
        """Return mean, recall and decay of F."""
        return statistics(np.asarray(self.f))

    def row(self) -> dict[str, Any]:
        """Return the row of the object in a table, with measures under their DAVIS names."""
        values = ((self.J.mean + self.F.mean) / 2, *self.J, *self.F)
        return {
            "sequence": self.sequence,
            "object": self.object,
            "category": self.category,
            "frames": len(self.frames),
            **dict(zip(MEASURES, values, strict=True)),
        }


def overall(objects: Iterable[ObjectScores]) -> dict[str, float]:
    """Compute the mean of each measure over objects (not over sequences); empty without objects."""
    rows = [row.row() for row in objects]
    return {name: float(np.mean([row[name] for row in rows])) for name in MEASURES} if rows else {}


def seen_and_unseen(objects: Sequence[ObjectScores], seen: frozenset[str]) -> dict[str, float]:
    """Compute J and F over objects of seen and of unseen categories, and their mean G of YouTube-VOS.

    Objects without a category are ignored. A half without objects is left out, and so is G then.
    """
    values: dict[str, float] = {}
    for half, is_seen in (("Seen", True), ("Unseen", False)):
        rows = [row for row in objects if row.category is not None and (row.category in seen) == is_seen]
        if rows:
            values[f"J-{half}"] = float(np.mean([row.J.mean for row in rows]))
            values[f"F-{half}"] = float(np.mean([row.F.mean for row in rows]))
    if len(values) == 4:
        values["G"] = float(np.mean(list(values.values())))
    return values


class Tally:
    """Scorer of one video, frame by frame, so that the video need not be in memory.

    Args:
        video: the segmented video.
        protocol: selects the scored frames and objects, see `scored_frames`.
    """

    def __init__(self, video: Video, protocol: str = "davis") -> None:
        self.video = video
        self._scored = scored_frames(video, protocol)
        self.frames = {t for frames in self._scored.values() for t in frames}
        """Frames on which any object is scored."""
        self._values: dict[int, dict[int, tuple[float, float]]] = {label: {} for label in self._scored}

    def add(self, t: int, labels: np.ndarray, truth: np.ndarray) -> None:
        """Score frame t; labels and truth are uint8 (H, W) with object ids, truth may have void pixels."""
        void = truth == VOID
        ignored = void if void.any() else None
        for label, frames in self._scored.items():
            if frames[0] <= t <= frames[-1]:
                self._values[label][t] = similarity_and_accuracy(truth == label, labels == label, ignored)

    def objects(self) -> tuple[ObjectScores, ...]:
        """Return the scores of each object.

        Raises:
            ValueError: a scored frame has no prediction.
        """
        rows = []
        for label, frames in self._scored.items():
            values = self._values[label]
            missing = [self.video.frame_names[t] for t in frames if t not in values]
            if missing:
                raise ValueError(
                    f"{self.video.name}: object {label} has no prediction on {len(missing)} of the "
                    f"{len(frames)} frames it is scored on, the first is {missing[0]}"
                )
            j, f = zip(*(values[t] for t in frames), strict=True)
            category = self.video.categories.get(label)
            rows.append(ObjectScores(self.video.name, label, category, tuple(frames), j, f))
        return tuple(rows)


def score(
    video: Video, predictions: Iterable[Prediction], protocol: str = "davis"
) -> tuple[ObjectScores, ...]:
    """Compute J and F of each object from a stream of predictions.

    Args:
        video: the segmented video.
        predictions: frame number and labels, uint8 (H, W) with object ids, of at least the scored frames.
        protocol: selects the scored frames and objects, see `scored_frames`.

    Raises:
        ValueError: a scored frame has no prediction, or the protocol is unknown.
    """
    tally = Tally(video, protocol)
    for t, labels in predictions:
        truth = video.mask(t) if t in tally.frames else None
        if truth is not None:
            tally.add(t, labels, truth)
    return tally.objects()


def copy_first(video: Video) -> Iterator[Prediction]:
    """Yield the predictions of the baseline that repeats each object's given mask."""
    labels: np.ndarray | None = None
    for t in range(len(video)):
        given = video.prompt_mask(t)
        if given is not None:
            labels = given if labels is None else np.where(given > 0, given, labels)
        if labels is not None:
            yield t, labels


def read_masks(folder: Path, video: Video) -> Iterator[Prediction]:
    """Yield the predictions of a video's output frames from a folder of index PNGs, `<frame>.png`."""
    for t in video.output_frames:
        yield t, read_mask(folder / f"{video.frame_names[t]}.png")


@dataclass(frozen=True)
class SequenceScores:
    """Results of one video.

    Attributes:
        name: the video's name.
        length: number of frames.
        segmented: number of frames that the network segmented.
        seconds: time for them, from a frame at the network's size to its labels, by a GPU's own clock.
        peak_bytes: peak memory meanwhile: of the process on a CPU, of tensors on a GPU.
        objects: the network's scores of each object; empty without ground truth.
        baselines: the same for each baseline.
        confidence: the network's confidence in each object, with or without ground truth.
    """

    name: str
    length: int
    segmented: int
    seconds: float
    peak_bytes: int
    objects: tuple[ObjectScores, ...]
    baselines: Mapping[str, tuple[ObjectScores, ...]] = field(default_factory=dict)
    confidence: tuple[Track, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SequenceScores:
        """Return the results that `to_dict` converted, also after a round trip through JSON."""
        baselines = {name: _objects(rows) for name, rows in values["baselines"].items()}
        confidence = tracks_from_dicts(values.get("confidence", ()))
        objects = _objects(values["objects"])
        return cls(**{**values, "objects": objects, "baselines": baselines, "confidence": confidence})

    def confidence_and_j(self, kind: str) -> list[tuple[float, float]]:
        """Return confidence (`inside` or `score`) and J of every object on every scored frame."""
        scored = ((row.object, t, j) for row in self.objects for t, j in zip(row.frames, row.j, strict=True))
        return pair_with_j(self.confidence, scored, kind)


def _objects(rows: Iterable[Mapping[str, Any]]) -> tuple[ObjectScores, ...]:
    lists = ("frames", "j", "f")
    return tuple(ObjectScores(**{**row, **{name: tuple(row[name]) for name in lists}}) for row in rows)


@dataclass(frozen=True)
class Scores:
    """Results of a benchmark.

    Attributes:
        settings: what was evaluated and how, as plain values: benchmark, protocol, size, policy, checkpoint.
        sequences: the results of each video.
        seen: categories of the training set, for G; None for benchmarks without it.
        output: the folder with masks, overlays and scores; None if nothing was written.
    """

    settings: Mapping[str, Any]
    sequences: tuple[SequenceScores, ...]
    seen: frozenset[str] | None = None
    output: Path | None = None

    @property
    def objects(self) -> list[ObjectScores]:
        """Return the scores of all objects of all videos."""
        return [row for sequence in self.sequences for row in sequence.objects]

    @cached_property
    def overall(self) -> dict[str, float]:
        """Return the measures under their DAVIS names, and G if categories are known; empty without truth."""
        return self._overall(self.objects)

    @cached_property
    def baselines(self) -> dict[str, dict[str, float]]:
        """Return the same measures of each baseline."""
        names = {name: None for sequence in self.sequences for name in sequence.baselines}  # an ordered set
        return {
            name: self._overall(
                [row for sequence in self.sequences for row in sequence.baselines.get(name, ())]
            )
            for name in names
        }

    def _overall(self, objects: list[ObjectScores]) -> dict[str, float]:
        halves = {} if self.seen is None else seen_and_unseen(objects, self.seen)
        return {**overall(objects), **halves}

    @property
    def frames_per_second(self) -> float:
        """Return the speed of the network's part: from a frame at its size to the labels."""
        seconds = sum(sequence.seconds for sequence in self.sequences)
        return sum(sequence.segmented for sequence in self.sequences) / seconds if seconds else 0.0

    @property
    def peak_mb(self) -> float:
        """Return the highest peak memory of the videos in MiB."""
        return max((sequence.peak_bytes for sequence in self.sequences), default=0) / 2**20
