"""What a benchmark's protocol consists of, and what several protocols share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from stm.evaluation.metrics import Statistics, similarity_and_accuracy, statistics

VideoMeasures = dict[str, np.ndarray]
"""Per-frame measures of one video, (O, N) each: objects by counted frames; `frames` has their indices."""

ObjectMeasures = dict[str, np.ndarray]
"""Measures of objects, (O,) each."""

FrameScores = dict[str, float]
"""Measures of one object in one frame."""


@dataclass(frozen=True)
class Protocol:
    """The rules by which a benchmark scores masks.

    Attributes:
        name: as `score_masks` takes it.
        headline: the overall measure that ranks methods.
        measures: names of what `score_frame` returns.
        score_frame: compute the measures of one object in one frame, from its truth and prediction, bool
            (H, W), and the truth's void, bool (H, W) or None.
        counted_frames: return the frames that count, int (N,) or, where objects differ, (O, N) with -1 for
            none, given the number of frames, the number of objects, and the objects' frame ranges.
        complete: set the scores that depend on several frames, given a video's scores and frame ranges.
        summarize_objects: compute each object's measures from a video's scores.
        summarize: compute the benchmark's measures from those of the objects of all videos.
        columns: heading -> measure of the columns of a table.
        summarize_part: the same as `summarize` for one video or object; None for `summarize` itself.
        scale: value of a perfect J in the measures: 1, or 100 where they are in percent.
    """

    name: str
    headline: str
    measures: tuple[str, ...]
    score_frame: Callable[[np.ndarray, np.ndarray, np.ndarray | None], FrameScores]
    counted_frames: Callable[[int, int, ArrayLike | None], np.ndarray]
    complete: Callable[[VideoMeasures, ArrayLike | None], VideoMeasures]
    summarize_objects: Callable[[VideoMeasures], ObjectMeasures]
    summarize: Callable[..., dict[str, float]]
    columns: Mapping[str, str]
    summarize_part: Callable[..., dict[str, float]] | None = None
    scale: float = 1.0

    def headline_value(self, values: Mapping[str, float | None]) -> float | None:
        """Return the headline measure as a fraction, see `column_values`; None where it is not defined."""
        return self.column_values(values).get(self.headline_heading)

    def column_values(self, values: Mapping[str, float | None]) -> dict[str, float]:
        """Return heading -> measure as a fraction.

        Args:
            values: from `summarize`. Where the evaluator's measure is nan, the corrected one is returned.

        Returns:
            The measures that are defined.
        """
        result = {}
        for heading, name in self.columns.items():
            candidates = (values.get(key) for key in (name, f"{name}_corrected"))
            value = next((value for value in candidates if value is not None and value == value), None)
            if value is not None:
                result[heading] = value / self.scale
        return result

    @property
    def headline_heading(self) -> str:
        """Heading of the headline measure."""
        return next(heading for heading, name in self.columns.items() if name == self.headline)


def middle_frames(length: int, objects: int, frame_range: ArrayLike | None) -> np.ndarray:
    """Return all annotated frames but the first and the last, for every object.

    Raises:
        ValueError: a frame range is given, which the protocol would ignore.
    """
    if frame_range is not None:
        raise ValueError(f"frame_range={frame_range!r}: must be None unless protocol='lvos'")
    return np.arange(1, max(length - 1, 1))


def as_scored(scores: VideoMeasures, frame_range: ArrayLike | None) -> VideoMeasures:
    """Return the scores of protocols whose frames do not depend on each other."""
    return scores


def davis_measures(truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None) -> FrameScores:
    """Compute DAVIS's J and F of one object in one frame, and whether its truth is empty."""
    j, f = similarity_and_accuracy(truth, prediction, void)
    return {"J": j, "F": f, "empty": not truth.any()}


def describe(values: np.ndarray, is_eight_bit: bool = False) -> Statistics:
    """Compute mean, recall and decay of a measure over frames; all nan without frames.

    Args:
        values: (N,).
        is_eight_bit: whether the decay's bounds are cast to 8 bits, as in DAVIS's evaluator and its
            descendants, which matters beyond 256 frames.
    """
    if not len(values):
        return Statistics(np.nan, np.nan, np.nan)
    result = statistics(values)
    if not is_eight_bit or len(values) <= 256:
        return result
    bounds = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.int64) & 0xFF
    first, last = values[bounds[0] : bounds[1] + 1], values[bounds[3] : bounds[4] + 1]
    return result._replace(decay=mean(first) - mean(last))


def mean(values: np.ndarray) -> float:
    """Compute the mean of the values that are not nan; nan where there are none."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else np.nan


def concatenate(videos: Sequence[ObjectMeasures]) -> ObjectMeasures:
    """Return the objects of several videos as one.

    Args:
        videos: at least one.
    """
    return {name: np.concatenate([objects[name] for objects in videos]) for name in videos[0]}
