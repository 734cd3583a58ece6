"""A video's frames through the segmenter, one by one, without waiting for the device that computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stm.evaluation.scores import Prediction
from stm.inference import Confidence, Segmenter
from stm.inference.confidence import confidences_from_sums, mask_sums
from stm.inference.resize import resize_frame, resize_mask, resized_shape
from stm.masks import object_ids, restore_ids
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import Video


def segment_video(
    network: STM, policy: MemoryPolicy | None, video: Video, size: int | None = None
) -> Iterator[Prediction]:
    """Segment a video frame by frame, from the first given mask on; holds one frame at a time.

    The network is in eval mode meanwhile and without gradients.

    Args:
        network: on the device to compute on.
        policy: which frames are remembered.
        video: its given masks tell which objects enter, and when.
        size: short side in pixels at which the network sees the frames, None for their own. Probabilities are
            brought to the frame's own size before the likeliest label is taken.

    Yields:
        Frame number, and labels uint8 (H, W) with object ids at the frame's own size.
    """
    with in_eval_mode(network):
        segmenter = segmenter_for(network, policy, video)
        for frame in decode_frames(video, size, device_of(network)):
            yield frame.t, predict(segmenter, frame).labels()


def first_given(video: Video) -> int:
    """The first frame with a given mask: there the segmenter begins; the video's length if there is none."""
    return min(video.first_frames.values(), default=len(video))


def segmenter_for(network: STM, policy: MemoryPolicy | None, video: Video) -> Segmenter:
    """A segmenter that knows how many frames will come."""
    return Segmenter(network, policy, len(video) - first_given(video))


def device_of(network: STM) -> torch.device:
    return next(network.parameters()).device


@contextmanager
def in_eval_mode(network: STM) -> Iterator[None]:
    """Eval mode for a block; then the mode from before."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@contextmanager
def video_name_in_errors(video: Video, t: int) -> Iterator[None]:
    """Errors of the block tell which frame of which video they come from."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in video {video.name}, frame {video.frame_names[t]}")
        raise


@dataclass(frozen=True)
class DecodedFrame:
    """A frame that is ready for the segmenter.

    Attributes:
        t: its number.
        shape: its own height and width.
        given: its given mask at that size, uint8 (H, W); None if no object enters.
        seen: the frame at the network's size, uint8 (h, w, 3); for a GPU (3, h, w) in page-locked memory.
        seen_given: the given mask at that size.
    """

    t: int
    shape: tuple[int, int]
    prompt_mask: np.ndarray | None
    seen: np.ndarray | Tensor
    seen_given: np.ndarray | None


def decode_frames(video: Video, size: int | None, device: torch.device) -> Iterator[DecodedFrame]:
    """The frames from the first given mask on, at the size at which the network sees them."""
    for t in range(first_given(video), len(video)):
        with video_name_in_errors(video, t):
            frame, given = video.frame(t), video.prompt_mask(t)
            height, width = frame.shape[:2]
            shape = resized_shape((height, width), size)
            seen = resize_frame(frame, shape)
            seen_given = None if given is None else resize_mask(given, shape)
            ready = _page_locked(seen) if device.type == "cuda" else seen
        yield DecodedFrame(t, (height, width), given, ready, seen_given)


def _page_locked(frame: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (3, H, W) in memory from which a GPU copies while the host goes on."""
    locked = torch.empty(frame.shape, dtype=torch.uint8, pin_memory=True)
    locked.numpy()[:] = frame
    return locked.permute(2, 0, 1)


class DeviceTimestamp:
    """Now, in the order of a device's work: a GPU comes to it when it has done what was queued before.

    Its own clock then tells how long it took, waiting of the host for frames or threads left out.
    """

    def __init__(self, device: torch.device) -> None:
        self._time, self._event = perf_counter(), None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True, blocking=True)
            self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Until the device has come to it."""
        if self._event is not None:
            self._event.synchronize()

    def seconds_since(self, earlier: DeviceTimestamp) -> float:
        """Waits for the device."""
        if self._event is None or earlier._event is None:
            return self._time - earlier._time
        self.wait()
        return earlier._event.elapsed_time(self._event) / 1000


@dataclass(frozen=True)
class FramePrediction:
    """What the segmenter made of a frame; a GPU may still be at it until `ended`.

    Attributes:
        t: the frame's number.
        slots: uint8 (H, W) on the host, 1 + slot of the likeliest object.
        object_ids: slot -> object id.
        sums: (O, 3) on the host, what tells the confidence, at the network's size.
        given: the frame's given mask.
        began, ended: before and after.
    """

    t: int
    slots: Tensor
    object_ids: tuple[int, ...]
    sums: Tensor
    prompt_mask: np.ndarray | None
    began: DeviceTimestamp
    ended: DeviceTimestamp

    def labels(self) -> np.ndarray:
        """Labels uint8 (H, W) with object ids, as given where they are given; waits for the device."""
        self.ended.wait()
        labels = restore_ids(self.slots.numpy(), self.object_ids)
        if self.prompt_mask is not None:  # resizing blurred it
            labels = np.where(np.isin(labels, object_ids(self.prompt_mask)), 0, labels)
            labels = np.where(self.prompt_mask > 0, self.prompt_mask, labels)
        return labels

    def confidence(self) -> dict[int, Confidence]:
        """Object id -> confidence, without the objects whose mask was given; waits for the device."""
        self.ended.wait()
        told = () if self.prompt_mask is None else object_ids(self.prompt_mask)
        found = confidences_from_sums(self.sums, self.object_ids)
        return {label: sure for label, sure in found.items() if label not in told}


@torch.inference_mode()  # around each step and not around the loop: a generator's context leaks to its caller
def predict(segmenter: Segmenter, frame: DecodedFrame) -> FramePrediction:
    """Give the segmenter its next frame; the copies to a GPU and back are queued, nothing waits for it."""
    device = device_of(segmenter.network)
    began = DeviceTimestamp(device)
    seen = frame.seen.to(device, non_blocking=True) if isinstance(frame.seen, Tensor) else frame.seen
    probabilities = segmenter.step(seen, frame.seen_given)
    likeliest = probabilities.max(0).indices  # argmax(0) gives the same 10 times as slowly on a CPU
    sums = mask_sums(probabilities, likeliest).to("cpu", non_blocking=True)
    if probabilities.shape[-2:] != frame.shape:
        probabilities = F.interpolate(
            probabilities[None].float(), frame.shape, mode="bilinear", align_corners=False
        )[0]
        likeliest = probabilities.max(0).indices
    slots = likeliest.to(torch.uint8).to("cpu", non_blocking=True)
    return FramePrediction(
        frame.t, slots, tuple(segmenter.object_ids), sums, frame.prompt_mask, began, DeviceTimestamp(device)
    )
