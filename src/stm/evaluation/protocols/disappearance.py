"""Measures over an object's disappearances and reappearances.

They follow MOSEv2, for any data set in which all frames are annotated. DAVIS's J and F give J&F_d and J&F_r.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stm.evaluation.protocols.protocol import ObjectMeasures, VideoMeasures, mean

Segment = tuple[int, int]
"""First counted frame and one past the last."""


def find_segments(empty: np.ndarray) -> tuple[list[Segment], list[Segment]]:
    """Find the runs of frames after an object disappeared, and after it appeared.

    A run that begins at the first counted frame is neither, so the first entry of an object that is absent at
    first is a reappearance.

    Args:
        empty: bool (N,), whether the truth has no pixel of the object.

    Returns:
        Disappearances and reappearances, each to its run's end.
    """
    starts = (np.flatnonzero(empty[1:] != empty[:-1]) + 1).tolist()
    runs = list(zip(starts, [*starts[1:], len(empty)], strict=False))
    return [run for run in runs if empty[run[0]]], [run for run in runs if not empty[run[0]]]


def disappearance_measures(scores: VideoMeasures, names: Sequence[str] = ("J", "F")) -> ObjectMeasures:
    """Compute the mean of each measure over an object's disappearances, and over its reappearances.

    Each run counts once, whatever its length.

    Args:
        scores: of one video, with `empty` and `frames`.
        names: of measures.

    Returns:
        `<name>_d_mean` and `<name>_r_mean`, (O,) each; nan where an object has no such run.
    """
    result: dict[str, list[float]] = {f"{name}_{kind}_mean": [] for name in names for kind in "dr"}
    frames = np.broadcast_to(scores["frames"], scores["empty"].shape)
    for i, counted in enumerate((frames >= 0).sum(axis=1).tolist()):
        for kind, runs in zip("dr", find_segments(scores["empty"][i, :counted]), strict=True):
            for name in names:
                run_means = [scores[name][i, begin:end].mean() for begin, end in runs]
                result[f"{name}_{kind}_mean"].append(mean(np.array(run_means)))
    return {name: np.array(values, dtype=float) for name, values in result.items()}


def summarize_disappearance(objects: ObjectMeasures, names: Sequence[str] = ("J", "F")) -> dict[str, float]:
    """Compute the means over objects that have such runs: `J&F_d` and `J&F_r`; nan where none has any.

    Args:
        objects: from `disappearance_measures`, of all videos.
        names: the two measures to average.
    """
    return {
        f"{'&'.join(names)}_{kind}": float(np.mean([mean(objects[f"{name}_{kind}_mean"]) for name in names]))
        for kind in "dr"
    }
