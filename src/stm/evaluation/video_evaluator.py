"""One video of a benchmark: the network goes through its frames, masks and scores are made behind it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import numpy as np

from stm.evaluation.calibration import tracks
from stm.evaluation.peak_memory import PeakMemory
from stm.evaluation.prefetch import BackgroundPool, prefetch
from stm.evaluation.scores import (
    ALL_BACKGROUND,
    COPY_FIRST,
    NETWORK,
    SequenceScores,
    Tally,
    copy_first,
)
from stm.evaluation.segmenting import (
    FramePrediction,
    decode_frames,
    device_of,
    first_given,
    in_eval_mode,
    predict,
    segmenter_for,
    video_name_in_errors,
)
from stm.inference import Confidence
from stm.masks import write_mask
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import Video

AHEAD = 3
"""Frames that are decoded before the network asks for them."""


class VideoEvaluator:
    """Segments a video, writes its masks and scores them; no more than some tens of frames stand in memory.

    Args:
        video: to be segmented.
        protocol: which frames and objects count, see `stm.evaluation.scores.frames_that_count`.
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
        self, network: STM, policy: MemoryPolicy | None, size: int | None, later: BackgroundPool
    ) -> None:
        """Give the network all frames; what comes of each is a task for later, and they end in any order.

        Args:
            network: on the device to compute on; in eval mode meanwhile.
            policy: which frames are remembered.
            size: short side in pixels at which the network sees the frames, None for their own.
            later: does the tasks.
        """
        device, video = device_of(network), self.video
        for t in sorted(t for t in self._written if t < first_given(video)):  # no object is known yet
            self._submit(later, self._blank, t)
        peak, segmenter = PeakMemory(device), segmenter_for(network, policy, video)
        frames = prefetch(
            zip(decode_frames(video, size, device), copy_first(video), strict=True),
            AHEAD if later.workers else 0,
        )
        with in_eval_mode(network), closing(frames):
            for frame, (_, copied) in frames:
                with video_name_in_errors(video, frame.t):
                    predicted = predict(segmenter, frame)
                self._submit(later, self._take, frame.t, predicted, copied)
        self._peak_bytes = peak.bytes()

    def scores(self) -> SequenceScores:
        """What came of it; waits for the tasks that are still open, and raises what one of them raised."""
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
        # those that are done without an error need not be asked again
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
            truth = self.video.mask(t) if t in self._tallies[NETWORK].frames else None
            if truth is not None:
                predictions = {NETWORK: labels, COPY_FIRST: copied, ALL_BACKGROUND: np.zeros_like(labels)}
                for name, tally in self._tallies.items():
                    tally.add(t, predictions[name], truth)

    def _write(self, t: int, labels: np.ndarray) -> None:
        assert self.masks is not None
        write_mask(self.masks / f"{self.video.frame_names[t]}.png", labels)
