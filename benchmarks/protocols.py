"""Time of MOSEv2's measures of a frame compared with DAVIS's J and F.

    python benchmarks/protocols.py [--rounds 15] [--output runs/benchmark_protocols]

Both protocols score all objects of a clip in one process on one core. They alternate by clip and by round, so
a busy machine slows both, and the ratio is taken within a round. MOSEv2 computes J, F, Fdot and their
corrected values, of which J and F must be bit-equal to DAVIS's. The masks are real ones of `tests/golden` and
drawn ones of several sizes. The table shows medians and quartiles; `results.json` in --output has all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from stm.evaluation.protocols import score_masks

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
REAL = ("metrics_judo", "metrics_dogs_jump", "metrics2026/mosev2_bmx")
DRAWN = {
    "480p, 1 small": (480, 854, [20]),
    "480p, 5 small": (480, 854, [15, 20, 25, 30, 35]),
    "480p, 2 large": (480, 854, [90, 120]),
    "1080p, 3 small": (1080, 1920, [40, 60, 80]),
    "1080p, 2 large": (1080, 1920, [200, 300]),
}
"""Name -> height, width, the objects' radii in pixels."""
Clip = tuple[np.ndarray, np.ndarray, list[int]]
"""Truth and prediction, uint8 (T, H, W), and the objects' ids."""


def draw(height: int, width: int, radii: Sequence[int], frames: int = 8) -> Clip:
    """Draw moving blobs, and predictions with a rough outline that is three pixels off."""
    rng = np.random.default_rng(len(radii))
    rows, columns = np.mgrid[:height, :width]
    truth, prediction = np.zeros((2, frames, height, width), dtype=np.uint8)
    for label, radius in enumerate(radii, start=1):
        middle = width * label / (len(radii) + 1)
        for t in range(frames):
            angle = np.arctan2(rows - height / 2, columns - middle - 5 * t)
            distance = np.hypot(rows - height / 2, columns - middle - 5 * t) / radius
            wave = 0.1 * np.sin(5 * angle + t)
            noise = cv2.resize(rng.standard_normal((height // 8, width // 8)), (width, height))
            truth[t][distance + wave < 1] = label
            prediction[t][np.roll(distance + wave, 3, axis=1) + 0.04 * noise < 1] = label
    return truth, prediction, list(range(1, len(radii) + 1))


def clips() -> dict[str, Clip]:
    """Return the benchmark's masks by name."""
    result: dict[str, Clip] = {}
    for name in REAL:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            truth, prediction = arrays["ground_truth"], arrays["prediction"]
        ids = [int(label) for label in np.unique(truth) if 0 < label < 255]
        result[name.rpartition("/")[2]] = truth, prediction, ids
    return result | {name: draw(*sizes) for name, sizes in DRAWN.items()}


def seconds(protocol: str, clip: Clip) -> float:
    """Return the time of a counted frame with all of its objects, averaged over the clip."""
    began = time.perf_counter()
    scores = score_masks(protocol, *clip)
    return (time.perf_counter() - began) / len(scores["frames"])


def compare(masks: dict[str, Clip], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return seconds per frame of (davis, mosev2) for each round of each clip."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in masks}
    for clip in masks.values():
        davis, mosev2 = score_masks("davis", *clip), score_masks("mosev2", *clip)
        for name in ("J", "F"):
            np.testing.assert_array_equal(davis[name], mosev2[f"{name}_corrected"])
    for _ in range(rounds):
        for name, clip in masks.items():
            times[name].append((seconds("davis", clip), seconds("mosev2", clip)))
    return times


def spread(values: np.ndarray, digits: int = 2) -> str:
    """Return median and quartiles as text."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main() -> None:
    """Time both protocols, print the table and write the rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_protocols"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    times = compare(clips(), arguments.rounds)
    table = Table("masks", "davis, ms per frame", "mosev2, ms per frame", "ratio")
    for name, rounds in times.items():
        davis, mosev2 = np.array(rounds).T
        table.add_row(name, spread(1e3 * davis), spread(1e3 * mosev2), spread(mosev2 / davis))
    totals = np.array(list(times.values())).sum(axis=0)
    table.add_row("all", *map(spread, 1e3 * totals.T), spread(totals[:, 1] / totals[:, 0]))
    Console(width=120).print(table)
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = {"cores": os.cpu_count(), "seconds_a_frame_davis_mosev2": times}
    (arguments.output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
