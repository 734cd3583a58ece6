"""How sure was the network of each object, and does its confidence tell J?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # which imports torch: to read scores needs none
    from stm.inference import Confidence

KINDS = ("inside", "score")
"""The two numbers that a confidence is, `inside` and `score`."""
BINS = 10
LOST = 0.1
"""An object whose J is below that is lost."""


@dataclass(frozen=True)
class Track:
    """How sure was the network of an object, on the frames where it was predicted? See `Confidence`.

    Attributes:
        object: its id.
        frames: in order.
        inside, score: of each of them.
    """

    object: int
    frames: Sequence[int]
    inside: Sequence[float]
    score: Sequence[float]


def tracks(confidence: Mapping[int, Mapping[int, Confidence]]) -> tuple[Track, ...]:
    """A track an object, from frame -> object -> confidence in any order."""
    found: dict[int, list[tuple[float, ...]]] = {}
    for t in sorted(confidence):
        for label, sure in confidence[t].items():
            found.setdefault(label, []).append((t, *(round(value, 5) for value in sure)))
    return tuple(Track(label, *map(tuple, zip(*found[label], strict=True))) for label in sorted(found))


def tracks_from(rows: Iterable[Mapping[str, Any]]) -> tuple[Track, ...]:
    """Tracks after a trip through JSON."""
    return tuple(
        Track(row["object"], *(tuple(row[name]) for name in ("frames", "inside", "score"))) for row in rows
    )


def beside(
    tracks: Iterable[Track], scored: Iterable[tuple[int, int, float]], kind: str
) -> list[tuple[float, float]]:
    """Confidence and J wherever both are known; `scored` tells object, frame, J."""
    sure = {
        (track.object, t): value
        for track in tracks
        for t, value in zip(track.frames, getattr(track, kind), strict=True)
    }
    return [(sure[label, t], j) for label, t, j in scored if (label, t) in sure]


@dataclass(frozen=True)
class Bin:
    """Frames of objects whose confidence is about the same.

    Attributes:
        count: how many.
        confidence, j: their means, 0..1.
    """

    count: int
    confidence: float
    j: float


@dataclass(frozen=True)
class Calibration:
    """Is a confidence what J comes to be? The frames of objects in bins of equal width.

    Attributes:
        bins: of the lowest confidence first, None for an empty one.
        ece: expected calibration error, the mean distance of a bin's confidence to its J, weighted by counts.
        bias: mean confidence less mean J; above 0 where the network is too sure.
        lost: how well a low confidence tells a lost object (J < 0.1): the chance that one that is lost has a
            lower one than one that is not (the area under the ROC curve); None where there is no such pair.
    """

    bins: tuple[Bin | None, ...]
    ece: float
    bias: float
    lost: float | None

    @property
    def count(self) -> int:
        return sum(one.count for one in self.bins if one)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self)
        return {"count": self.count, **{key: values[key] for key in ("ece", "bias", "lost", "bins")}}


def calibration(confidence: Sequence[float], j: Sequence[float]) -> Calibration | None:
    """Confidence against J, each of an object on a frame; None if there is nothing to compare.

    Left out are frames on which the network finds nothing where nothing is: J is 1 there by convention, a
    confidence in nothing is 0, and neither is an overlap.
    """
    sure, true = np.asarray(confidence, dtype=float), np.asarray(j, dtype=float)
    counts = ~((sure == 0) & (true == 1))
    sure, true = sure[counts], true[counts]
    if not len(sure):
        return None
    places = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = [
        Bin(int(here.sum()), float(sure[here].mean()), float(true[here].mean())) if here.any() else None
        for here in (places == number for number in range(BINS))
    ]
    ece = sum(one.count * abs(one.confidence - one.j) for one in bins if one) / len(sure)
    bias = float(sure.mean() - true.mean())
    return Calibration(tuple(bins), ece, bias, _chance_below(sure[true < LOST], sure[true >= LOST]))


def _chance_below(low: np.ndarray, high: np.ndarray) -> float | None:
    """The chance that one of `low` is below one of `high`, ties by half."""
    if not len(low) or not len(high):
        return None
    ordered = np.sort(high)
    below = len(high) - np.searchsorted(ordered, low, side="right")
    ties = np.searchsorted(ordered, low, side="right") - np.searchsorted(ordered, low, side="left")
    return float((below + ties / 2).sum() / (len(low) * len(high)))
