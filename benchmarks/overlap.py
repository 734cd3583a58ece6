"""Measure the speedup of an evaluation that prefetches frames and scores in the background.

    python benchmarks/overlap.py [--sizes 128 480] [--objects 1 3] [--device cuda --network official] ...

Videos of 480x854 are written as JPEG and PNG files and evaluated with masks and baselines, both sequentially
(decode, segment, write and score frame by frame) and overlapped. The two alternate, round by round, so that
other load on the machine slows both. Their scores must be equal.

Medians and quartiles of the rounds are printed: the seconds and their ratio; the fraction of the overlapped
time that the network takes (1 means that it never waits); and the network's slowdown by the other threads,
since all share one interpreter. By default torch uses one core less than available, which leaves one for the
overlapped work. `results.json` in the folder --output has all rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from speed_common import Setting, build, save
from speed_stream import Stream

from stm.data.videos import FileVideo, folder
from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.scores import Scores
from stm.masks import write_mask
from stm.memory import MemoryPolicy
from stm.network import STM

CORES = os.cpu_count() or 1
TIMES = ("sequential", "overlapped", "sequential_network", "overlapped_network")
"""Seconds of each round, in total and in the network."""


def write_videos(root: Path, count: int, frames: int, objects: int) -> list[FileVideo]:
    """Write videos to disk, each a different part of one stream."""
    stream = Stream((480, 854), objects)
    for number in range(count):
        frame_folder = root / "JPEGImages" / f"video-{number}"
        frame_folder.mkdir(parents=True)
        for t in range(frames):
            frame, labels = stream(1000 * number + t)
            image = (frame.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            cv2.imwrite(str(frame_folder / f"{t:05d}.jpg"), image[..., ::-1])
            write_mask(root / "Annotations" / frame_folder.name / f"{t:05d}.png", labels.numpy())
    return folder(root)


def timed_evaluation(
    network: STM, policy: MemoryPolicy, benchmark: Benchmark, workers: int | None
) -> tuple[float, Scores]:
    """Return the seconds of an evaluation and its scores; the written files are deleted."""
    output = Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        scores = evaluate(network, policy, benchmark, output, progress=False, workers=workers)
        return time.perf_counter() - start, scores
    finally:
        shutil.rmtree(output)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row of results for each number of objects and size."""
    rows = []
    for objects in args.objects:
        setting = Setting(args.network, args.policy, (480, 854), objects, args.device, threads=args.threads)
        network, policy = build(setting)
        with tempfile.TemporaryDirectory() as root:
            videos = write_videos(Path(root), args.videos, args.frames, objects)
            for size in args.sizes:
                benchmark = Benchmark("overlap", videos, size, "all")
                times: dict[str, list[float]] = {name: [] for name in TIMES}
                timed_evaluation(
                    network, policy, benchmark, 0
                )  # warm up the page cache and lazily loaded code
                for _ in range(args.rounds):
                    sequential, expected = timed_evaluation(network, policy, benchmark, 0)
                    overlapped, scores = timed_evaluation(network, policy, benchmark, args.workers)
                    assert scores.objects == expected.objects and scores.baselines == expected.baselines
                    in_network = [sum(s.seconds for s in run.sequences) for run in (expected, scores)]
                    for name, seconds in zip(TIMES, (sequential, overlapped, *in_network), strict=True):
                        times[name].append(seconds)
                rows.append({"objects": objects, "size": size, **times})
    return rows


def format_quartiles(values: np.ndarray) -> str:
    """Format the median and the quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 480], help="as benchmark.size")
    parser.add_argument("--objects", nargs="+", type=int, choices=range(1, 11), default=[1, 3])
    parser.add_argument("--network", default="tiny", help="tiny, official (random weights) or a checkpoint")
    parser.add_argument("--policy", default="every_5", help="a file of conf/memory, without its ending")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=max(1, CORES - 1), help="torch threads")
    parser.add_argument("--workers", type=int, default=min(4, max(1, CORES - 1)), help="threads for scoring")
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--frames", type=int, default=20, help="frames per video")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_overlap"))
    args = parser.parse_args()
    try:
        rows = measure(args)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    table = Table(
        "objects",
        "size",
        "sequential, s",
        "overlapped, s",
        "speedup",
        "network's share",
        "network's slowdown",
    )
    for row in rows:
        sequential, overlapped, network_alone, network = (np.array(row[name]) for name in TIMES)
        cells = (
            sequential,
            overlapped,
            sequential / overlapped,
            network / overlapped,
            network / network_alone,
        )
        table.add_row(str(row["objects"]), str(row["size"]), *map(format_quartiles, cells))
    console = Console(width=140)
    setting = f"{args.videos} videos of {args.frames} frames, {args.network} on {args.device}"
    threads = f"{args.threads} torch threads and {args.workers} for scoring"
    console.print(f"{setting}, {threads}: median (quartiles) of {args.rounds} rounds")
    console.print(table)
    save(args.output, arguments={**vars(args), "output": str(args.output)}, rows=rows)


if __name__ == "__main__":
    main()
