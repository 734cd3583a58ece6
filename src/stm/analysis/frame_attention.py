"""Attention of a frame to the memory, computed by segmenting the video again; the data of Figure 5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from stm.analysis.evaluation_results import EvaluationResults
from stm.evaluation.video_evaluator import (
    decode_frames,
    first_given,
    in_eval_mode,
    segmenter_for,
    video_name_in_errors,
)
from stm.inference.attention import upsample_map
from stm.inference.inputs import PreparedFrame
from stm.masks import object_ids
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import Video

Pixels = Sequence[tuple[int, int]]
"""(row, column) of each pixel."""


@dataclass(frozen=True)
class FrameAttention:
    """Attention of chosen pixels or an object in a frame to the memory frames.

    Attributes:
        video: Video.
        object: Object id.
        t: Query frame.
        pixels: Chosen pixels; empty for the whole object.
        region: Predicted mask of the object in the query frame, bool (H, W).
        maps: Memory frame -> weight of each pixel's cell, float (H, W), in order of time; the weights of all
            cells sum to 1.
        masks: Memory frame -> memorized mask of the object, bool (H, W).
        shares: Memory frame -> its share of the read.
        over_time: Query frame up to t -> memory frame -> its share, for the whole object; without frames in
            which the object was not found.
    """

    video: Video
    object: int
    t: int
    pixels: Pixels
    region: np.ndarray
    maps: dict[int, np.ndarray]
    masks: dict[int, np.ndarray]
    shares: dict[int, float]
    over_time: dict[int, dict[int, float]]


def attend_frame(
    network: STM,
    policy: MemoryPolicy,
    video: Video,
    label: int,
    t: int,
    pixels: Pixels = (),
    size: int | None = None,
) -> FrameAttention:
    """Segment a video up to frame t and return its attention to the memory.

    Args:
        network: Network on the device to use.
        policy: Memory policy.
        video: Video.
        label: Object id.
        t: A frame after the first frame of the object.
        pixels: Pixels of the frame at its own size, whose attention is averaged; by default the object's
            predicted mask.
        size: See `stm.evaluation.video_evaluator.segment_video`.

    Raises:
        ValueError: The object, frame or pixel does not exist, or the object is not found in the frame.
    """
    _validate_query(video, label, t, pixels)
    segmenter, start = segmenter_for(network, policy, video, size), first_given(video)
    masks: dict[int, np.ndarray] = {}
    over_time: dict[int, dict[int, float]] = {}
    with in_eval_mode(network), torch.inference_mode():
        for frame in decode_frames(video, segmenter):
            with video_name_in_errors(video, frame.t):
                assert isinstance(frame.prepared, PreparedFrame)  # of a single segmenter
                mask = segmenter.labels(segmenter.step(frame.prepared)) == label
                if frame.t > video.first_frames[label] and mask.any():
                    shares = segmenter.attention(label, mask).shares
                    over_time[frame.t] = {m + start: share for m, share in shares.items()}
                stored = {m + start for group in segmenter.memory_frames() for m in group}
                masks = {m: masks[m] for m in masks if m in stored} | {frame.t: mask}
            if frame.t == t:
                break
        if not pixels and not mask.any():
            raise ValueError(
                f"{video.name}: object {label} is not found in frame {video.frame_names[t]}; choose pixels "
                "or another frame"
            )
        shape = frame.prepared.shape
        attention = segmenter.attention(label, _pixel_counts(pixels, shape) if pixels else mask)
        *_, height, width = segmenter.network_probabilities.shape
    maps = {
        m + start: upsample_map(weights.float().cpu(), (height, width)).numpy()
        for m, weights in attention.maps.items()
    }
    return FrameAttention(
        video,
        label,
        t,
        tuple(pixels),
        mask,
        {m: _resize_nearest(weights, shape) for m, weights in maps.items()},
        {m: masks[m] for m in maps},
        {m + start: share for m, share in attention.shares.items()},
        over_time,
    )


def _pixel_counts(pixels: Pixels, shape: tuple[int, int]) -> np.ndarray:
    """Return how often each pixel of a frame (H, W) is chosen, float32."""
    counts = np.zeros(shape, np.float32)
    for row, column in pixels:
        counts[row, column] += 1
    return counts


def _resize_nearest(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(values, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _validate_query(video: Video, label: int, t: int, pixels: Pixels) -> None:
    if label not in video.first_frames:
        ids = ", ".join(map(str, sorted(video.first_frames)))
        raise ValueError(f"{video.name}: object={label}: must be one of {ids}")
    first = video.first_frames[label]
    if not first < t < len(video):
        raise ValueError(
            f"{video.name}: frame={t}: must be in {first + 1}..{len(video) - 1}, where object {label} reads "
            "the memory"
        )
    height, width = video.frame(t).shape[:2]
    for row, column in pixels:
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"pixel={row},{column}: must be ROW,COLUMN within {height},{width}")


def attend_frame_from_results(
    results: EvaluationResults,
    name: str,
    label: int | None = None,
    frame: str | None = None,
    pixels: Pixels = (),
) -> FrameAttention:
    """Compute the attention in a video of an evaluation, with its network, memory policy and size.

    Args:
        results: Results of the evaluation.
        name: Name of the video.
        label: Object id; by default the largest object.
        frame: Name of the query frame; by default one late in the video.
        pixels: See `attend_frame`.

    Raises:
        FileNotFoundError: The checkpoint no longer exists.
        ValueError: The checkpoint was replaced, or see `attend_frame`.
    """
    if name not in results.videos:
        names = ", ".join(results.videos) or "none, because the data no longer exist"
        raise ValueError(f"{results.folder}: sequence={name}: must be one of {names}")
    video = results.videos[name]
    if frame is not None and frame not in video.frame_names:
        first, last = video.frame_names[0], video.frame_names[-1]
        raise ValueError(f"{name}: frame={frame}: must be in {first} ... {last}")
    t = None if frame is None else video.frame_names.index(frame)
    if label is None or t is None:
        label, t = _find_largest(results, video, label, t)
    size = results.values["settings"]["size"]
    return attend_frame(results.network, results.policy, video, label, t, pixels, size)


def _find_largest(
    results: EvaluationResults, video: Video, label: int | None, t: int | None
) -> tuple[int, int]:
    """Return the largest object and a frame that shows it, as close to 3/4 of the video as possible."""
    first = min(video.first_frames.values(), default=0)
    frames = [frame for frame in video.output_frames if frame > first] if t is None else [t]
    target = first + 0.75 * (len(video) - first)
    for frame in sorted(frames, key=lambda frame: abs(frame - target)):
        areas = dict(_object_areas(results.mask(video, frame), video, frame))
        candidates = areas if label is None else areas.keys() & {label}
        if candidates:
            return max(candidates, key=lambda candidate: (areas[candidate], -candidate)), frame
    subject = "no object is" if label is None else f"object {label} is not"
    place = "any frame" if t is None else f"frame {video.frame_names[t]}"
    raise ValueError(f"{video.name}: {subject} found in {place} after its first frame")


def _object_areas(mask: np.ndarray, video: Video, t: int) -> Iterator[tuple[int, int]]:
    for label in object_ids(mask):
        if video.first_frames[label] < t:
            yield label, int((mask == label).sum())
