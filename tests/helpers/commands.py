"""The command lines `train.py` and `evaluate.py`, run in processes of their own that start at once.

A fork server imports torch and Lightning a single time; each command is then a fresh process forked from it,
which can be waited for or killed.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NETWORK = (
    "backbone=tiny",
    "network=tiny",
    "network.key_channels=8",
    "network.value_channels=16",
    "network.decoder_channels=8",
)
VIDEOS = ("benchmark.pixels=48", "benchmark.count=2", "benchmark.kind=plain", "benchmark.frames=6")
TINY = (
    "experiment=quickstart",
    *NETWORK,
    *VIDEOS,
    "data.pixels=48",
    "data.count=4",
    "batch_size=2",
    "steps=4",
    "validate_every=2",
    "save_every=1",
    "threads=1",
)
"""Overrides of a run of some seconds: four steps, two validations, a final evaluation."""
EVALUATE = ("benchmark=synthetic", *VIDEOS, "threads=1")
"""Overrides of an evaluation of two videos."""

fork_server = mp.get_context("forkserver")
fork_server.set_forkserver_preload(["stm.runs.training_run"])


@dataclass
class Running:
    """A command in a process of its own, and the file that gets its output."""

    process: ForkServerProcess
    log: Path

    @property
    def output(self) -> str:
        """What it has written so far, stdout and stderr together."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def wait(self, seconds: float = 240) -> int:
        """Its exit code; it is killed if it takes longer."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"still running after {seconds} s:\n{self.output}")
        return self.process.exitcode

    def wait_until(self, reached, seconds: float = 240) -> None:
        """Until the condition holds; the process must not end before."""
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.is_alive(), f"ended too early:\n{self.output}"
            assert time.monotonic() < end, f"not reached after {seconds} s:\n{self.output}"
            time.sleep(0.005)

    def kill(self) -> None:
        """SIGKILL: nothing can be tidied up."""
        self.process.kill()
        self.process.join()


def start(
    script: str, *arguments: object, folder: Path, environment: dict[str, str] | None = None
) -> Running:
    """Begin a command in a working folder; its `runs` come to lie there."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("output-*.txt")))
    log = folder / f"output-{number}.txt"
    log.touch()
    texts = [str(argument) for argument in arguments]
    process = fork_server.Process(target=_main, args=(script, texts, folder, log, environment or {}))
    process.start()
    return Running(process, log)


def run(
    script: str, *arguments: object, folder: Path, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and output of a command."""
    running = start(script, *arguments, folder=folder, environment=environment)
    return running.wait(), running.output


def succeed(script: str, *arguments: object, folder: Path, environment: dict[str, str] | None = None) -> str:
    """Output of a command that must end well."""
    code, output = run(script, *arguments, folder=folder, environment=environment)
    assert code == 0, output
    return output


def _main(script: str, arguments: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
    os.chdir(folder)
    os.environ.update({"COLUMNS": "200", **environment})
    mp.set_start_method(mp.get_all_start_methods()[0], force=True)  # a user's process has the system's own
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background ignores it
    sys.argv = [str(ROOT / script), *arguments]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))  # as Python itself does
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def wait_until(reached: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, "not reached"
        time.sleep(0.01)


def contents(output: Path) -> dict[str, object]:
    """Every file of an evaluation, without times and memory, what Hydra writes, and logs."""
    found: dict[str, object] = {}
    for path in sorted(output.rglob("*")):
        name = str(path.relative_to(output))
        if path.is_dir() or name.startswith((".hydra", ".lock", "evaluate", "job.json")):
            continue
        found[name] = path.read_bytes()
        if path.suffix == ".json":
            values = json.loads(path.read_text())
            for key in ("speed", "seconds", "peak_bytes"):
                values.pop(key, None)
            found[name] = json.dumps(values)
    return found
