"""VOST: J over all frames and over the last quarter (J_tr, which the evaluator prints as J_last).

The evaluator's own names hold what it computes, quirks included. `J_corrected` is J without void pixels, with
a decay that is also right beyond 256 frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stm.evaluation.metrics import region_similarity
from stm.evaluation.protocols.csv_tables import three_digits
from stm.evaluation.protocols.protocol import (
    FrameScores,
    ObjectMeasures,
    Protocol,
    VideoMeasures,
    as_scored,
    describe,
    middle_frames,
)
from stm.video import VOID

STATISTICS = ("mean", "recall", "decay")


def first_mask_objects(mask: np.ndarray) -> list[int]:
    """Return the objects that the evaluator scores: 1 to the largest id of the first mask, including gaps.

    Args:
        mask: (H, W) with object ids; void is not an object.
    """
    return list(range(1, int(np.where(mask == VOID, 0, mask).max()) + 1))


def score_frame(truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None) -> FrameScores:
    """Compute J of one object in one frame, with void as background, and J without void.

    Args:
        truth: bool (H, W).
        prediction: bool (H, W).
        void: bool (H, W), None where there is none.
    """
    j = float(region_similarity(truth[None], prediction[None])[0])
    corrected = j if void is None else float(region_similarity(truth[None], prediction[None], void[None])[0])
    return {"J": j, "J_corrected": corrected, "empty": not truth.any()}


def summarize_objects(scores: VideoMeasures) -> ObjectMeasures:
    """Compute mean, recall and decay of each object's J, over all frames and over the last quarter."""
    count = scores["J"].shape[1]
    parts = {"": slice(None), "_last": slice(int(np.floor(0.75 * count)), None)}
    return {
        f"{name}{part}_{statistic}": np.array(
            [
                getattr(describe(values[chosen], is_eight_bit=name == "J"), statistic)
                for values in scores[name]
            ]
        )
        for name in ("J", "J_corrected")
        for part, chosen in parts.items()
        for statistic in STATISTICS
    }


def summarize(objects: ObjectMeasures, is_in_first_mask: np.ndarray | None = None) -> dict[str, float]:
    """Compute the means over objects, those of the evaluator first.

    Args:
        objects: of all videos.
        is_in_first_mask: bool (O,). The evaluator also scores ids that the first mask lacks; the corrected
            means leave them out. None: all ids are in it.
    """
    keep = np.ones(len(objects["J_mean"]), bool) if is_in_first_mask is None else is_in_first_mask
    result = {}
    for name in ("J", "J_corrected"):
        for part in ("", "_last"):
            for statistic in STATISTICS:
                values = objects[f"{name}{part}_{statistic}"][keep if name == "J_corrected" else slice(None)]
                result[f"{name}{part}-{statistic.title()}"] = float(values.mean()) if len(values) else np.nan
    return result


def global_csv(overall: dict[str, float]) -> str:
    """Return the evaluator's table of the whole set."""
    names = [f"J{part}-{statistic.title()}" for part in ("", "_last") for statistic in STATISTICS]
    return three_digits({name: [overall[name]] for name in names})


def sequence_csv(names: Sequence[str], objects: ObjectMeasures) -> str:
    """Return the evaluator's table of the objects.

    Args:
        names: (O,), each `<sequence>_<object>`.
        objects: of all videos.
    """
    columns = {"J-Mean": objects["J_mean"], "J_last-Mean": objects["J_last_mean"]}
    return three_digits({"Sequence": names, **columns})


VOST = Protocol(
    name="vost",
    headline="J_last-Mean",
    measures=("J", "J_corrected", "empty"),
    score_frame=score_frame,
    counted_frames=middle_frames,
    complete=as_scored,
    summarize_objects=summarize_objects,
    summarize=summarize,
    columns={"J": "J-Mean", "J_tr": "J_last-Mean"},
)
