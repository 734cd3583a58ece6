"""DAVIS: J and F with mean, recall and decay; void is ignored."""

from __future__ import annotations

import numpy as np

from stm.evaluation.protocols.protocol import (
    ObjectMeasures,
    Protocol,
    VideoMeasures,
    as_scored,
    davis_measures,
    describe,
    mean,
    middle_frames,
)


def summarize_objects(scores: VideoMeasures) -> ObjectMeasures:
    """Compute mean, recall and decay of each object's J and F."""
    return {
        f"{name}_{statistic}": np.array([getattr(describe(values), statistic) for values in scores[name]])
        for name in ("J", "F")
        for statistic in ("mean", "recall", "decay")
    }


def summarize(objects: ObjectMeasures) -> dict[str, float]:
    """Compute the means over objects under the names that DAVIS's evaluation prints."""
    values = {
        f"{name}-{statistic.title()}": mean(objects[f"{name}_{statistic}"])
        for name in ("J", "F")
        for statistic in ("mean", "recall", "decay")
    }
    return {"J&F-Mean": (values["J-Mean"] + values["F-Mean"]) / 2, **values}


DAVIS = Protocol(
    name="davis",
    headline="J&F-Mean",
    measures=("J", "F", "empty"),
    score_frame=davis_measures,
    counted_frames=middle_frames,
    complete=as_scored,
    summarize_objects=summarize_objects,
    summarize=summarize,
    columns={"J": "J-Mean", "F": "F-Mean", "J&F": "J&F-Mean", "J&F_d": "J&F_d", "J&F_r": "J&F_r"},
)
