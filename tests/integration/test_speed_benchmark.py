"""The speed benchmark on the smallest settings: what it writes is what was measured, and fits together."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import commands
from PIL import Image

SCRIPT = "benchmarks/speed.py"
AT_7, AT_12 = [2, 2, 2, 2, 2, 3], [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4]
"""Frames that every_5 holds while frames 2 to 7, and 1 to 12, are segmented."""


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(commands.ROOT / "benchmarks"))


def assert_compared(row: dict[str, Any]) -> None:
    assert (row["size"], row["objects"], row["policy"], row["form"]) == ([32, 48], 2, "every_5", "float32")
    assert row["memory_frames"] == AT_7
    plain, ours = (np.array(row["seconds"][side]) for side in ("plain", "ours"))
    assert plain.shape == ours.shape == (6,)
    assert row["seconds_per_frame"] == {"plain": np.median(plain), "ours": np.median(ours)}
    assert row["ratio"] == pytest.approx(np.percentile(plain / ours, [25, 50, 75]))
    slope = ours[5] - ours[:5].mean()  # the line through a cloud at 2 and a point at 3
    assert row["seconds_per_memory_frame"]["ours"] == pytest.approx(slope)
    assert 0 < row["parity"]["largest_difference"] < 2e-4
    assert row["parity"]["equal_labels"] > 0.999
    assert row["parity"]["equal_clear"] == 1


def assert_streamed(row: dict[str, Any], held: list[int]) -> None:
    assert row["memory_frames"] == held
    assert np.unique(np.array(row["memory_bytes"]) / held).size == 1
    assert len(row["seconds"]) == len(row["peak_bytes"]) == 12
    early, late = np.median(row["seconds"][4:8]), np.median(row["seconds"][8:])
    assert row["growth"]["seconds"] == pytest.approx(late / early)


def test_both_sides_take_turns() -> None:
    import speed
    from speed_common import Setting

    (row,) = speed.measure([Setting("official", "every_5", (32, 48), 2, "cpu")], frames=8, warmup=2)
    assert_compared(json.loads(json.dumps(row)))


def test_a_long_video_is_watched_frame_by_frame() -> None:
    from speed_common import Setting
    from speed_long import stream_through

    assert_streamed(stream_through(Setting("tiny", "every_5", (32, 48), 1, "cpu"), 12), AT_12)


def results(folder: Path, name: str, *arguments: object) -> dict[str, Any]:
    """What the command writes, its pictures looked at, too."""
    commands.succeed(SCRIPT, *arguments, "--threads", 1, "--output", "results", folder=folder)
    with Image.open(folder / "results" / f"{name}.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20  # lines and text, not an empty page
    assert "</svg>" in (folder / "results" / f"{name}.svg").read_text()
    return json.loads((folder / "results" / "results.json").read_text())


@pytest.mark.slow
def test_the_comparison_as_a_command(tmp_path: Path) -> None:
    small = ("--sizes", "32x48", "--objects", 2, "--frames", 8, "--warmup", 2)
    told = results(tmp_path, "comparison", *small, "--precisions", "float32", "bfloat16")
    first, second = told["rows"]
    assert_compared(first)
    assert second["form"] == "bfloat16"
    assert second["parity"]["largest_difference"] > first["parity"]["largest_difference"]
    for row in told["rows"]:
        assert min(row["extra_peak_bytes"].values()) > 2**20
    assert told["machine"]["threads"] == 1


@pytest.mark.slow
def test_a_long_video_as_a_command(tmp_path: Path) -> None:
    policies = ("every_5", "first_previous")
    told = results(tmp_path, "long_video", "--long", 12, "--size", "32x48", "--policies", *policies)
    for row, policy, held in zip(told["rows"], policies, (AT_12, [1] + 11 * [2]), strict=True):
        assert row["policy"] == policy
        assert_streamed(row, held)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--sizes", "240"], "240: must be HEIGHTxWIDTH"),
        (["--policies", "evry_5"], "--policies evry_5: must be one of "),
        (["--frames", 3], "--warmup 3: "),
        (["--network", "tiny"], "network=official"),
        (["--devices", "abacus"], "--devices abacus: "),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path: Path, arguments: list[object], reason: str) -> None:
    code, output = commands.run(SCRIPT, *arguments, folder=tmp_path)
    assert code == 2
    assert reason in output
    assert "Traceback" not in output


def test_help_waits_for_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "cv2", "matplotlib", "hydra", "stm")
    run = subprocess.run(
        [sys.executable, "-c", "import sys, speed; print(*sys.modules)"],
        cwd=commands.ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(heavy) & set(run.stdout.split())
