"""How long do J and F of a frame take, beside the DAVIS evaluation's way of working, and do threads help?

    python benchmarks/metrics.py [--data ../shared/data] [--rounds 15]

Both sides score all objects of a frame on one core and take turns, round by round, so that a busy machine
slows both; the ratio is taken within a round. The DAVIS way (tests/helpers/davis_reference.py) works on full-size boolean
maps and dilates boundaries by a disk; equal values are required. Masks are 480x854: those of DAVIS, where
there are any, against those three frames before; and procedural ones, moved and with a rough outline, or
speckled.

Then frames a second of what evaluation does behind the network (read the truth, write the mask, score it and
the baselines), by one thread and by several. Printed are medians and quartiles; `results.json` in the folder
--output has all rounds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from speed_sides import ROOT, save

from stm.data.videos import davis
from stm.evaluation.metrics import contour_accuracy, region_similarity
from stm.evaluation.prefetch import background_pool
from stm.evaluation.scores import Tally
from stm.masks import write_mask
from stm.video import ArrayVideo, Video

sys.path.append(str(ROOT / "tests"))
from helpers import davis_reference as davis_way  # noqa: E402

SIZE, FRAMES = (480, 854), 8
Masks = tuple[np.ndarray, np.ndarray, int]
"""Truth and prediction, uint8 (T, H, W) with labels 1..objects, and how many objects."""


def field(rng: np.random.Generator, roughness: int) -> np.ndarray:
    """A smooth random landscape of the benchmark's size."""
    coarse = rng.standard_normal((SIZE[0] // roughness + 2, SIZE[1] // roughness + 2))
    return cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def procedural(objects: int, rough: float, grain: int = 12) -> Masks:
    """Blobs that move 5 pixels a frame; predicted with an outline of the given roughness and grain."""
    rng = np.random.default_rng(objects)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    truth, found = np.zeros((2, FRAMES, *SIZE), dtype=np.uint8)
    for label in range(1, objects + 1):
        middle, wavy = 854 * label / (objects + 1), 0.3 * field(rng, 60)
        radius = 120 if objects == 1 else 70
        for t in range(FRAMES):
            distance = np.hypot(rows - 240, columns - middle - 5 * t) / radius + wavy
            truth[t][distance < 1] = label
            found[t][distance + rough * field(rng, grain) < 1] = label
    return truth, found, objects


def real(data: Path) -> dict[str, Masks]:
    """The masks of the DAVIS clips of 480 rows, each against those three frames before."""
    clips: dict[str, Masks] = {}
    for video in davis(data / "DAVIS", split="val") if (data / "DAVIS").is_dir() else ():
        first = video.mask(0)
        if first is not None and first.shape == SIZE:
            masks = np.array([[video.mask(t), video.mask(t - 3)] for t in range(3, 35, 4)])
            clips[video.name] = masks[:, 0], masks[:, 1], len(video.first_frames)
    return clips


def ours(truth: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return region_similarity(truth, found), contour_accuracy(truth, found)


def theirs(truth: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return davis_way.region_similarity(truth, found), davis_way.contour_accuracy(truth, found)


def seconds(way: Callable[[np.ndarray, np.ndarray], object], masks: Masks) -> float:
    """Of one frame with all of its objects, averaged over the clip."""
    truth, found, objects = masks
    began = time.perf_counter()
    for label in range(1, objects + 1):
        way(truth == label, found == label)
    return (time.perf_counter() - began) / len(truth)


def compare(clips: Mapping[str, Masks], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds a frame of (ours, theirs) for each round of each clip."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in clips}
    for name, (truth, found, objects) in clips.items():
        for label in range(1, objects + 1):
            for a, b in zip(*(way(truth == label, found == label) for way in (ours, theirs)), strict=True):
                np.testing.assert_array_equal(a, b, err_msg=name)
    for _ in range(rounds):
        for name, masks in clips.items():
            times[name].append((seconds(ours, masks), seconds(theirs, masks)))
    return times


def score_all(videos: Sequence[Video], workers: int, folder: Path) -> float:
    """Frames a second of the work behind the network: its masks are those of the frame before."""

    def one(video: Video, tallies: Sequence[Tally], t: int, labels: np.ndarray, first: np.ndarray) -> None:
        write_mask(folder / video.name / f"{t}.png", labels)
        truth = video.mask(t)
        assert truth is not None
        for tally, mask in zip(tallies, (labels, first, np.zeros_like(first)), strict=True):
            tally.add(t, mask, truth)

    began, frames = time.perf_counter(), 0
    with background_pool(workers) as later:
        for video in videos:
            tallies = [Tally(video) for _ in range(3)]
            first = video.mask(0)
            for t in range(1, min(len(video), 31) - 1):
                labels = video.mask(t - 1)
                later.submit(one, video, tallies, t, labels, first)
                frames += 1
    return frames / (time.perf_counter() - began)


def scaling(data: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Number of objects -> workers -> frames a second, round by round in turns."""
    sets: dict[str, Sequence[Video]] = {}
    for objects in (1, 3):
        truth, _, _ = procedural(objects, 0)
        truth = np.concatenate([truth, truth[::-1], truth, truth[::-1]])
        frames = np.broadcast_to(np.uint8(0), (*truth.shape, 3))
        sets[f"procedural, {objects}"] = [ArrayVideo(f"video-{i}", frames, truth) for i in range(3)]
    if (data / "DAVIS").is_dir():
        clips = davis(data / "DAVIS", split="val")
        sets["DAVIS, 1"] = [video for video in clips if len(video.first_frames) == 1][:3]
    counts = sorted({1, 2, min(4, os.cpu_count() or 1)})
    results: dict[str, dict[str, list[float]]] = {name: {str(n): [] for n in counts} for name in sets}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, videos in sets.items():
                for count in counts:
                    results[name][str(count)].append(score_all(videos, count, Path(folder)))
    return results


def spread(values: Sequence[float] | np.ndarray, digits: int) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_metrics"))
    told = parser.parse_args()
    cv2.setNumThreads(1)
    clips = {
        **real(told.data),
        "procedural, 1 object": procedural(1, 0.05),
        "procedural, 3 objects": procedural(3, 0.05),
        "speckled, 1 object": procedural(1, 0.5, grain=2),
    }
    console = Console(width=140)
    times = compare(clips, told.rounds)
    table = Table("masks", "objects", "ours, ms a frame", "the DAVIS way", "ratio")
    for name, rounds in times.items():
        mine, others = np.array(rounds).T
        table.add_row(
            name,
            str(clips[name][2]),
            spread(1e3 * mine, 2),
            spread(1e3 * others, 2),
            spread(others / mine, 1),
        )
    console.print(
        "J and F of a frame on one core: median (quartiles) of the rounds; values equal in every bit"
    )
    console.print(table)
    threads = scaling(told.data, max(3, told.rounds // 3))
    table = Table(
        "masks, objects", *(f"{count} threads" for count in next(iter(threads.values()))), "gain of 2"
    )
    for name, by_count in threads.items():
        gain = np.array(by_count["2"]) / np.array(by_count["1"])
        table.add_row(name, *(spread(values, 0) for values in by_count.values()), spread(gain, 2))
    console.print(f"frames read, written and scored a second, with baselines; {os.cpu_count()} cores")
    console.print(table)
    save(told.output, seconds_a_frame_ours_theirs=times, frames_a_second_by_threads=threads)


if __name__ == "__main__":
    main()
