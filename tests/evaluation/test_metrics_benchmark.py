"""The benchmarks of scoring at their smallest settings."""

import json

import numpy as np
import pytest
from helpers import commands

pytestmark = pytest.mark.slow


def results(folder):
    return json.loads((folder / "out" / "results.json").read_text())


def test_benchmark_of_j_and_f(tmp_path):
    printed = commands.succeed(
        "benchmarks/metrics.py", "--rounds", 2, "--data", "none", "--output", "out", folder=tmp_path
    )
    values = results(tmp_path)
    for name, objects in (("procedural, 1 object", 1), ("procedural, 3 objects", 3)):
        times = np.array(values["seconds_per_frame"][name])
        assert times.shape == (2, 2) and (times[:, 0] < times[:, 1]).all()
        low, middle, high = np.percentile(times[:, 1] / times[:, 0], [25, 50, 75])
        assert f"{name} " in printed and f"{middle:.1f} ({low:.1f}-{high:.1f})" in printed
        by_threads = values["frames_per_second_by_threads"][f"procedural, {objects}"]
        assert {"1", "2"} <= by_threads.keys() and min(map(min, by_threads.values())) > 0


def test_benchmark_of_overlapped_scoring(tmp_path):
    arguments = (
        "--rounds",
        1,
        "--videos",
        2,
        "--frames",
        4,
        "--sizes",
        64,
        "--objects",
        2,
        "--output",
        "out",
    )
    commands.succeed("benchmarks/overlap.py", *arguments, folder=tmp_path)
    (row,) = results(tmp_path)["rows"]
    assert (row["objects"], row["size"]) == (2, 64)
    for side in ("sequential", "overlapped"):
        assert 0 < row[f"{side}_network"][0] < row[side][0]
