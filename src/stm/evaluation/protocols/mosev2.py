"""MOSEv2: J, F and Fdot (tolerance by object size), also over disappearances and reappearances.

The evaluator's own names hold what it computes, quirks included. The suffix `_corrected` marks DAVIS's J (the
evaluator adds 1 to intersection and union), and F and Fdot with a centered disk of integer radius.
"""

from __future__ import annotations

from math import ceil, inf, sqrt

import numpy as np

from stm.evaluation.metrics import contour_accuracies, crop, tolerance
from stm.evaluation.protocols.disappearance import disappearance_measures, summarize_disappearance
from stm.evaluation.protocols.protocol import (
    FrameScores,
    ObjectMeasures,
    Protocol,
    VideoMeasures,
    as_scored,
    mean,
    middle_frames,
)

MEASURES = ("J", "F", "Fdot", "J_corrected", "F_corrected", "Fdot_corrected")
RUN_MEASURES = ("J", "Fdot", "J_corrected", "Fdot_corrected")
"""Those whose means over disappearances and reappearances are reported."""


def score_frame(truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None) -> FrameScores:
    """Compute MOSEv2's measures of one object in one frame.

    Args:
        truth: bool (H, W).
        prediction: bool (H, W).
        void: ignored; void is background.

    Returns:
        `MEASURES`, `empty` and the radii in pixels that F and Fdot were taken with.
    """
    cap = tolerance(truth.shape)
    truth, prediction = crop(truth, prediction, None)
    area = np.count_nonzero(truth)
    intersection = np.count_nonzero(truth & prediction)
    union = area + np.count_nonzero(prediction) - intersection
    radius = ceil(0.1 * sqrt(area)) if area else inf
    # The evaluator rounds the cap up only where F and Fdot differ; otherwise both use the fractional cap.
    radius_fdot, radius_f = (radius, float(ceil(cap))) if radius < cap else (cap, cap)
    fdot, f_corrected = contour_accuracies(truth, prediction, (radius_fdot, float(ceil(cap))))
    return {
        "J": (intersection + 1) / (union + 1),
        "F": f_corrected if radius < cap else fdot,
        "Fdot": fdot,
        "J_corrected": intersection / union if union else 1.0,
        "F_corrected": f_corrected,
        "Fdot_corrected": fdot if radius < cap else f_corrected,
        "empty": not area,
        "radius_F": radius_f,
        "radius_Fdot": radius_fdot,
    }


def summarize_objects(scores: VideoMeasures) -> ObjectMeasures:
    """Compute each object's means over frames, disappearances and reappearances.

    Without counted frames the evaluator's means are 0, the corrected ones nan.
    """
    result = {}
    for name in MEASURES:
        nothing = np.nan if name.endswith("_corrected") else 0.0
        values = scores[name]
        result[f"{name}_mean"] = values.mean(axis=1) if values.shape[1] else np.full(len(values), nothing)
    return {**result, **disappearance_measures(scores, RUN_MEASURES)}


def summarize(objects: ObjectMeasures) -> dict[str, float]:
    """Compute the means over objects; the corrected ones' names end in `_corrected`."""
    return {
        f"{name}{suffix}": value
        for suffix in ("", "_corrected")
        for name, value in _overall(objects, suffix).items()
    }


def _overall(objects: ObjectMeasures, suffix: str) -> dict[str, float]:
    j, fdot, f = (mean(objects[f"{name}{suffix}_mean"]) for name in ("J", "Fdot", "F"))
    runs = summarize_disappearance(objects, (f"J{suffix}", f"Fdot{suffix}"))
    return {
        "J&Fdot": (j + fdot) / 2,
        "J": j,
        "Fdot": fdot,
        **dict(zip(("J&Fdot_d", "J&Fdot_r"), runs.values(), strict=True)),
        "F": f,
        "J&F": (j + f) / 2,
    }


MOSEV2 = Protocol(
    name="mosev2",
    headline="J&Fdot",
    measures=(*MEASURES, "empty", "radius_F", "radius_Fdot"),
    score_frame=score_frame,
    counted_frames=middle_frames,
    complete=as_scored,
    summarize_objects=summarize_objects,
    summarize=summarize,
    columns={name: name for name in ("J", "Fdot", "J&Fdot", "J&Fdot_d", "J&Fdot_r")},
)
