"""`evaluate.py` in several processes: started by hand, by torchrun, by srun."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import slurm_cluster
from helpers.commands import ROOT, VIDEOS, Running, contents, run, start, wait_until
from helpers.small_networks import save


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoint") / "one.ckpt")


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
