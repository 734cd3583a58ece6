"""Segment the videos of a benchmark, score them, and write masks, overlays and scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stm.clip import Video
from stm.evaluation.overlays import draw
from stm.evaluation.pipeline import behind, default_workers
from stm.evaluation.scores import PROTOCOLS, Scores, SequenceScores
from stm.evaluation.segmenting import device_of
from stm.evaluation.tables import write_scores, write_whole
from stm.evaluation.videorun import VideoRun
from stm.memory import MemoryPolicy
from stm.network import STM


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
) -> Scores:
    """Run a network over a benchmark, score it beside the baselines, and write what came out.

    A thread decodes frames before the network asks for them, others write and score what it made of them,
    of earlier videos, too. Few frames are under way at a time, so a video may be of any length.

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
        workers: threads that write and score; 0 to do all in turns, which gives the same; None for as many
            as the network leaves cores free (on a CPU those beyond torch's threads), at most 4.

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
    for name, count in Counter(one.name for one in benchmark.videos).items():
        if count > 1:
            raise ValueError(f"{benchmark.name}: two videos are named {name!r}; names must be unique")
    output = None if output is None else Path(output)
    finished = {} if output is None else _finished(output, settings)
    workers = default_workers(device_of(network)) if workers is None else workers
    results: list[Future[SequenceScores]] = []
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        disable=not progress,
    )
    with bar, behind(workers) as later:
        task = bar.add_task(benchmark.name, total=len(benchmark.videos))

        def finish(one: Video, run: VideoRun | SequenceScores) -> SequenceScores:
            again = isinstance(run, VideoRun)
            sequence = run.scores() if isinstance(run, VideoRun) else run
            if output is not None:
                if again:
                    values = {"settings": settings, **sequence.to_dict()}
                    write_whole(output / "sequences" / f"{one.name}.json", json.dumps(values))
                draw(one, output, sequence, overlays, video, again, later.failed)
            bar.advance(task)
            return sequence

        for one in benchmark.videos:
            known = finished.get(one.name)
            if known is not None and known.length == len(one) and (known.baselines or not baselines):
                results.append(later.submit(finish, one, known))
                continue
            bar.update(task, description=f"{benchmark.name}: {one.name} ({len(one)} frames)")
            masks = None if output is None else output / "masks" / one.name
            run = VideoRun(one, benchmark.protocol, baselines, masks)
            run.segment(network, policy, benchmark.size, later)
            results.append(later.submit(finish, one, run))
    scores = Scores(settings, tuple(result.result() for result in results), benchmark.seen, output)
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
