"""LVOS: J, F and the variability V over each object's own range of frames, for seen and unseen videos.

The evaluator's own names hold what it computes, quirks included. The suffix `_corrected` marks the same
measures over frames that exist, and V without rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from stm.evaluation.protocols.csv_tables import three_digits
from stm.evaluation.protocols.protocol import (
    ObjectMeasures,
    Protocol,
    VideoMeasures,
    davis_measures,
    describe,
    mean,
)

COLUMNS = {"J": "J_mean", "F": "F_mean", "V": "V"}
STEP, FIRST = 5, 1
"""Files are numbered 1, 6, 11, ...: the frame t of a video is file FIRST + STEP t."""


def counted_files(start: int, end: int, frame_nums: int) -> list[int]:
    """Return the numbers of the files an object is scored on.

    Args:
        start: file that introduces the object.
        end: file before which its range ends.
        frame_nums: number of its frames, including the two that do not count.

    Returns:
        A list of frame_nums - 2, with -1 where the range has fewer files.

    Raises:
        ValueError: the range has more files than frame_nums says.
    """
    files = [file for k, file in enumerate(range(start, end, STEP)) if k not in (0, frame_nums - 1)]
    unfilled = frame_nums - 2 - len(files)
    if frame_nums < 2 or unfilled < 0:
        raise ValueError(
            f"frame_range=({start}, {end}, {frame_nums}): must have frame_nums >= {len(files) + 2} for files "
            f"{start} to {end} by steps of {STEP}; got {frame_nums}"
        )
    return files + [-1] * unfilled


def counted_frames(length: int, objects: int, frame_range: ArrayLike | None) -> np.ndarray:
    """Return the frames that each object is scored on.

    Args:
        length: number of frames of the video, the t-th being file 1 + 5 t.
        objects: their number O.
        frame_range: (O, 3), start, end and frame_nums of each object; None for the whole video.

    Returns:
        int (O, N), -1 where an object has none.

    Raises:
        ValueError: a range does not fit the video.
    """
    ranges = _ranges(length, objects, frame_range)
    rows = [counted_files(*row) for row in ranges]
    frames = np.full((objects, max(map(len, rows), default=0)), -1, dtype=np.int64)
    for i, row in enumerate(rows):
        files = np.array([file for file in row if file >= 0], dtype=np.int64)
        numbers, rest = np.divmod(files - FIRST, STEP)
        if rest.any() or ((numbers < 0) | (numbers >= length)).any():
            last = FIRST + STEP * (length - 1)
            raise ValueError(
                f"frame_range={tuple(ranges[i])}: must name files {FIRST}, {FIRST + STEP}, ..., {last} of "
                f"{length} frames; got {files.tolist()}"
            )
        frames[i, : len(numbers)] = numbers
    return frames


def complete(scores: VideoMeasures, frame_range: ArrayLike | None) -> VideoMeasures:
    """Set the scores that the evaluator leaves 0: frames that frame_nums counts but the range lacks."""
    if frame_range is None:
        return scores
    lengths = np.asarray(frame_range).astype(np.int64).reshape(-1, 3)[:, 2:] - 2
    unfilled = (scores["frames"] < 0) & (np.arange(scores["frames"].shape[1]) < lengths)
    return {**scores, **{name: np.where(unfilled, 0.0, scores[name]) for name in ("J", "F")}}


def summarize_objects(scores: VideoMeasures) -> ObjectMeasures:
    """Compute each object's J, F and V.

    The evaluator computes decay over an axis of length 1, so it is 0; it is not reported.
    """
    rows = [
        _summarize_object(*values) for values in zip(scores["J"], scores["F"], scores["frames"], strict=True)
    ]
    names = _summarize_object(*np.empty((3, 0)))
    return {name: np.array([row[name] for row in rows], dtype=float) for name in names}


def summarize(objects: ObjectMeasures, is_unseen: ArrayLike) -> dict[str, float]:
    """Compute the means over seen and over unseen objects, and the means of both.

    Args:
        objects: of all videos.
        is_unseen: bool (O,), whether the object's video is on the evaluator's list of unseen ones.

    Returns:
        The evaluator's measures and, ending in `_corrected`, the same of the corrected values. Without seen
        (or unseen) objects that half and the overall means are nan; the corrected means are then those of
        the other half.
    """
    unseen = np.asarray(is_unseen, dtype=bool)
    return {
        f"{name}{suffix}": value
        for suffix in ("", "_corrected")
        for name, value in _overall(objects, unseen, suffix).items()
    }


def summarize_part(objects: ObjectMeasures, is_unseen: ArrayLike = ()) -> dict[str, float]:
    """Compute the means over the objects of one video, which is either seen or unseen."""
    values = {f"{name}-Mean": mean(objects[column]) for name, column in COLUMNS.items()}
    return {"J&F-Mean": (values["J-Mean"] + values["F-Mean"]) / 2, **values}


def global_csv(overall: dict[str, float]) -> str:
    """Return the evaluator's table of the whole set."""
    return three_digits({name: [value] for name, value in overall.items() if name.endswith("-Mean")})


