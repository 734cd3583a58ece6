"""How much faster is an evaluation that decodes ahead and scores behind, beside the same in turns?

    python benchmarks/overlap.py [--sizes 128 480] [--objects 1 3] [--device cuda --network official] ...

Videos of 480x854 are written as JPEG and PNG files and evaluated with masks and baselines: once in turns
(frame by frame: decode, segment, write, score) and once overlapped, round by round, so that a busy machine
slows both. Scores must be equal. Printed are seconds and their ratio within a round (medians, quartiles);
what part of the overlapped time is the network's (at 1 nothing holds it up); and how many times as long as in
turns it takes by itself, since all threads share one interpreter. By default torch gets one core less than
there are, so that there is one to overlap on. `results.json` in the folder --output has all rounds.
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
from speed_sides import Setting, build, save
from speed_stream import Stream

from stm.data.videos import FileVideo, folder
from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.scores import Scores
from stm.masks import write_mask

CORES = os.cpu_count() or 1
TIMES = ("turns", "overlapped", "turns_network", "overlapped_network")
"""Seconds of each round: of all, and of the network's part."""


def write_videos(root: Path, count: int, frames: int, objects: int) -> list[FileVideo]:
    """Videos on disk, each another stretch of one stream."""
    stream = Stream((480, 854), objects)
    for number in range(count):
        pictures = root / "JPEGImages" / f"video-{number}"
        pictures.mkdir(parents=True)
        for t in range(frames):
            frame, labels = stream(1000 * number + t)
            picture = (frame.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            cv2.imwrite(str(pictures / f"{t:05d}.jpg"), picture[..., ::-1])
            write_mask(root / "Annotations" / pictures.name / f"{t:05d}.png", labels.numpy())
    return folder(root)


def timed(sides: Any, benchmark: Benchmark, workers: int | None) -> tuple[float, Scores]:
    """Seconds of an evaluation and its scores; what it writes is thrown away."""
    network, policy = sides
    output = Path(tempfile.mkdtemp())
    try:
        began = time.perf_counter()
        scores = evaluate(network, policy, benchmark, output, progress=False, workers=workers)
        return time.perf_counter() - began, scores
    finally:
        shutil.rmtree(output)


def measure(told: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of objects and size."""
    rows = []
    for objects in told.objects:
        setting = Setting(told.network, told.policy, (480, 854), objects, told.device, threads=told.threads)
        sides = build(setting)
        with tempfile.TemporaryDirectory() as root:
            videos = write_videos(Path(root), told.videos, told.frames, objects)
            for size in told.sizes:
                benchmark = Benchmark("overlap", videos, size, "all")
                times: dict[str, list[float]] = {name: [] for name in TIMES}
                timed(sides, benchmark, 0)  # files into the page cache, libraries their code
                for _ in range(told.rounds):
                    turns, expected = timed(sides, benchmark, 0)
                    overlapped, scores = timed(sides, benchmark, told.workers)
                    assert scores.objects == expected.objects and scores.baselines == expected.baselines
                    networks = [sum(s.seconds for s in of.sequences) for of in (expected, scores)]
                    for name, seconds in zip(TIMES, (turns, overlapped, *networks), strict=True):
                        times[name].append(seconds)
                rows.append({"objects": objects, "size": size, **times})
    return rows


def spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 480], help="as benchmark.size")
    parser.add_argument("--objects", nargs="+", type=int, choices=range(1, 11), default=[1, 3])
    parser.add_argument("--network", default="tiny", help="tiny, official (random weights) or a checkpoint")
    parser.add_argument("--policy", default="every_5", help="a file of conf/memory")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=max(1, CORES - 1), help="of torch")
    parser.add_argument("--workers", type=int, default=min(4, max(1, CORES - 1)), help="behind the network")
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--frames", type=int, default=20, help="of each video")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_overlap"))
    told = parser.parse_args()
    try:
        rows = measure(told)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    table = Table("objects", "size", "in turns, s", "overlapped, s", "ratio", "network's part", "it takes")
    for row in rows:
        turns, overlapped, alone, network = (np.array(row[name]) for name in TIMES)
        cells = (turns, overlapped, turns / overlapped, network / overlapped, network / alone)
        table.add_row(str(row["objects"]), str(row["size"]), *map(spread, cells))
    console = Console(width=140)
    what = f"{told.videos} videos of {told.frames} frames, {told.network} on {told.device}"
    threads = f"{told.threads} threads and {told.workers} behind"
    console.print(f"{what}, {threads}: median (quartiles) of {told.rounds} rounds")
    console.print(table)
    save(told.output, told={**vars(told), "output": str(told.output)}, rows=rows)


if __name__ == "__main__":
    main()
