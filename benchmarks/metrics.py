"""Compare the time to score J and F with the DAVIS evaluation, and measure the gain of threads.

    python benchmarks/metrics.py [--data data] [--rounds 15]

Both score all objects of a frame on one core and alternate, round by round, so that other load on the machine
slows both. Ratios are computed within a round. The DAVIS reference (tests/helpers/davis_reference.py) works
on full-size boolean maps and dilates boundaries by a disk. Both must have equal values. Masks are 480x854:
those of DAVIS, if available, against those three frames before; and procedural ones, either moved with a
rough outline or speckled.

The second table has the frames per second of the work after the network in an evaluation (read the ground
truth, write the mask, score it and the baselines), with one and several threads. Medians and quartiles are
printed; `results.json` in the folder --output has all rounds.
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
from speed_common import ROOT, save

from stm.data.videos import davis
from stm.evaluation.metrics import contour_accuracy, region_similarity
from stm.evaluation.prefetch import background_pool
from stm.evaluation.tally import Tally
from stm.masks import write_mask
from stm.video import ArrayVideo, Video

sys.path.append(str(ROOT / "tests"))
from helpers import davis_reference  # noqa: E402

SIZE, FRAMES = (480, 854), 8
Masks = tuple[np.ndarray, np.ndarray, int]
"""Ground truth and prediction, uint8 (T, H, W) with labels 1..objects, and the number of objects."""


def random_field(rng: np.random.Generator, roughness: int) -> np.ndarray:
    """Return a smooth random field (H, W)."""
    coarse = rng.standard_normal((SIZE[0] // roughness + 2, SIZE[1] // roughness + 2))
    return cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def procedural(objects: int, rough: float, grain: int = 12) -> Masks:
    """Return blobs that move 5 pixels per frame, predicted with an outline of a given roughness and grain."""
    rng = np.random.default_rng(objects)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    truth, predicted = np.zeros((2, FRAMES, *SIZE), dtype=np.uint8)
    for label in range(1, objects + 1):
        center, waves = 854 * label / (objects + 1), 0.3 * random_field(rng, 60)
        radius = 120 if objects == 1 else 70
        for t in range(FRAMES):
            distance = np.hypot(rows - 240, columns - center - 5 * t) / radius + waves
            truth[t][distance < 1] = label
            predicted[t][distance + rough * random_field(rng, grain) < 1] = label
    return truth, predicted, objects


def real(data: Path) -> dict[str, Masks]:
    """Return the masks of DAVIS clips with 480 rows, each against those three frames before."""
    clips: dict[str, Masks] = {}
    for video in davis(data / "DAVIS", split="val") if (data / "DAVIS").is_dir() else ():
        first = video.mask(0)
        if first is not None and first.shape == SIZE:
            masks = np.array([[video.mask(t), video.mask(t - 3)] for t in range(3, 35, 4)])
            clips[video.name] = masks[:, 0], masks[:, 1], len(video.first_frames)
    return clips


def ours(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute J and F with this package."""
    return region_similarity(truth, predicted), contour_accuracy(truth, predicted)


def reference(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute J and F with the DAVIS reference."""
    return davis_reference.region_similarity(truth, predicted), davis_reference.contour_accuracy(
        truth, predicted
    )


def seconds_per_frame(score: Callable[[np.ndarray, np.ndarray], object], masks: Masks) -> float:
    """Measure the seconds to score a frame with all objects, averaged over the clip."""
    truth, predicted, objects = masks
    start = time.perf_counter()
    for label in range(1, objects + 1):
        score(truth == label, predicted == label)
    return (time.perf_counter() - start) / len(truth)


def compare(clips: Mapping[str, Masks], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds per frame of (ours, reference) for each round of each clip."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in clips}
    for name, (truth, predicted, objects) in clips.items():
        for label in range(1, objects + 1):
            for a, b in zip(
                *(score(truth == label, predicted == label) for score in (ours, reference)), strict=True
            ):
                np.testing.assert_array_equal(a, b, err_msg=name)
    for _ in range(rounds):
        for name, masks in clips.items():
            times[name].append((seconds_per_frame(ours, masks), seconds_per_frame(reference, masks)))
    return times


def score_all(videos: Sequence[Video], workers: int, folder: Path) -> float:
    """Return the frames per second of the work after the network, which predicts the previous mask."""

    def score_frame(
        video: Video, tallies: Sequence[Tally], t: int, labels: np.ndarray, first: np.ndarray
    ) -> None:
        write_mask(folder / video.name / f"{t}.png", labels)
        truth = video.mask(t)
        assert truth is not None
        for tally, mask in zip(tallies, (labels, first, np.zeros_like(first)), strict=True):
            tally.add(t, mask, truth)

    start, frames = time.perf_counter(), 0
    with background_pool(workers) as pool:
        for video in videos:
            tallies = [Tally(video) for _ in range(3)]
            first = video.mask(0)
            for t in range(1, min(len(video), 31) - 1):
                labels = video.mask(t - 1)
                pool.submit(score_frame, video, tallies, t, labels, first)
                frames += 1
    return frames / (time.perf_counter() - start)


def scaling(data: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return data set -> number of threads -> frames per second of each round; all alternate."""
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


def format_quartiles(values: Sequence[float] | np.ndarray, digits: int) -> str:
    """Format the median and the quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_metrics"))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    clips = {
        **real(args.data),
        "procedural, 1 object": procedural(1, 0.05),
        "procedural, 3 objects": procedural(3, 0.05),
        "speckled, 1 object": procedural(1, 0.5, grain=2),
    }
    console = Console(width=140)
    times = compare(clips, args.rounds)
    table = Table("masks", "objects", "ours, ms per frame", "DAVIS reference", "ratio")
    for name, rounds in times.items():
        our_times, reference_times = np.array(rounds).T
        table.add_row(
            name,
            str(clips[name][2]),
            format_quartiles(1e3 * our_times, 2),
            format_quartiles(1e3 * reference_times, 2),
            format_quartiles(reference_times / our_times, 1),
        )
    console.print(
        "J and F of a frame on one core: median (quartiles) of the rounds; all values are bit-equal"
    )
    console.print(table)
    threads = scaling(args.data, max(3, args.rounds // 3))
    table = Table(
        "masks, objects", *(f"{count} threads" for count in next(iter(threads.values()))), "speedup of 2"
    )
    for name, by_count in threads.items():
        gain = np.array(by_count["2"]) / np.array(by_count["1"])
        table.add_row(
            name, *(format_quartiles(values, 0) for values in by_count.values()), format_quartiles(gain, 2)
        )
    console.print(f"Frames read, written and scored per second, with baselines; {os.cpu_count()} cores")
    console.print(table)
    save(args.output, seconds_per_frame=times, frames_per_second_by_threads=threads)


if __name__ == "__main__":
    main()
