"""Evaluation of a network on a benchmark: masks, overlays and scores."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from stm.evaluation.overlays import write_overlays
from stm.evaluation.prefetch import background_pool, default_workers
from stm.evaluation.progress import VideoProgress
from stm.evaluation.result_store import ResultStore
from stm.evaluation.scores import Scores, SequenceScores
from stm.evaluation.sharding import all_gather_object, partition_videos, process_rank
from stm.evaluation.tables import write_scores
from stm.evaluation.tally import PROTOCOLS
from stm.evaluation.video_evaluator import VideoEvaluator
from stm.inference.ensemble import Augmentation
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import Video

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """The videos to score, and how.

    Args:
        name: such as `davis2017`; recorded with the scores.
        videos: with unique names.
        size: short side in pixels at which the network sees the frames, None for their own. Masks are
            written and scored at the frames' own size.
        protocol: which frames and objects count, and by what measures; see
            `stm.evaluation.tally.scored_frames`.
        seen: categories of the training set, for the G of YouTube-VOS.
        source: where the videos come from, such as a folder; results of other sources are not reused.

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
            raise ValueError(f"benchmark.protocol={self.protocol}: must be one of {', '.join(PROTOCOLS)}")
        if self.size is not None and self.size < 1:
            raise ValueError(
                f"benchmark.size={self.size}: must be at least 1, or null for the frames' own size"
            )


def validate(network: STM, policy: MemoryPolicy | None, benchmark: Benchmark) -> Scores:
    """Score a network in memory, without writing, baselines or progress bar; training calls this."""
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
    workers: int | None = None,
    distributed: bool = False,
    reuse: bool = True,
    augmentation: Augmentation | None = None,
) -> Scores:
    """Run a network over a benchmark, score it beside the baselines, and write the results.

    One thread decodes frames ahead of the network; others write and score its predictions, also those of
    earlier videos. Few frames are in memory at a time, so a video may have any length.

    A sequence is finished when `sequences/<name>.json` exists, which is written last. Finished sequences are
    kept, so the same call resumes an interrupted evaluation.

    Args:
        network: on the device to compute on.
        policy: which frames are remembered; None for the network's own, or the paper's.
        benchmark: videos, size and protocol.
        output: folder for masks/<video>/<frame>.png, scores.csv, scores.json, overlays/ and sequences/; None
            writes nothing.
        checkpoint: identifies the weights, such as a path with a hash; recorded with the scores.
        overlays: write a sheet of five frames for each sequence.
        video: write an MP4 for each sequence.
        baselines: also score copy-first and all-background.
        progress: show a progress bar, or log a line per video where there is no terminal.
        workers: threads that write and score; 0 does everything in turns, with equal results; None takes as
            many as the network leaves cores free (on a CPU those beyond torch's threads), at most 4.
        distributed: deal the videos out to the processes of torch's process group; all of them must call
            this with the same arguments, and all get the scores of all videos.
        reuse: keep finished sequences whose data, settings and package version are the same; False evaluates
            everything anew.
        augmentation: what is averaged at test time; None for the network alone.

    Raises:
        ValueError: the folder holds results of other settings, or two videos have one name.
    """
    policy = policy or network.policy or MemoryPolicy()
    rank, size = process_rank() if distributed else (0, 1)
    settings = {
        "benchmark": benchmark.name,
        "source": benchmark.source,
        "protocol": benchmark.protocol,
        "size": benchmark.size,
        "policy": _plain(policy),
        "checkpoint": checkpoint,
        "precision": _precision(network),
        "augmentation": None if augmentation is None else augmentation.settings(),
    }
    for name, count in Counter(input_video.name for input_video in benchmark.videos).items():
        if count > 1:
            raise ValueError(f"{benchmark.name}: two videos are named {name!r}; names must be unique")
    store = None if output is None else ResultStore(Path(output), settings, baselines, reuse)
    workers = default_workers(network.mean.device) if workers is None else workers
    videos = partition_videos(benchmark.videos, size)[rank]
    if size > 1:
        counts = len(videos), len(benchmark.videos), rank, size
        log.info("%s: %d of %d videos are evaluated by rank %d of %d", benchmark.name, *counts)
    results: list[Future[SequenceScores]] = []
    kept = 0
    with VideoProgress(benchmark.name, len(videos), progress and rank == 0) as shown:

        def finish(input_video: Video, evaluated: VideoEvaluator | SequenceScores) -> SequenceScores:
            is_new = isinstance(evaluated, VideoEvaluator)
            sequence = evaluated.scores() if isinstance(evaluated, VideoEvaluator) else evaluated
            if store is not None:
                if is_new:
                    store.write(input_video, sequence)
                write_overlays(input_video, store.output, sequence, overlays, video, is_new, pool.failed)
            shown.advance(sequence)
            return sequence

        with background_pool(workers) as pool:
            for input_video in videos:
                stored = None if store is None else store.read(input_video)
                if stored is not None:
                    kept += 1
                    results.append(pool.submit(finish, input_video, stored))
                    continue
                if store is not None:
                    store.discard(input_video)
                shown.begin(input_video)
                masks = None if store is None else store.output / "masks" / input_video.name
                evaluator = VideoEvaluator(input_video, benchmark.protocol, baselines, masks)
                evaluator.segment(network, policy, benchmark.size, pool, augmentation)
                results.append(pool.submit(finish, input_video, evaluator))
        sequences = [result.result() for result in results]
    if kept:
        log.info("%s: %d videos kept from an earlier run (reuse=false evaluates anew)", benchmark.name, kept)
    if distributed:
        try:
            sequences = [sequence for part in all_gather_object(sequences) for sequence in part]
        except RuntimeError as error:
            raise RuntimeError(
                "another process failed; finished videos are kept, and the same command resumes"
            ) from error
    by_name = {sequence.name: sequence for sequence in sequences}
    in_order = tuple(by_name[input_video.name] for input_video in benchmark.videos)
    scores = Scores(settings, in_order, benchmark.seen, None if store is None else store.output)
    if store is not None and rank == 0:
        write_scores(scores, store.output)
    return scores


def _precision(network: STM) -> str:
    """Return the type of numbers that the network computes with, such as 'float32'."""
    device = network.mean.device.type
    automatic = torch.is_autocast_enabled(device)
    return str(torch.get_autocast_dtype(device) if automatic else network.mean.dtype).removeprefix("torch.")


def _plain(policy: MemoryPolicy) -> Any:
    """Return the policy as JSON gives it back, so that it compares equal."""
    return json.loads(json.dumps(asdict(policy)))
