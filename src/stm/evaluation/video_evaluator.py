"""A video through the segmenter, frame by frame, without waiting for the device; masks written and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stm.evaluation.calibration import tracks
from stm.evaluation.device_timestamp import DeviceTimestamp
from stm.evaluation.peak_memory import PeakMemory
from stm.evaluation.prefetch import BackgroundPool, prefetch
from stm.evaluation.scores import (
    ALL_BACKGROUND,
    COPY_FIRST,
    NETWORK,
    SequenceScores,
)
from stm.evaluation.tally import FrameLabels, Tally, copy_first
from stm.inference import Confidence, PreparedFrame, Segmenter
from stm.inference.confidence import confidences_from_sums, mask_sums
from stm.inference.ensemble import Augmentation, Ensemble, PreparedFrames
from stm.masks import object_ids, restore_ids, write_labels
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import Video

AHEAD = 3
"""Frames that are decoded before the network asks for them."""


def segment_video(
    network: STM, policy: MemoryPolicy | None, video: Video, size: int | None = None
) -> Iterator[FrameLabels]:
    """Segment a video frame by frame, from the first given mask on; hold one frame at a time.

    Meanwhile the network is in eval mode and without gradients.

    Args:
        network: on the device to compute on.
        policy: which frames are remembered.
        video: its given masks say which objects enter, and when.
        size: short side in pixels at which the network sees the frames; None for their own.

    Yields:
        Frame number, and labels (H, W) with object ids at the frame's own size.
    """
    with in_eval_mode(network):
        segmenter = segmenter_for(network, policy, video, size)
        for frame in decode_frames(video, segmenter):
            yield frame.t, predict(segmenter, frame).labels()


def first_given(video: Video) -> int:
    """Return the first frame with a given mask, where segmentation begins; the video's length without one."""
    return min(video.first_frames.values(), default=len(video))


def segmenter_for(
    network: STM, policy: MemoryPolicy | None, video: Video, size: int | None = None
) -> Segmenter:
    """Return a segmenter that knows how many frames the video has."""
    return Segmenter(network, policy, size, length=len(video) - first_given(video))


@contextmanager
def in_eval_mode(network: STM) -> Iterator[None]:
    """Put the network into eval mode for a block."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@contextmanager
def video_name_in_errors(video: Video, t: int) -> Iterator[None]:
    """Add the video's and the frame's name to errors of the block."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in video {video.name}, frame {video.frame_names[t]}")
        raise


@dataclass(frozen=True)
class DecodedFrame:
    """A frame of a video, ready for the segmenter.

    Attributes:
        t: the frame's number.
        prepared: the frame and the mask given at it, at the network's size.
    """

    t: int
    prepared: PreparedFrame | PreparedFrames


def decode_frames(video: Video, segmenter: Segmenter | Ensemble) -> Iterator[DecodedFrame]:
    """Yield the frames from the first given mask on, at the size at which the network sees them."""
    for t in range(first_given(video), len(video)):
        with video_name_in_errors(video, t):
            prepared = segmenter.prepare(video.frame(t), video.prompt_mask(t))
        yield DecodedFrame(t, prepared)


@dataclass(frozen=True)
class FramePrediction:
    """The segmenter's result of a frame, which a GPU may still compute until `ended`.

    Attributes:
        t: the frame's number.
        slots: integers (H, W) on the host, 1 + slot of the likeliest object at the frame's own size.
        object_ids: slot -> object id.
        given_ids: the objects whose mask was given at this frame.
        sums: (O, 3) on the host, from which confidences are computed, at the network's size.
        score_exponent: of the network.
        began: before the frame.
        ended: after it.
    """

    t: int
    slots: Tensor
    object_ids: tuple[int, ...]
    given_ids: tuple[int, ...]
    sums: Tensor
    score_exponent: float
    began: DeviceTimestamp
    ended: DeviceTimestamp

    def labels(self) -> np.ndarray:
        """Return labels (H, W) with object ids; wait for the device."""
        self.ended.wait()
        return restore_ids(self.slots.numpy(), self.object_ids)

    def confidence(self) -> dict[int, Confidence]:
        """Return object id -> confidence of the objects whose mask was not given; wait for the device."""
        self.ended.wait()
        confidences = confidences_from_sums(self.sums, self.object_ids, self.score_exponent)
        return {label: value for label, value in confidences.items() if label not in self.given_ids}


