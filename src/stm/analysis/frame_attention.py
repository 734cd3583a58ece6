"""A video segmented again, to see where in memory an object is looked up: what figure 5 is drawn from."""

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
from stm.masks import object_ids
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import Video

Pixels = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class FrameAttention:
    """Where in memory did chosen pixels of a frame look for an object?

    Attributes:
        video, object, t: which object of which frame.
        pixels: (row, column) each, where pixels were chosen; empty for the whole object.
        region: bool (H, W), the object as it was found in the frame.
        maps: memory frame -> float (H, W), the weight of each pixel's cell, in order of time; all cells'
            weights together are 1.
        masks: memory frame -> bool (H, W), the object as it was memorized.
        shares: memory frame -> its share of all that was read.
        over_time: query frame up to t -> memory frame -> its share, of the whole object. Frames in which it
            was not found are not there.
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
    """Segment a video up to frame t, and see where in memory it looks.

    Args:
        network: on the device to compute on.
        label: an object's id.
        t: a frame after the one in which the object enters.
        pixels: (row, column) each, of the frame at its own size; of several it is the mean. The object, as it
            is found there, if none is given.
        size: see `stm.evaluation.video_evaluator.segment_video`.

    Raises:
        ValueError: there is no such object, frame or pixel, or the object is not found in the frame.
    """
    _check(video, label, t, pixels)
    segmenter, begin = segmenter_for(network, policy, video, size), first_given(video)
    masks: dict[int, np.ndarray] = {}
    over_time: dict[int, dict[int, float]] = {}
    with in_eval_mode(network), torch.inference_mode():
        for frame in decode_frames(video, segmenter):
            with video_name_in_errors(video, frame.t):
                found = segmenter.labels(segmenter.step(frame.prepared)) == label
                if frame.t > video.first_frames[label] and found.any():
                    shares = segmenter.attention(label, found).shares
                    over_time[frame.t] = {m + begin: share for m, share in shares.items()}
                held = {m + begin for group in segmenter.memory_frames() for m in group}
                masks = {m: mask for m, mask in masks.items() if m in held} | {frame.t: found}
            if frame.t == t:
                break
        if not pixels and not found.any():
            raise ValueError(
                f"{video.name}: object {label} is found nowhere in frame {video.frame_names[t]}; choose "
                "pixels, or another frame"
            )
        shape = frame.prepared.shape
        attention = segmenter.attention(label, _region(pixels, shape) if pixels else found)
        *_, height, width = segmenter.network_probabilities.shape
    maps = {m + begin: upsample_map(w.float().cpu(), (height, width)).numpy() for m, w in attention.maps.items()}
    return FrameAttention(
        video,
        label,
        t,
        tuple(pixels),
        found,
        {m: _at_size(weights, shape) for m, weights in maps.items()},
        {m: masks[m] for m in maps},
        {m + begin: share for m, share in attention.shares.items()},
        over_time,
    )


def _region(pixels: Pixels, shape: tuple[int, int]) -> np.ndarray:
    """Return how often each pixel of a frame (H, W) is chosen, float32."""
    region = np.zeros(shape, np.float32)
    for row, column in pixels:
        region[row, column] += 1
    return region


def _at_size(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Values (h, w) at another (H, W), none of them new."""
    plain = values.astype(np.uint8) if values.dtype == bool else values
    return cv2.resize(plain, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(values.dtype)


def _check(video: Video, label: int, t: int, pixels: Pixels) -> None:
    if label not in video.first_frames:
        raise ValueError(f"{video.name}: there is no object {label}; there are {sorted(video.first_frames)}")
    entry = video.first_frames[label]
    if not entry < t < len(video):
        raise ValueError(
            f"{video.name}: object {label} is looked up in frames {entry + 1}..{len(video) - 1}, not in {t}"
        )
    height, width = video.frame(t).shape[:2]
    for row, column in pixels:
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"pixel {row},{column}: a pixel is ROW,COLUMN within {height},{width}")


def attend_frame_from_results(
    opened: EvaluationResults,
    name: str,
    label: int | None = None,
    frame: str | None = None,
    pixels: Pixels = (),
) -> FrameAttention:
    """The same of a video of an evaluation, with its network, memory and size.

    Args:
        name: the video's.
        label: the object; by default the largest.
        frame: the name of the frame that looks; by default one late in the video.

    Raises:
        FileNotFoundError: the checkpoint is no longer there.
        ValueError: it is another one now, or as `attend_frame` says.
    """
    if name not in opened.videos:
        there = ", ".join(opened.videos) or "none: the data are no longer where they were"
        raise ValueError(f"{opened.folder}: there is no video {name!r}; there are {there}")
    video = opened.videos[name]
    if frame is not None and frame not in video.frame_names:
        names = video.frame_names
        raise ValueError(f"{name}: there is no frame {frame!r}; there are {names[0]} ... {names[-1]}")
    t = None if frame is None else video.frame_names.index(frame)
    if label is None or t is None:
        label, t = _largest(opened, video, label, t)
    return attend_frame(
        opened.network, opened.policy, video, label, t, pixels, opened.values["settings"]["size"]
    )


def _largest(opened: EvaluationResults, video: Video, label: int | None, t: int | None) -> tuple[int, int]:
    """The object with the most pixels in a frame, that at three quarters of the video if it shows any."""
    first = min(video.first_frames.values(), default=0)
    frames = [one for one in video.output_frames if one > first] if t is None else [t]
    goal = first + 0.75 * (len(video) - first)
    for frame in sorted(frames, key=lambda one: abs(one - goal)):
        areas = dict(_areas(opened.mask(video, frame), video, frame))
        known = areas if label is None else {label: areas[label]} if label in areas else {}
        if known:
            return max(known, key=lambda one: (known[one], -one)), frame
    what = "no object is" if label is None else f"object {label} is not"
    where = "any frame" if t is None else f"frame {video.frame_names[t]}"
    raise ValueError(f"{video.name}: {what} found in {where} after the one that it enters at")


def _areas(mask: np.ndarray, video: Video, t: int) -> Iterator[tuple[int, int]]:
    for label in object_ids(mask):
        if video.first_frames[label] < t:
            yield label, int((mask == label).sum())
