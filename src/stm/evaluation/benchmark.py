"""Segment the videos of a benchmark, score them, and write masks, overlays and scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch.nn import functional as F

from stm.clip import Video
from stm.evaluation.overlays import draw
from stm.evaluation.peak import PeakMemory
from stm.evaluation.scores import (
    ALL_BACKGROUND,
    COPY_FIRST,
    NETWORK,
    PROTOCOLS,
    Prediction,
    Scores,
    SequenceScores,
    Tally,
    copy_first,
)
from stm.evaluation.tables import write_scores, write_whole
from stm.masks import object_ids, write_mask
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.segmenter import Segmenter


@dataclass(frozen=True)
class Benchmark:
    """Which videos are scored, and how?

    Args:
        name: such as `davis2017`; stands with the scores.
        videos: what is segmented; names are unique.
        size: short side in pixels at which the network sees the frames, None for their own. Masks are
            written and scored at the frames' own size.
        protocol: which frames and objects count, `davis`, `youtube` or `all`; see
            `stm.evaluation.scores.frames_that_count`.
        seen: categories that training saw, for the G of YouTube-VOS.
        source: which files the videos are, such as a folder; results of others are not taken up.

    Raises:
        ValueError: the protocol is unknown, or the size less than 1.
    """

    name: str
    videos: Sequence[Video]
    size: int | None = None
    protocol: str = "davis"
    seen: frozenset[str] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(
                f"benchmark.protocol={self.protocol!r} is unknown; allowed: {', '.join(PROTOCOLS)}"
            )
        if self.size is not None and self.size < 1:
            raise ValueError(
                f"benchmark.size={self.size}: must be at least 1, or null for the frames' own size"
            )


class _Step(NamedTuple):
    t: int
    labels: np.ndarray
    seconds: float


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
    for step in _steps(network, policy, video, size):
        yield step.t, step.labels


def _steps(network: STM, policy: MemoryPolicy | None, video: Video, size: int | None) -> Iterator[_Step]:
    first = min(video.entries.values(), default=len(video))
    training = network.training
    network.eval()
    try:
        segmenter = Segmenter(network, policy)
        for t in range(first, len(video)):
            frame, given = video.frame(t), video.given(t)
            began = perf_counter()
            labels = _labels(segmenter, frame, given, size)
            yield _Step(t, labels, perf_counter() - began)
    finally:
        network.train(training)


@torch.inference_mode()  # around each step and not around the loop: a generator's context leaks to its caller
def _labels(
    segmenter: Segmenter, frame: np.ndarray, given: np.ndarray | None, size: int | None
) -> np.ndarray:
    """One frame at the network's size -> labels at the frame's own, as given where they are given."""
    height, width = frame.shape[:2]
    seen, seen_mask = frame, given
    if size is not None and size != min(height, width):
        scale = size / min(height, width)
        seen_size = max(1, round(width * scale)), max(1, round(height * scale))
        seen = cv2.resize(frame, seen_size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        seen_mask = None if given is None else _resized(given, seen_size)
    probabilities = segmenter.step(seen, seen_mask)
    if probabilities.shape[-2:] != (height, width):
        probabilities = F.interpolate(
            probabilities[None].float(), (height, width), mode="bilinear", align_corners=False
        )[0]
    labels = segmenter.labels(probabilities)
    if given is not None:  # resizing blurred it
        labels = np.where(np.isin(labels, object_ids(given)), 0, labels)
        labels = np.where(given > 0, given, labels)
    return labels


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An index mask at another size (width, height); an object too small for it keeps one pixel."""
    resized = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    for label in sorted(set(object_ids(mask)) - set(object_ids(resized))):
        row, column = (int(np.median(places)) for places in np.nonzero(mask == label))
        resized[row * size[1] // mask.shape[0], column * size[0] // mask.shape[1]] = label
    return resized


def validate(network: STM, policy: MemoryPolicy | None, benchmark: Benchmark) -> Scores:
    """Score a network in memory, writing nothing: what training calls. No baselines, no progress bar."""
    return evaluate(network, policy, benchmark, baselines=False, progress=False)


def evaluate(
    network: STM,
    policy: MemoryPolicy | None,
    benchmark: Benchmark,
    output: str | Path | None = None,
    *,
    checkpoint: str = "",
    overlays: bool = True,
    video: bool = False,
    baselines: bool = True,
    progress: bool = True,
) -> Scores:
    """Run a network over a benchmark, score it beside the baselines, and write what came out.

    A sequence is finished when `sequences/<name>.json` is there, which is written last. Finished sequences
    are kept, so that the same call goes on where it was interrupted.

    Args:
        network: on the device to compute on.
        policy: which frames are remembered; None for the paper's.
        benchmark: videos, size and protocol.
        output: folder for masks/<video>/<frame>.png, scores.csv, scores.json, overlays/ and sequences/; None
            to write nothing.
        checkpoint: what the weights are, such as a path with a hash; stands with the scores.
        overlays: write a sheet of five frames for each sequence.
        video: write an MP4 for each sequence.
        baselines: score copy-first and all-background beside.
        progress: show a progress bar.

    Raises:
        ValueError: the folder holds results of other settings, or two videos have one name.
    """
    policy = policy or MemoryPolicy()
    settings = {
        "benchmark": benchmark.name,
        "source": benchmark.source,
        "protocol": benchmark.protocol,
        "size": benchmark.size,
        "policy": _plain(policy),
        "checkpoint": checkpoint,
    }
    output = None if output is None else Path(output)
    finished = {} if output is None else _finished(output, settings)
    done: dict[str, SequenceScores] = {}
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        disable=not progress,
    )
    with bar:
        task = bar.add_task(benchmark.name, total=len(benchmark.videos))
        for one in benchmark.videos:
            if one.name in done:
                raise ValueError(f"{benchmark.name}: two videos are named {one.name!r}; names must be unique")
            sequence = finished.get(one.name)
            again = sequence is None or sequence.length != len(one) or (baselines and not sequence.baselines)
            if sequence is None or again:
                bar.update(task, description=f"{benchmark.name}: {one.name} ({len(one)} frames)")
                sequence = _run(network, policy, benchmark, one, output, baselines)
                if output is not None:
                    values = {"settings": settings, **sequence.to_dict()}
                    write_whole(output / "sequences" / f"{one.name}.json", json.dumps(values))
            if output is not None:
                draw(one, output, sequence, overlays, video, again)
            done[one.name] = sequence
            bar.advance(task)
    scores = Scores(settings, tuple(done.values()), benchmark.seen, output)
    if output is not None:
        write_scores(scores, output)
    return scores


