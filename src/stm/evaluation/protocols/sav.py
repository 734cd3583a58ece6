"""SA-V: J and F in percent, each object from the first frame that shows it in truth or prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from stm.evaluation.protocols.protocol import (
    FrameScores,
    ObjectMeasures,
    Protocol,
    VideoMeasures,
    davis_measures,
    mean,
    middle_frames,
)


def score_frame(truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None) -> FrameScores:
    """Compute DAVIS's J and F of one object in one frame; nan where neither mask shows it.

    Args:
        truth: bool (H, W).
        prediction: bool (H, W).
        void: ignored; void is background.
    """
    if not truth.any() and not prediction.any():
        return {"J": np.nan, "F": np.nan, "empty": True}
    return davis_measures(truth, prediction)


def complete(scores: VideoMeasures, frame_range: ArrayLike | None) -> VideoMeasures:
    """Set J and F to 1 on frames without the object, after the first frame that shows it in either mask."""
    is_counted = np.broadcast_to(scores["frames"], scores["J"].shape) >= 0
    was_shown = np.maximum.accumulate(~np.isnan(scores["J"]), axis=1) & is_counted
    filled = {name: np.where(was_shown & np.isnan(scores[name]), 1.0, scores[name]) for name in ("J", "F")}
    return {**scores, **filled, "in_ground_truth": np.asarray((~scores["empty"] & is_counted).any(axis=1))}


def summarize_objects(scores: VideoMeasures) -> ObjectMeasures:
    """Compute each object's J and F in percent; nan where the truth never shows it on a counted frame."""
    shown = scores["in_ground_truth"]
    return {
        f"{name}_mean": np.array(
            [
                100 * mean(row) if is_shown else np.nan
                for row, is_shown in zip(scores[name], shown, strict=True)
            ],
            dtype=float,
        )
        for name in ("J", "F")
    }


def summarize(objects: ObjectMeasures) -> dict[str, float]:
    """Compute the means in percent over the objects that the truth shows."""
    j, f = mean(objects["J_mean"]), mean(objects["F_mean"])
    return {"J&F": (j + f) / 2, "J": j, "F": f}


def results_csv(names: Sequence[tuple[str, str]], objects: ObjectMeasures) -> str:
    """Return the evaluator's table.

    Args:
        names: (O,), each the video and the object's folder.
        objects: of all videos.
    """
    width = max(len("Global score"), *(len(video) for video, _ in names))
    total = summarize(objects)
    lines = [f"{'sequence':<{width}},obj,  J&F,    J,    F"]
    lines += [f"{'Global score':<{width}},   ,{total['J&F']:5.1f},{total['J']:5.1f},{total['F']:5.1f}"]
    for (video, label), j, f in zip(names, objects["J_mean"], objects["F_mean"], strict=True):
        if not np.isnan(j):
            lines.append(f"{video:<{width}},{label:>3},{(j + f) / 2:5.1f},{j:5.1f},{f:5.1f}")
    return "\n".join(lines) + "\n"


SAV = Protocol(
    name="sav",
    headline="J&F",
    measures=("J", "F", "empty"),
    score_frame=score_frame,
    counted_frames=middle_frames,
    complete=complete,
    summarize_objects=summarize_objects,
    summarize=summarize,
    columns={name: name for name in ("J", "F", "J&F")},
    scale=100.0,
)
