"""Segment the videos of a benchmark, score them, and write masks, overlays and scores."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stm.atomic_io import write_atomically
from stm.evaluation.overlays import write_overlays
from stm.evaluation.prefetch import background_pool, default_workers
from stm.evaluation.scores import PROTOCOLS, Scores, SequenceScores
from stm.evaluation.segmenting import device_of
from stm.evaluation.shards import Shard, at_work, shares
from stm.evaluation.tables import write_scores
from stm.evaluation.video_evaluator import VideoEvaluator
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import Video

log = logging.getLogger(__name__)


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
    workers: int | None = None,
    shard: Shard | None = None,
) -> Scores:
    """Run a network over a benchmark, score it beside the baselines, and write what came out.

    A thread decodes frames before the network asks for them, others write and score what it made of them,
    of earlier videos, too. Few frames are under way at a time, so a video may be of any length.

    A sequence is finished when `sequences/<name>.json` is there, which is written last. Finished sequences
    are kept, so that the same call goes on where it was interrupted.

    Several processes may do it together, each with another shard and the same output folder. Each segments
    its share, waits for what comes of the others', and returns the scores of all.

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
        workers: threads that write and score; 0 to do all in turns, which gives the same; None for as many
            as the network leaves cores free (on a CPU those beyond torch's threads), at most 4.
        shard: which of several processes this is; None where it is alone.

    Raises:
        ValueError: the folder holds results of other settings, or two videos have one name; or there are
            several processes, and no folder.
        DeadRank: another process ended before its videos were done.
    """
    policy, shard = policy or MemoryPolicy(), shard or Shard()
    settings = {
        "benchmark": benchmark.name,
        "source": benchmark.source,
        "protocol": benchmark.protocol,
        "size": benchmark.size,
        "policy": _plain(policy),
        "checkpoint": checkpoint,
        "precision": _precision(network),
    }
    for name, count in Counter(one.name for one in benchmark.videos).items():
        if count > 1:
            raise ValueError(f"{benchmark.name}: two videos are named {name!r}; names must be unique")
    output = None if output is None else Path(output)
    if output is None and shard.size > 1:
        raise ValueError(f"{shard.size} processes evaluate together: they need an output folder to meet in")
    kept = None if output is None else ResultStore(output, settings, baselines)
    workers = default_workers(device_of(network)) if workers is None else workers
    parts = shares(benchmark.videos, shard.size)
    if shard.size > 1:
        told = len(parts[shard.rank]), len(benchmark.videos), shard.rank, shard.size
        log.info("%s: %d of %d videos are the share of rank %d of %d", benchmark.name, *told)
    results: list[Future[SequenceScores]] = []
    with _bar(benchmark, progress and shard.rank == 0) as bar, at_work(shard, output) as others:

        def finish(one: Video, run: VideoEvaluator | SequenceScores) -> SequenceScores:
            again = isinstance(run, VideoEvaluator)
            sequence = run.scores() if isinstance(run, VideoEvaluator) else run
            if kept is not None:
                if again:
                    kept.write(sequence)
                write_overlays(one, kept.output, sequence, overlays, video, again, later.failed)
            bar.advance(bar.task_ids[0])
            return sequence

        with background_pool(workers) as later:
            for one in parts[shard.rank]:
                known = None if kept is None else kept.read(one)
                if known is not None:
                    results.append(later.submit(finish, one, known))
                    continue
                bar.update(bar.task_ids[0], description=f"{benchmark.name}: {one.name} ({len(one)} frames)")
                masks = None if output is None else output / "masks" / one.name
                run = VideoEvaluator(one, benchmark.protocol, baselines, masks)
                run.segment(network, policy, benchmark.size, later)
                results.append(later.submit(finish, one, run))
        sequences = [result.result() for result in results]
        if kept is not None and shard.size > 1:
            bar.update(bar.task_ids[0], description=f"{benchmark.name}: the other processes' videos")
            for sequence in others.wait(parts, kept.read):
                sequences.append(sequence)
                bar.advance(bar.task_ids[0])
    by_name = {sequence.name: sequence for sequence in sequences}
    scores = Scores(settings, tuple(by_name[one.name] for one in benchmark.videos), benchmark.seen, output)
    if output is not None and shard.rank == 0:
        write_scores(scores, output)
    return scores


def _precision(network: STM) -> str:
    """The type of numbers it computes with, such as 'float32'."""
    device = device_of(network).type
    automatic = torch.is_autocast_enabled(device)
    return str(torch.get_autocast_dtype(device) if automatic else network.mean.dtype).removeprefix("torch.")


def _bar(benchmark: Benchmark, shown: bool) -> Progress:
    """A progress bar over the videos."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    bar = Progress(*columns, disable=not shown)
    bar.add_task(benchmark.name, total=len(benchmark.videos))
    return bar


def _plain(policy: MemoryPolicy) -> Any:
    """As it comes back from JSON, so that it compares equal."""
    return json.loads(json.dumps(asdict(policy)))


class ResultStore:
    """What came of videos, in files of an evaluation's folder: by this process, another or an earlier one.

    Args:
        output: the evaluation's folder.
        settings: what is evaluated and how.
        baselines: whether a video without the baselines' scores is finished.

    Raises:
        ValueError: the folder holds results of other settings.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], baselines: bool) -> None:
        self.output, self.settings, self.baselines = output, settings, baselines
        for path in sorted((output / "sequences").glob("*.json")):
            self._read(path)

    def write(self, sequence: SequenceScores) -> None:
        """Keep what came of a video."""
        values = {"settings": self.settings, **sequence.to_dict()}
        write_atomically(self._path(sequence.name), json.dumps(values))

    def read(self, one: Video) -> SequenceScores | None:
        """What came of a video; None where it is not finished, or has got other frames."""
        try:
            sequence = self._read(self._path(one.name))
        except FileNotFoundError:
            return None
        whole = sequence.length == len(one) and (sequence.baselines or not self.baselines)
        return sequence if whole else None

    def _path(self, name: str) -> Path:
        return self.output / "sequences" / f"{name}.json"

    def _read(self, path: Path) -> SequenceScores:
        values = json.loads(path.read_text())
        of_path = values.pop("settings")
        differing = [
            f"{key} {of_path.get(key)} != {self.settings[key]}"
            for key in self.settings
            if of_path.get(key, self.settings[key]) != self.settings[key]
        ]
        if differing:
            raise ValueError(
                f"{path} comes from other settings ({'; '.join(differing)}): choose another output folder "
                f"(evaluate.py: name=NEW_NAME), or delete {self.output} to start again"
            )
        return SequenceScores.from_dict(values)
