"""Ctrl-C in a sweep leaves a table with the next command, and the same command finishes the sweep."""

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import TINY, start, succeed
from helpers.small_networks import save


def interrupted(script: str, *arguments: str, folder: Path, reached: Callable[[], bool]) -> str:
    """Return the output of a command that gets SIGINT, as by Ctrl-C, once a condition holds."""
    running = start(script, *arguments, folder=folder)
    running.wait_until(reached)
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGINT)
    assert running.wait() not in (0, -signal.SIGINT)
    return running.output


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_interrupted_sweep_of_evaluations(tmp_path: Path) -> None:
    save(tmp_path / "w.ckpt")
    videos = ("benchmark=synthetic", "benchmark.pixels=48", "benchmark.count=12", "benchmark.kind=plain")
    arguments = ("sweep=table5", "memory=first,every_5", "checkpoint=w.ckpt", *videos, "threads=1")
    sweeps = tmp_path / "runs" / "evaluate"

    def has_started() -> bool:
        return len(list(sweeps.glob("table5*/1_*/sequences/*.json"))) > 1

    output = interrupted("evaluate.py", *arguments, folder=tmp_path, reached=has_started)
    (folder,) = sweeps.glob("table5*")
    (second,) = folder.glob("1_*")
    assert (
        "1 of 2 jobs are finished." in output and "Run the same command again to finish the others" in output
    )
    assert f"- {second.name}: unfinished" in output and "Traceback" not in output
    assert (folder / "table.md").read_text() in output
    assert [row["status"] for row in rows(folder)] == ["completed", "unfinished"]
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("sequences/*.json")}
    assert 12 < len(kept) < 24
    output = succeed("evaluate.py", *arguments, folder=tmp_path)
    assert "2 of 2 jobs are finished." in output
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items()), "finished videos are kept"


@pytest.mark.slow
def test_interrupted_sweep_of_trainings(tmp_path: Path) -> None:
    arguments = ("sweep=seeds", *TINY, "seed=1,2", "steps=300", "validate_every=100", "final_benchmark=null")
    folder = tmp_path / "runs" / "seeds_quickstart"

    def has_started() -> bool:
        return len(list(folder.glob("*/checkpoints/last.ckpt"))) > 0

    output = interrupted("train.py", *arguments, folder=tmp_path, reached=has_started)
    assert (
        "0 of 2 jobs are finished." in output and "Run the same command again to finish the others" in output
    )
    assert "Traceback" not in output
    assert [row["status"] for row in rows(folder)] == ["unfinished"] * 2
