"""Which frames and objects count, and what do a network and the baselines score on them?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stm.evaluation.calibration import Track, beside, tracks_from
from stm.evaluation.metrics import Statistics, similarity_and_accuracy, statistics
from stm.masks import read_mask
from stm.video import VOID, Video

PROTOCOLS = ("davis", "youtube", "all")
NETWORK, COPY_FIRST, ALL_BACKGROUND = "network", "copy-first", "all-background"
MEASURES = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
"""The names that the DAVIS evaluation prints, in its order."""

Prediction = tuple[int, np.ndarray]
"""A frame's number and its labels, uint8 (H, W) with object ids."""


def frames_that_count(video: Video, protocol: str) -> dict[int, list[int]]:
    """Object id -> the frames on which it is scored, in order; without the objects that have none.

    `davis`: the objects of the first annotated frame, on all annotated frames after it but the video's last.
    `youtube` and `all`: every object, on the annotated frames after the one it enters at.
    A video has no truth, and nothing counts, where each annotated frame only introduces objects, as in the
    test sets of both.

    Raises:
        ValueError: the protocol is unknown.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is unknown; allowed: {', '.join(PROTOCOLS)}")
    annotated, entries = list(video.annotated), video.first_frames
    if set(annotated) <= set(entries.values()):
        return {}
    if protocol == "davis":
        entries = {label: entry for label, entry in entries.items() if entry == annotated[0]}
        annotated = [t for t in annotated if t != len(video) - 1]
    counting = {label: [t for t in annotated if t > entry] for label, entry in sorted(entries.items())}
    return {label: frames for label, frames in counting.items() if frames}


@dataclass(frozen=True)
class ObjectScores:
    """What did one object of one sequence score?

    Attributes:
        sequence: the video's name.
        object: its id in the video's masks.
        category: what it is, where the data set tells.
        frames: the frames that count.
        j: J of each of them.
        f: F of each of them.
    """

    sequence: str
    object: int
    category: str | None
    frames: Sequence[int]
    j: Sequence[float]
    f: Sequence[float]

    @cached_property
    def J(self) -> Statistics:
        return statistics(np.asarray(self.j))

    @cached_property
    def F(self) -> Statistics:
        return statistics(np.asarray(self.f))

    def row(self) -> dict[str, Any]:
        """The object as a row of a table, measures under their DAVIS names."""
        values = ((self.J.mean + self.F.mean) / 2, *self.J, *self.F)
        return {
            "sequence": self.sequence,
            "object": self.object,
            "category": self.category,
            "frames": len(self.frames),
            **dict(zip(MEASURES, values, strict=True)),
        }


def overall(objects: Iterable[ObjectScores]) -> dict[str, float]:
    """Each measure's mean over objects (not over sequences); empty where there are none."""
    rows = [row.row() for row in objects]
    return {name: float(np.mean([row[name] for row in rows])) for name in MEASURES} if rows else {}


def seen_and_unseen(objects: Sequence[ObjectScores], seen: frozenset[str]) -> dict[str, float]:
    """G of YouTube-VOS: the mean of J and F over objects of seen and of unseen categories.

    Objects without a category don't take part; a half without objects is left out, and G with it.
    """
    values: dict[str, float] = {}
    for half, inside in (("Seen", True), ("Unseen", False)):
        chosen = [row for row in objects if row.category is not None and (row.category in seen) == inside]
        if chosen:
            values[f"J-{half}"] = float(np.mean([row.J.mean for row in chosen]))
            values[f"F-{half}"] = float(np.mean([row.F.mean for row in chosen]))
    if len(values) == 4:
        values["G"] = float(np.mean(list(values.values())))
    return values