def _plain(policy: MemoryPolicy) -> Any:
    """As it comes back from JSON, so that it compares equal."""
    return json.loads(json.dumps(asdict(policy)))


def _finished(output: Path, settings: Mapping[str, Any]) -> dict[str, SequenceScores]:
    """The sequences that an earlier run with the same settings finished."""
    found = {}
    for path in sorted((output / "sequences").glob("*.json")):
        values = json.loads(path.read_text())
        of_path = values.pop("settings")
        differing = [
            f"{key} {of_path.get(key)} != {settings[key]}"
            for key in settings
            if of_path.get(key, settings[key]) != settings[key]
        ]
        if differing:
            raise ValueError(
                f"{path} comes from other settings ({'; '.join(differing)}): choose another output folder "
                f"(evaluate.py: name=NEW_NAME), or delete {output} to start again"
            )
        sequence = SequenceScores.from_dict(values)
        found[sequence.name] = sequence
    return found


def _run(
    network: STM,
    policy: MemoryPolicy,
    benchmark: Benchmark,
    video: Video,
    output: Path | None,
    baselines: bool,
) -> SequenceScores:
    """Segment one video, score it and the baselines as the frames come, and write its masks."""
    names = (NETWORK, COPY_FIRST, ALL_BACKGROUND) if baselines else (NETWORK,)
    tallies = {name: Tally(video, benchmark.protocol) for name in names}
    folder = None if output is None else output / "masks" / video.name
    written = set() if folder is None else set(video.written)
    first = min(video.entries.values(), default=len(video))
    for t in sorted(t for t in written if t < first):  # no object is known yet
        _write(folder, video, t, np.zeros(video.frame(t).shape[:2], dtype=np.uint8))

    peak, segmented, seconds = PeakMemory(next(network.parameters()).device), 0, 0.0
    steps = _steps(network, policy, video, benchmark.size)
    for (t, labels, duration), (_, copied) in zip(steps, copy_first(video), strict=True):
        segmented, seconds = segmented + 1, seconds + duration
        if t in written:
            _write(folder, video, t, labels)
        truth = video.mask(t) if t in tallies[NETWORK].frames else None
        if truth is not None:
            predictions = {NETWORK: labels, COPY_FIRST: copied, ALL_BACKGROUND: np.zeros_like(labels)}
            for name, tally in tallies.items():
                tally.add(t, predictions[name], truth)
    objects = {name: tally.objects() for name, tally in tallies.items()}
    return SequenceScores(
        video.name, len(video), segmented, seconds, peak.bytes(), objects.pop(NETWORK), objects
    )


def _write(folder: Path | None, video: Video, t: int, labels: np.ndarray) -> None:
    assert folder is not None
    write_mask(folder / f"{video.frame_names[t]}.png", labels)