def sequence_csv(names: Sequence[str], objects: ObjectMeasures) -> str:
    """Return the evaluator's table of the objects.

    Args:
        names: (O,), each `<video>_<k>` with the object's position k = 1, 2, ... in the video's list.
        objects: of all videos.
    """
    columns = {"J-Mean": objects["J_mean"], "F-Mean": objects["F_mean"], "V-Mean": objects["V"]}
    return three_digits({"Sequence": names, **columns})


def _ranges(length: int, objects: int, frame_range: ArrayLike | None) -> list[list[int]]:
    if frame_range is None:
        return [[FIRST, FIRST + STEP * length, max(length, 2)]] * objects
    ranges = np.asarray(frame_range).astype(np.int64)
    if ranges.size == 0 and objects == 0:
        return []
    if ranges.shape != (objects, 3):
        raise ValueError(
            f"frame_range={ranges.tolist()}: must be start, end and frame_nums of each object, "
            f"({objects}, 3); got {ranges.shape}"
        )
    return list(ranges.tolist())


def _summarize_object(j: np.ndarray, f: np.ndarray, frames: np.ndarray) -> dict[str, float]:
    is_listed, is_filled = ~np.isnan(j), frames >= 0
    result: dict[str, float] = {}
    for suffix, chosen in (("", is_listed), ("_corrected", is_filled)):
        for name, values in (("J", j[chosen]), ("F", f[chosen])):
            result[f"{name}{suffix}_mean"], result[f"{name}{suffix}_recall"], decay = describe(values)
            result[f"{name}{suffix}_decay"] = decay if suffix else 0.0
        x = (j[chosen] + f[chosen]) / 2
        variance = mean((mean(x) - x) ** 2)
        result[f"V{suffix}"] = float(np.sqrt(variance if suffix else np.round(variance, 4)))
    return result


def _overall(objects: ObjectMeasures, unseen: np.ndarray, suffix: str) -> dict[str, float]:
    result = {}
    for name, column in zip(COLUMNS, (f"J{suffix}_mean", f"F{suffix}_mean", f"V{suffix}"), strict=True):
        halves = [mean(objects[column][half]) for half in (~unseen, unseen)]
        result[f"{name}-Mean"] = mean(np.array(halves)) if suffix else float(np.mean(halves))
        result[f"{name}-seen-Mean"], result[f"{name}-unseen-Mean"] = halves
    return {"J&F-Mean": (result["J-Mean"] + result["F-Mean"]) / 2, **result}


LVOS = Protocol(
    name="lvos",
    headline="J&F-Mean",
    measures=("J", "F", "empty"),
    score_frame=lambda truth, prediction, void: davis_measures(truth, prediction),
    counted_frames=counted_frames,
    complete=complete,
    summarize_objects=summarize_objects,
    summarize=summarize,
    columns={
        **{name: f"{name}-Mean" for name in ("J", "F", "V", "J&F")},
        "J&F_d": "J&F_d",
        "J&F_r": "J&F_r",
    },
    summarize_part=summarize_part,
)