class Tally:
    """Scores one video's predictions as they come, so that no video stands in memory.

    Args:
        video: what was segmented.
        protocol: which frames and objects count, see `frames_that_count`.
    """

    def __init__(self, video: Video, protocol: str = "davis") -> None:
        self.video = video
        self.counting = frames_that_count(video, protocol)
        self.frames = {t for frames in self.counting.values() for t in frames}
        """Frames that some object is scored on."""
        self._values: dict[int, dict[int, tuple[float, float]]] = {label: {} for label in self.counting}

    def add(self, t: int, labels: np.ndarray, truth: np.ndarray) -> None:
        """Score frame t: labels and truth, uint8 (H, W) with object ids; void in the truth is left out."""
        void = truth == VOID
        hidden = void if void.any() else None
        for label, frames in self.counting.items():
            if frames[0] <= t <= frames[-1]:
                self._values[label][t] = similarity_and_accuracy(truth == label, labels == label, hidden)

    def objects(self) -> tuple[ObjectScores, ...]:
        """The scores, an object each.

        Raises:
            ValueError: a frame that counts was not predicted.
        """
        rows = []
        for label, frames in self.counting.items():
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
    """J and F of a stream of predictions, an object each.

    Args:
        video: what was segmented.
        predictions: frame number and labels, uint8 (H, W) with object ids; at least the frames that count.
        protocol: which frames and objects count, see `frames_that_count`.

    Raises:
        ValueError: a frame that counts was not predicted, or the protocol is unknown.
    """
    tally = Tally(video, protocol)
    for t, labels in predictions:
        truth = video.mask(t) if t in tally.frames else None
        if truth is not None:
            tally.add(t, labels, truth)
    return tally.objects()


def copy_first(video: Video) -> Iterator[Prediction]:
    """The baseline that keeps each object's given mask for the rest of the video."""
    held: np.ndarray | None = None
    for t in range(len(video)):
        given = video.prompt_mask(t)
        if given is not None:
            held = given if held is None else np.where(given > 0, given, held)
        if held is not None:
            yield t, held


def written_masks(folder: Path, video: Video) -> Iterator[Prediction]:
    """Predictions read from a folder of index PNGs, `<frame>.png`: the frames whose masks are asked for."""
    for t in video.output_frames:
        yield t, read_mask(folder / f"{video.frame_names[t]}.png")


@dataclass(frozen=True)
class SequenceScores:
    """What came of one video?

    Attributes:
        name: the video's name.
        length: its number of frames.
        segmented: frames that went through the network.
        seconds: how long that took, from a frame at the network's size to its labels; by a GPU's own clock.
        peak_bytes: the most memory in use meanwhile: the process's on a CPU, tensors on a GPU.
        objects: the network's scores, an object each; empty without truth.
        baselines: the same of each baseline.
        confidence: how sure the network was, a track an object, with or without truth.
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
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SequenceScores:
        """What `to_dict` gave, after a trip through JSON."""
        baselines = {name: _objects(rows) for name, rows in values["baselines"].items()}
        sure = tracks_from(values.get("confidence", ()))
        objects = _objects(values["objects"])
        return cls(**{**values, "objects": objects, "baselines": baselines, "confidence": sure})

    def beside_j(self, kind: str) -> list[tuple[float, float]]:
        """Confidence (`inside` or `score`) and J of every object on every frame that counts."""
        scored = ((row.object, t, j) for row in self.objects for t, j in zip(row.frames, row.j, strict=True))
        return beside(self.confidence, scored, kind)


def _objects(rows: Iterable[Mapping[str, Any]]) -> tuple[ObjectScores, ...]:
    lists = ("frames", "j", "f")
    return tuple(ObjectScores(**{**row, **{name: tuple(row[name]) for name in lists}}) for row in rows)


@dataclass(frozen=True)
class Scores:
    """What came of a benchmark?

    Attributes:
        settings: what was evaluated and how, as plain values: benchmark, protocol, size, policy, checkpoint.
        sequences: what came of each video. Results of several processes are put together by joining these.
        seen: the categories that training saw, for G; None where that has no meaning.
        output: the folder that holds masks, overlays and scores, if any were written.
    """

    settings: Mapping[str, Any]
    sequences: tuple[SequenceScores, ...]
    seen: frozenset[str] | None = None
    output: Path | None = None

    @property
    def objects(self) -> list[ObjectScores]:
        return [row for sequence in self.sequences for row in sequence.objects]

    @cached_property
    def overall(self) -> dict[str, float]:
        """The measures under their DAVIS names, with G's where categories are known; empty without truth."""
        return self._overall(self.objects)

    @cached_property
    def baselines(self) -> dict[str, dict[str, float]]:
        """Baseline -> the same measures."""
        names = {name: None for sequence in self.sequences for name in sequence.baselines}  # in order
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
        """Of the network's part: from a frame at its size to the labels."""
        seconds = sum(sequence.seconds for sequence in self.sequences)
        return sum(sequence.segmented for sequence in self.sequences) / seconds if seconds else 0.0

    @property
    def peak_mb(self) -> float:
        return max((sequence.peak_bytes for sequence in self.sequences), default=0) / 2**20
