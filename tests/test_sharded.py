"""Several processes evaluate together as one would: shares, equality, interruptions, a rank that dies."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import slurm_cluster
import torch
from commands import ROOT, VIDEOS, Running, _server, run, start
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.clip import ArrayVideo
from stm.evaluation.benchmark import Benchmark, evaluate
from stm.evaluation.shards import Shard, shares
from stm.network import STM

SMALL = {"backbone": "micro", "norm": "group", "key_channels": 8, "value_channels": 16, "decoder_channels": 8}
LENGTHS = {"a": (5, 1), "b": (9, 1), "c": (4, 2), "d": (12, 1), "e": (3, 2), "f": (7, 1)}
"""Video -> frames and objects: 5, 9, 8, 12, 6, 7 in this order."""


class Noted(ArrayVideo):
    """A video that notes who reads it, and can be made to stop at its third frame."""

    def __init__(self, name: str, folder: Path, rank: int) -> None:
        length, objects = LENGTHS[name]
        frames = np.random.default_rng(length).integers(0, 256, (length, 32, 48, 3), dtype=np.uint8)
        masks = np.zeros((length, 32, 48), dtype=np.uint8)
        for t, label in itertools.product(range(length), range(objects)):
            masks[t, 4 + 14 * label : 14 + 14 * label, 4 + t : 18 + t] = 3 + label
        super().__init__(name, frames, masks)
        self.folder, self.rank = folder, rank

    def frame(self, t: int) -> np.ndarray:
        with (self.folder / f"read-{self.rank}").open("a") as file:
            file.write(self.name)
        if t == 2 and (self.folder / f"breaks-{self.name}").exists():
            raise OSError("the disk is gone")
        while t == 2 and (self.folder / f"stops-{self.name}").exists():
            time.sleep(0.02)
        return super().frame(t)


def videos(folder: Path = Path(), rank: int = 0) -> list[ArrayVideo]:
    return [Noted(name, folder, rank) for name in LENGTHS]


def work(folder: Path, shard: Shard) -> None:
    """What one process does; what it raises comes to lie in a file."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    benchmark = Benchmark("boxes", videos(folder, shard.rank), protocol="youtube")
    try:
        evaluate(STM(**SMALL), None, benchmark, folder / "output", progress=False, workers=0, shard=shard)
    except Exception as error:
        (folder / f"raised-{shard.rank}").write_text(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def begin(folder: Path, size: int, patience: float = 300, ranks: list[int] | None = None):
    folder.mkdir(exist_ok=True)
    started: list[ForkServerProcess] = []
    for rank in range(size) if ranks is None else ranks:
        started.append(_server.Process(target=work, args=(folder, Shard(rank, size, patience))))
        started[-1].start()
    return started


def end(processes: list[ForkServerProcess], seconds: float = 120) -> list[int | None]:
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, until - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


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
        if path.is_dir() or name.startswith((".hydra", "evaluate", "job.json")):
            continue
        found[name] = path.read_bytes()
        if path.suffix == ".json":
            values = json.loads(path.read_text())
            for key in ("speed", "seconds", "peak_bytes"):
                values.pop(key, None)
            found[name] = json.dumps(values)
    return found


def read_by(folder: Path, rank: int) -> list[str]:
    """The videos that a process read, in order, each as often as in a row."""
    file = folder / f"read-{rank}"
    return [name for name, _ in itertools.groupby(file.read_text())] if file.exists() else []


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one process makes of the videos."""
    folder = tmp_path_factory.mktemp("alone")
    assert end(begin(folder, 1)) == [0]
    assert read_by(folder, 0) == list(LENGTHS), "in their own order"
    return contents(folder / "output")


# Shares


def names(parts: list[list[ArrayVideo]]) -> list[str]:
    return ["".join(video.name for video in part) for part in parts]


def test_the_longest_goes_to_whom_has_least() -> None:
    """d 12, b 9, c 8, f 7, e 6, a 5 by hand."""
    assert names(shares(videos(), 1)) == ["abcdef"]
    assert names(shares(videos(), 2)) == ["dfa", "bce"]  # 12+7+5, 9+8+6
    assert names(shares(videos(), 3)) == ["da", "be", "cf"]
    assert names(shares(videos(), 8)) == ["d", "b", "c", "f", "e", "a", "", ""]


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(1, 12), max_size=7), size=st.integers(2, 3))
def test_no_video_twice_and_no_process_has_much_more(lengths: list[int], size: int) -> None:
    """Against the best of all assignments: longest first is within 4/3 of it (Graham 1969)."""
    frames = np.zeros((12, 1, 1, 3), dtype=np.uint8)
    masks = np.ones((12, 1, 1), dtype=np.uint8)
    given = [ArrayVideo(str(i), frames[:n], masks[:n]) for i, n in enumerate(lengths)]
    parts = shares(given, size)
    assert sorted(video.name for part in parts for video in part) == sorted(video.name for video in given)
    assert all([len(v) for v in part] == sorted((len(v) for v in part), reverse=True) for part in parts)
    best = min(
        max(sum(n for n, to in zip(lengths, taken, strict=True) if to == rank) for rank in range(size))
        for taken in itertools.product(range(size), repeat=len(lengths))
    )
    assert max(sum(map(len, part)) for part in parts) <= 4 / 3 * best


def test_ranks_that_cannot_be_are_refused() -> None:
    for rank, size in ((2, 2), (-1, 1), (0, 0)):
        with pytest.raises(ValueError, match=f"rank {rank} of {size} processes: ranks count from 0"):
            Shard(rank, size)
    with pytest.raises(ValueError, match="patience=0"):
        Shard(patience=0)
    with pytest.raises(ValueError, match="2 processes evaluate together: they need an output folder"):
        evaluate(STM(**SMALL), None, Benchmark("b", []), progress=False, shard=Shard(0, 2))


# Real processes


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_give_what_one_gives(tmp_path: Path, alone: dict, size: int) -> None:
    assert end(begin(tmp_path, size)) == [0] * size
    assert contents(tmp_path / "output") == alone
    assert ["".join(read_by(tmp_path, rank)) for rank in range(size)] == names(shares(videos(), size))


def test_killed_in_the_middle_and_gone_on_with_another_number(tmp_path: Path, alone: dict) -> None:
    for name in "fc":
        (tmp_path / f"stops-{name}").touch()
    processes = begin(tmp_path, 2)
    finished = tmp_path / "output" / "sequences"
    wait_until(lambda: read_by(tmp_path, 0) == ["d", "f"] and read_by(tmp_path, 1) == ["b", "c"])
    end(processes, 0)
    before = {path.name: path.read_bytes() for path in finished.glob("*.json")}
    assert before.keys() == {"d.json", "b.json"}
    assert not (tmp_path / "output" / "scores.json").exists()
    for path in (*tmp_path.glob("stops-*"), *tmp_path.glob("read-*")):
        path.unlink()
    assert end(begin(tmp_path, 3)) == [0, 0, 0]
    assert {name: (finished / name).read_bytes() for name in before} == before
    assert sorted("".join("".join(read_by(tmp_path, rank)) for rank in range(3))) == list("acef")
    assert contents(tmp_path / "output") == alone


def test_a_killed_rank_is_named_and_keeps_nobody_waiting(tmp_path: Path, alone: dict) -> None:
    (tmp_path / "stops-c").touch()  # the second of rank 1's
    first, second = begin(tmp_path, 2, patience=3)
    wait_until(lambda: read_by(tmp_path, 1) == ["b", "c"])
    second.kill()
    began = time.monotonic()
    assert end([first]) == [1]
    assert time.monotonic() - began < 60
    told = (tmp_path / "raised-0").read_text()
    assert told.startswith("DeadRank: rank 1 has given no sign of life for 3 s (the last: at work on ")
    assert (
        "It has left 2 videos undone, such as c. Finished videos are kept: the same command goes on" in told
    )
    (tmp_path / "stops-c").unlink()
    assert end(begin(tmp_path, 1)) == [0]
    assert contents(tmp_path / "output") == alone


def test_a_rank_that_fails_is_told_at_once(tmp_path: Path, alone: dict) -> None:
    """With its error; and the next attempt is not misled by what it left."""
    (tmp_path / "breaks-b").touch()  # the first of rank 1's
    assert end(begin(tmp_path, 2)) == [1, 1]
    assert (tmp_path / "raised-1").read_text() == "OSError: the disk is gone"
    told = (tmp_path / "raised-0").read_text()
    assert told.startswith("DeadRank: rank 1 failed: OSError: the disk is gone\nIt has left 3 videos undone")
    (tmp_path / "breaks-b").unlink()
    assert (tmp_path / "output" / "ranks" / "1").exists()
    first = begin(tmp_path, 2, ranks=[0])
    wait_until(lambda: (tmp_path / "output" / "ranks" / "0").read_text().startswith("at work"))
    time.sleep(1)
    assert first[0].is_alive()
    assert end([*first, *begin(tmp_path, 2, ranks=[1])]) == [0, 0]
    assert contents(tmp_path / "output") == alone


def test_a_rank_that_fails_in_the_words_of_an_earlier_attempt_is_told_at_once(tmp_path: Path) -> None:
    left = tmp_path / "output" / "ranks" / "1"
    left.parent.mkdir(parents=True)
    left.write_text("failed: OSError: the disk is gone")
    for what in ("breaks-b", "stops-d"):  # the first ones of rank 1 and 0
        (tmp_path / what).touch()
    first = begin(tmp_path, 2, ranks=[0])
    wait_until(lambda: read_by(tmp_path, 0) == ["d"])
    assert end(begin(tmp_path, 2, ranks=[1])) == [1]
    (tmp_path / "stops-d").unlink()
    assert end(first, 60) == [1]
    told = (tmp_path / "raised-0").read_text()
    assert told.startswith("DeadRank: rank 1 failed: OSError: the disk is gone")


def test_a_rank_that_never_comes(tmp_path: Path) -> None:
    assert end(begin(tmp_path, 2, patience=1, ranks=[1])) == [1]
    told = (tmp_path / "raised-1").read_text()
    assert told.startswith("DeadRank: rank 0 has given no sign of life for 1 s (the last: none): it died, or")
    assert f"its node does not see {tmp_path / 'output'}\nIt has left 3 videos undone, such as d." in told


# evaluate.py, as launchers start it


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    weights = {f"network.{name}": tensor for name, tensor in STM(**SMALL).state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoint") / "one.ckpt"
    torch.save({"config": {"network": SMALL}, "state_dict": weights}, path)
    return path


def command(checkpoint: Path, name: str, *more: str) -> tuple[str, ...]:
    """Eight videos of six frames."""
    clips = ("benchmark=synthetic", *VIDEOS, "benchmark.count=8", "threads=1")
    return (f"checkpoint={checkpoint}", *clips, f"name={name}", "submission=davis", *more)


def launch(folder: Path, size: int, *arguments: str) -> list[Running]:
    """As a launcher does, on one machine."""
    variables = {"WORLD_SIZE": str(size)}
    return [
        start(
            "evaluate.py",
            *arguments,
            folder=folder,
            environment=variables | {"RANK": str(r), "LOCAL_RANK": str(r)},
        )
        for r in range(size)
    ]


def table(printed: str, name: str) -> str:
    """What is printed, without what differs between runs: the folder, and speed and memory."""
    lines = [line.rstrip() for line in printed.replace(f"/{name}/", "/NAME/").splitlines()]
    return "\n".join(line for line in lines if "frames a second" not in line and "━" not in line)


def test_evaluate_py_in_two_processes(tmp_path: Path, checkpoint: Path) -> None:
    code, printed = run("evaluate.py", *command(checkpoint, "one"), folder=tmp_path)
    assert code == 0, printed
    first, second = launch(tmp_path, 2, *command(checkpoint, "two"))
    assert (first.wait(), second.wait()) == (0, 0), first.output + second.output
    one, two = (tmp_path / "runs" / "evaluate" / name for name in ("one", "two"))
    assert contents(two) == contents(one)
    assert "davis.zip" in contents(two) and "all objects" in first.output
    assert second.output == "", "one speaks"
    for rank, log in enumerate(("evaluate.log", "evaluate_rank1.log")):
        assert f"4 of 8 videos are the share of rank {rank} of 2" in (two / log).read_text()
    assert "share of rank" not in printed
    assert table(first.output, "two").endswith(table(printed, "one"))


def test_evaluate_py_names_the_dead_rank(tmp_path: Path, checkpoint: Path) -> None:
    variables = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "1"}
    arguments = command(checkpoint, "late", "patience=1")
    code, output = run("evaluate.py", *arguments, folder=tmp_path, environment=variables)
    assert code == 1 and "Traceback" not in output
    assert re.search(r"evaluate\.py: rank [02] has given no sign of life for 1 s", output)
    code, output = run("evaluate.py", *arguments, folder=tmp_path, environment=variables | {"RANK": "4"})
    assert code == 1 and "rank 4 of 1 processes" in output


def test_told_to_end_it_says_how_to_go_on(tmp_path: Path, checkpoint: Path) -> None:
    """torchrun and srun send SIGTERM to the others when one process has failed."""
    first, second = launch(tmp_path, 2, *command(checkpoint, "cut", "benchmark.frames=200"))
    first.wait_until(lambda: (tmp_path / "runs" / "evaluate" / "cut" / "ranks" / "0").exists())
    second.kill()
    assert first.process.pid is not None
    os.kill(first.process.pid, signal.SIGTERM)
    assert first.wait(60) == 128 + signal.SIGTERM
    assert "another process has failed. Finished videos are kept: the same command goes on" in first.output
    assert "Traceback" not in first.output


def outside(**more: str) -> dict[str, str]:
    return {**slurm_cluster.outside_environment(), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}


@pytest.mark.slow
def test_torchrun(tmp_path: Path, checkpoint: Path) -> None:
    """Two processes; one killed ends both, named; then three go on."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    script = (str(ROOT / "evaluate.py"), *command(checkpoint, "many", "benchmark.frames=60"))
    output = tmp_path / "runs" / "evaluate" / "many"
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [*torchrun, "--nproc_per_node=2", *script], cwd=tmp_path, env=outside(), stdout=said, stderr=said
        )
        wait_until(lambda: len(list((output / "sequences").glob("*.json"))) >= 2, 300)
        os.kill(worker(process.pid, "1"), signal.SIGKILL)
        assert process.wait(120) == 1
    told = (tmp_path / "said").read_text()
    assert re.search(r"rank +: 1 \(local_rank: 1\)\n +exitcode +: -9", told), told
    assert "Finished videos are kept: the same command goes on, with any number of processes." in told
    assert not (output / "scores.json").exists()
    again = subprocess.run(
        [*torchrun, "--nproc_per_node=3", *script],
        cwd=tmp_path,
        env=outside(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("all objects") == 1
    code, printed = run("evaluate.py", *command(checkpoint, "one", "benchmark.frames=60"), folder=tmp_path)
    assert code == 0, printed
    assert contents(output) == contents(tmp_path / "runs" / "evaluate" / "one")


def worker(parent: int, rank: str) -> int:
    """torchrun's process of that rank."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            mine = f"\nPPid:\t{parent}\n" in (entry / "status").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if mine and f"RANK={rank}".encode() in variables:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_cluster.Cluster]:
    if reason := slurm_cluster.lacking():
        pytest.skip(reason)
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.mark.slow
def test_srun_on_two_nodes(tmp_path: Path, checkpoint: Path, cluster: slurm_cluster.Cluster) -> None:
    """Three tasks on two nodes; in the batch script itself, without srun, it is one process."""
    words = " ".join(map(repr, (sys.executable, str(ROOT / "evaluate.py"), *command(checkpoint, "many"))))
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\nsrun --kill-on-bad-exit=1 {words}\n{words.replace('=many', '=one')}\n")
    size = (
        "--nodes=2",
        "--ntasks=3",
        "--cpus-per-task=1",
        f"--output={tmp_path}/said",
        f"--chdir={tmp_path}",
    )
    job = cluster.run("sbatch", *size, str(script)).split()[-1]
    state = cluster.wait(job, ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), 600)
    said = (tmp_path / "said").read_text()
    assert state["JobState"] == "COMPLETED", said
    many, one = (tmp_path / "runs" / "evaluate" / name for name in ("many", "one"))
    assert contents(many) == contents(one)
    assert said.count("all objects") == 2
    assert {path.name for path in many.glob("*.log")} == {
        "evaluate.log",
        "evaluate_rank1.log",
        "evaluate_rank2.log",
    }
    assert {path.name for path in one.glob("*.log")} == {"evaluate.log"}
