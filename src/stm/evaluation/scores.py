"""Scores of a network and the baselines: of objects, of videos and of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stm.evaluation.calibration import ConfidenceTrack, pair_with_j, tracks_from_dicts
from stm.evaluation.metrics import Statistics, statistics
from stm.evaluation.protocols import Protocol, find_protocol, summarize_disappearance

DAVIS_LIKE = ("davis", "youtube", "all")
"""Protocols with DAVIS's J and F, and void that is ignored."""
FLAGS = ("is_unseen", "is_in_first_mask")
"""Properties of objects that some protocols take beside their measures."""
NETWORK, COPY_FIRST, ALL_BACKGROUND = "network", "copy-first", "all-background"
MEASURES = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
"""Measures under the names and in the order in which the DAVIS evaluation prints them."""


@dataclass(frozen=True)
class ObjectScores:
    """Scores of one object of one sequence.

    Attributes:
        sequence: the video's name.
        object: the object's id in the video's masks.
        category: the object's category; None where the data set has none.
        frames: the scored frames.
        j: J of each frame.
        f: F of each frame; empty for a protocol without F.
        protocol: what the scores follow.
        measures: the protocol's measures of the object, None where it has none: for DAVIS and its like only
            those over disappearances and reappearances, and only where all frames are annotated.
    """

    sequence: str
    object: int
    category: str | None
    frames: Sequence[int]
    j: Sequence[float]
    f: Sequence[float]
    protocol: str = "davis"
    measures: Mapping[str, float | None] = field(default_factory=dict)

    @cached_property
    def J(self) -> Statistics:
        """Return mean, recall and decay of J."""
        return statistics(np.asarray(self.j))

    @cached_property
    def F(self) -> Statistics:
        """Return mean, recall and decay of F."""
        return statistics(np.asarray(self.f))

    def row(self) -> dict[str, Any]:
        """Return the row of the object in a table, with measures under the names of the benchmark."""
        return {
            "sequence": self.sequence,
            "object": self.object,
            "category": self.category,
            "frames": len(self.frames),
            **overall([self], is_part=True),
        }


def protocol_of(name: str | None) -> Protocol:
    """Return the protocol with the measures and columns of that name; `youtube` and `all` have DAVIS's."""
    return find_protocol("davis" if name in (None, *DAVIS_LIKE) else name)


def overall(objects: Iterable[ObjectScores], is_part: bool = False) -> dict[str, float]:
    """Compute the benchmark's measures over objects (not over sequences).

    Args:
        objects: scored by the same protocol.
        is_part: whether these are objects of one video rather than of the benchmark.

    Returns:
        Name -> value, nan where the evaluator's is not defined; empty without objects.
    """
    rows = list(objects)
    if not rows:
        return {}
    columns = {
        name: np.array([row.measures[name] for row in rows], dtype=float)
        for name in rows[0].measures
        if all(name in row.measures for row in rows)
    }
    if rows[0].protocol in DAVIS_LIKE:
        values = [((row.J.mean + row.F.mean) / 2, *row.J, *row.F) for row in rows]
        means = (float(np.mean(column)) for column in zip(*values, strict=True))
        result = dict(zip(MEASURES, means, strict=True))
    else:
        protocol = find_protocol(rows[0].protocol)
        flags = {name: columns.pop(name).astype(bool) for name in FLAGS if name in columns}
        summarize = protocol.summarize_part if is_part and protocol.summarize_part else protocol.summarize
        result = summarize(columns, **flags)
    if {"J_d_mean", "F_d_mean"} <= columns.keys():
        runs = summarize_disappearance(columns)
        result |= {name: value for name, value in runs.items() if value == value}
    return result


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
    confidence: tuple[ConfidenceTrack, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SequenceScores:
        """Return the results that `to_dict` converted, also after a round trip through JSON."""
        baselines = {name: _objects(rows) for name, rows in values["baselines"].items()}
        confidence = tracks_from_dicts(values["confidence"])
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
        """Return the benchmark's measures, and G if categories are known; empty without truth."""
        return self._overall(self.objects)

    @property
    def protocol(self) -> Protocol:
        """Return the protocol that the objects were scored by; DAVIS's if there is none."""
        return protocol_of(next((row.protocol for row in self.objects), None))

    @property
    def headline(self) -> float | None:
        """Return the measure that ranks methods, 0..1; None if it is not defined."""
        return self.protocol.headline_value(self.overall)

    @property
    def columns(self) -> dict[str, float]:
        """Return heading -> measure of the benchmark's table, 0..1, those that are defined, and G."""
        g = {"G": self.overall["G"]} if "G" in self.overall else {}
        return {**self.protocol.column_values(self.overall), **g}

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