@torch.inference_mode()  # around each step and not around the loop: a generator's context leaks to its caller
def predict(segmenter: Segmenter | Ensemble, frame: DecodedFrame) -> FramePrediction:
    """Segment the next frame; copies to a GPU and back are queued, and nothing waits for them."""
    device, prompt = segmenter.network.mean.device, frame.prepared.full_mask
    began = DeviceTimestamp(device)
    probabilities = segmenter.step(frame.prepared)  # type: ignore[arg-type]  # of the same segmenter
    likeliest = probabilities.max(0).indices  # argmax(0) gives the same 10 times as slowly on a CPU
    at_network_size = segmenter.network_probabilities[0]
    sums = mask_sums(at_network_size, likeliest if at_network_size.shape == probabilities.shape else None)
    return FramePrediction(
        frame.t,
        likeliest.to(torch.uint8 if len(probabilities) <= 256 else torch.int16).to("cpu", non_blocking=True),
        tuple(segmenter.object_ids),
        tuple(object_ids(prompt)) if isinstance(prompt, np.ndarray) else (),
        sums.to("cpu", non_blocking=True),
        segmenter.network.score_exponent,
        began,
        DeviceTimestamp(device),
    )


class VideoEvaluator:
    """Segments a video, writes its masks and scores them; holds no more than some tens of frames.

    Args:
        video: to be segmented.
        protocol: which frames and objects count, see `stm.evaluation.tally.scored_frames`.
        baselines: score copy-first and all-background beside.
        masks: the folder for masks, `<frame>.png`; None to write none.
    """

    def __init__(self, video: Video, protocol: str, baselines: bool, masks: Path | None) -> None:
        self.video, self.masks = video, masks
        names = (NETWORK, COPY_FIRST, ALL_BACKGROUND) if baselines else (NETWORK,)
        self._tallies = {name: Tally(video, protocol) for name in names}
        self._written = set() if masks is None else set(video.output_frames)
        self._seconds: list[float] = []
        self._confidence: dict[int, dict[int, Confidence]] = {}  # of each frame, of each object
        self._peak_bytes = 0
        self._tasks: list[Future[None]] = []

    def segment(
        self,
        network: STM,
        policy: MemoryPolicy | None,
        size: int | None,
        later: BackgroundPool,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Segment all frames; writing and scoring each is a task of the pool, which may end in any order.

        Args:
            network: on the device to compute on; in eval mode meanwhile.
            policy: which frames are remembered.
            size: short side in pixels at which the network sees the frames, None for their own.
            later: runs the tasks.
            augmentation: what is averaged at test time; None for the network alone.
        """
        video = self.video
        for t in sorted(t for t in self._written if t < first_given(video)):  # no object is known yet
            self._submit(later, self._blank, t)
        peak = PeakMemory(network.mean.device)
        segmenter: Segmenter | Ensemble = segmenter_for(network, policy, video, size)
        if augmentation is not None:
            segmenter = augmentation.segmenter(network, policy, size, length=len(video) - first_given(video))
        decoded = zip(decode_frames(video, segmenter), copy_first(video), strict=True)
        frames = prefetch(decoded, AHEAD if later.workers else 0)
        with in_eval_mode(network), closing(frames):
            for frame, (_, copied) in frames:
                with video_name_in_errors(video, frame.t):
                    predicted = predict(segmenter, frame)
                self._submit(later, self._take, frame.t, predicted, copied)
        self._peak_bytes = peak.bytes()

    def scores(self) -> SequenceScores:
        """Return the video's scores; wait for open tasks and raise what one of them raised."""
        for task in self._tasks:
            task.result()
        objects = {name: tally.objects() for name, tally in self._tallies.items()}
        return SequenceScores(
            self.video.name,
            len(self.video),
            len(self._seconds),
            sum(self._seconds),
            self._peak_bytes,
            objects.pop(NETWORK),
            objects,
            tracks(self._confidence),
        )

    def _submit(self, later: BackgroundPool, task: Callable[..., None], *arguments: object) -> None:
        # finished tasks without an error are dropped: their results are recorded already
        self._tasks = [task for task in self._tasks if not task.done() or task.exception()]
        self._tasks.append(later.submit(task, *arguments))

    def _blank(self, t: int) -> None:
        with video_name_in_errors(self.video, t):
            self._write(t, np.zeros(self.video.frame(t).shape[:2], dtype=np.uint8))

    def _take(self, t: int, predicted: FramePrediction, copied: np.ndarray) -> None:
        """Write and score one frame's labels."""
        with video_name_in_errors(self.video, t):
            labels = predicted.labels()
            self._seconds.append(predicted.ended.seconds_since(predicted.began))
            self._confidence[t] = predicted.confidence()
            if t in self._written:
                self._write(t, labels)
            if t in self._tallies[NETWORK].frames:
                truth = self.video.truth(t)
                predictions = {NETWORK: labels, COPY_FIRST: copied, ALL_BACKGROUND: np.zeros_like(labels)}
                for name, tally in self._tallies.items():
                    tally.add(t, predictions[name], truth)

    def _write(self, t: int, labels: np.ndarray) -> None:
        assert self.masks is not None
        write_labels(self.masks, self.video, t, labels)
