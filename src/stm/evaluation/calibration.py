"""The network's confidence in each object, and its calibration against J."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # reading scores must not import torch
    from stm.inference import Confidence

KINDS = ("inside", "score")
"""The two numbers of a `stm.inference.Confidence`."""
BINS = 10
LOST = 0.1
"""An object is lost on a frame if its J is below this value."""


@dataclass(frozen=True)
class ConfidenceTrack:
    """Confidence in an object on the frames where it was predicted, see `stm.inference.Confidence`.

    Attributes:
        object: the object's id.
        frames: frame numbers in order.
        inside: `inside` of each frame.
        score: `score` of each frame.
    """

    object: int
    frames: Sequence[int]
    inside: Sequence[float]
    score: Sequence[float]


def tracks(confidence: Mapping[int, Mapping[int, Confidence]]) -> tuple[ConfidenceTrack, ...]:
    """Return the track of each object, from frame -> object -> confidence in any order."""
    rows: dict[int, list[tuple[float, ...]]] = {}
    for t in sorted(confidence):
        for label, values in confidence[t].items():
            rows.setdefault(label, []).append((t, *(round(value, 5) for value in values)))
    return tuple(
        ConfidenceTrack(label, *map(tuple, zip(*rows[label], strict=True))) for label in sorted(rows)
    )


def tracks_from_dicts(rows: Iterable[Mapping[str, Any]]) -> tuple[ConfidenceTrack, ...]:
    """Return the tracks that were stored as JSON."""
    return tuple(
        ConfidenceTrack(row["object"], *(tuple(row[name]) for name in ("frames", "inside", "score")))
        for row in rows
    )


def pair_with_j(
    tracks: Iterable[ConfidenceTrack], scored: Iterable[tuple[int, int, float]], kind: str
) -> list[tuple[float, float]]:
    """Return pairs of confidence and J wherever both are known.

    Args:
        tracks: the confidence in each object.
        scored: object id, frame and J.
        kind: `inside` or `score`.
    """
    confidence = {
        (track.object, t): value
        for track in tracks
        for t, value in zip(track.frames, getattr(track, kind), strict=True)
    }
    return [(confidence[label, t], j) for label, t, j in scored if (label, t) in confidence]


@dataclass(frozen=True)
class Bin:
    """A bin of objects and frames with similar confidence.

    Attributes:
        count: number of them.
        confidence: mean confidence, 0..1.
        j: mean J, 0..1.
    """

    count: int
    confidence: float
    j: float


@dataclass(frozen=True)
class Calibration:
    """Calibration of confidence against J, in bins of equal width.

    Attributes:
        bins: from the lowest confidence up; None for an empty bin.
        ece: expected calibration error: mean distance of a bin's confidence to its J, weighted by count.
        bias: mean confidence minus mean J; positive if the network is overconfident.
        lost: area under the ROC curve for detecting lost objects (J < 0.1) by low confidence; None unless
            there are both lost objects and others.
    """

    bins: tuple[Bin | None, ...]
    ece: float
    bias: float
    lost: float | None

    @property
    def count(self) -> int:
        """Return the number of pairs of confidence and J."""
        return sum(bin.count for bin in self.bins if bin)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = asdict(self)
        return {"count": self.count, **{key: values[key] for key in ("ece", "bias", "lost", "bins")}}


def calibration(confidence: Sequence[float], j: Sequence[float]) -> Calibration | None:
    """Compute the calibration of confidences against J; None if there is nothing to compare.

    Frames with neither object nor prediction are left out: J is 1 there by convention, confidence is 0, and
    neither measures an overlap.

    Args:
        confidence: (N,), of an object on a frame each.
        j: (N,), the matching J.
    """
    confidence_N, j_N = _counted(confidence, j)
    if not len(j_N):
        return None
    indices_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
    bins = [
        Bin(int(inside.sum()), float(confidence_N[inside].mean()), float(j_N[inside].mean()))
        if inside.any()
        else None
        for inside in (indices_N == index for index in range(BINS))
    ]
    ece = sum(bin.count * abs(bin.confidence - bin.j) for bin in bins if bin) / len(j_N)
    bias = float(confidence_N.mean() - j_N.mean())
    is_lost = j_N < LOST
    return Calibration(tuple(bins), ece, bias, _auc(confidence_N[is_lost], confidence_N[~is_lost]))


def fit_exponent(confidence: Sequence[float], j: Sequence[float]) -> float:
    """Compute the exponent g of 0.1 to 10 with the least mean squared difference of confidence ** g and J.

    Args:
        confidence: (N,), of an object on a frame each.
        j: (N,), the matching J.

    Raises:
        ValueError: there is nothing to compare.
    """
    confidence_N, j_N = _counted(confidence, j)
    if not len(j_N):
        raise ValueError("no object has both a confidence and J: the exponent cannot be fitted")
    exponents_G = np.geomspace(0.1, 10, 401)
    errors_G = [np.mean((confidence_N**exponent - j_N) ** 2) for exponent in exponents_G]
    return float(exponents_G[np.argmin(errors_G)])


def _counted(confidence: Sequence[float], j: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return confidence and J without the frames on which the network correctly finds nothing."""
    confidence_N, j_N = np.asarray(confidence, dtype=float), np.asarray(j, dtype=float)
    is_counted = ~((confidence_N == 0) & (j_N == 1))
    return confidence_N[is_counted], j_N[is_counted]


def _auc(low: np.ndarray, high: np.ndarray) -> float | None:
    """Compute the probability that a value of `low` is below one of `high`, ties counted as half."""
    if not len(low) or not len(high):
        return None
    ordered = np.sort(high)
    right, left = (np.searchsorted(ordered, low, side=side) for side in ("right", "left"))
    return float((len(high) - right + (right - left) / 2).sum() / (len(low) * len(high)))
