"""`evaluate.py` in several processes: started by its trainer, by torchrun and by srun."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import slurm_cluster
from helpers.commands import ROOT, VIDEOS, contents, start, succeed, wait_until
from helpers.small_networks import save
from helpers.training_runs import TWO, second_process, shell_environment, torchrun_worker


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoint") / "one.ckpt")


def command(checkpoint: Path, name: str, *more: str, frames: int = 6) -> tuple[str, ...]:
    """Return the overrides of an evaluation of eight videos."""
    videos = ("benchmark=synthetic", *VIDEOS, "benchmark.count=8", f"benchmark.frames={frames}", "threads=1")
    return (f"checkpoint={checkpoint}", *videos, f"name={name}", "submission=davis", *more)


def output_folder(folder: Path, name: str) -> Path:
    return folder / "runs" / "evaluate" / name


def sequences(output: Path) -> list[Path]:
    return list((output / "sequences").glob("*.json"))


def table(printed: str, name: str) -> str:
    """Return the printed table and notes without the folder's name, speed and memory."""
    lines = printed.replace(f"/{name}/", "/NAME/").splitlines()
    begin = next(i for i, line in enumerate(lines) if "; memory: " in line)
    return "\n".join(line for line in lines[begin:] if "frames/s" not in line)


@pytest.mark.slow
def test_two_processes_of_the_trainer_equal_one(tmp_path: Path, checkpoint: Path) -> None:
    single = succeed("evaluate.py", *command(checkpoint, "single"), folder=tmp_path)
    pair = succeed("evaluate.py", *command(checkpoint, "pair"), *TWO, folder=tmp_path)
    output = output_folder(tmp_path, "pair")
    assert contents(output) == contents(output_folder(tmp_path, "single"))
    assert "davis.zip" in contents(output)
    assert table(pair, "pair") == table(single, "single")
    assert "videos are evaluated by rank" not in single
    assert "by rank 0 of 2" in pair and "by rank 1 of 2" not in pair, "only rank 0 logs to the console"
    for rank, log in enumerate(("evaluate.log", "evaluate_rank1.log")):
        assert f"4 of 8 videos are evaluated by rank {rank} of 2" in (output / log).read_text()


@pytest.mark.slow
def test_a_killed_process_of_the_trainer_ends_the_evaluation(tmp_path: Path, checkpoint: Path) -> None:
    arguments = (*command(checkpoint, "killed", frames=80), *TWO)
    output = output_folder(tmp_path, "killed")
    running = start("evaluate.py", *arguments, folder=tmp_path)
    running.wait_until(lambda: len(sequences(output)) >= 2)
    os.kill(second_process(running), signal.SIGKILL)
    assert running.wait(60) != 0
    assert "terminated with code -9" in running.output or "was killed by SIGKILL" in running.output
    assert not (output / "scores.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in sequences(output)}
    succeed("evaluate.py", *arguments, folder=tmp_path)
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    succeed("evaluate.py", *command(checkpoint, "single", frames=80), folder=tmp_path)
    assert contents(output) == contents(output_folder(tmp_path, "single"))


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [(), TWO], ids=["one process", "two processes"])
def test_sigterm_ends_the_evaluation(tmp_path: Path, checkpoint: Path, trainer: tuple[str, ...]) -> None:
    running = start("evaluate.py", *command(checkpoint, "ended", *trainer, frames=300), folder=tmp_path)
    running.wait_until(lambda: bool(sequences(output_folder(tmp_path, "ended"))))
    other = second_process(running) if trainer else None
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGTERM)
    assert running.wait(60) == 128 + signal.SIGTERM
    assert "finished videos are kept, and the same command resumes" in running.output
    assert "Traceback" not in running.output
    assert other is None or not Path(f"/proc/{other}").exists()


@pytest.mark.slow
def test_torchrun(tmp_path: Path, checkpoint: Path) -> None:
    """A killed process ends both; the same command with three processes resumes."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    script = (str(ROOT / "evaluate.py"), *command(checkpoint, "many", frames=80))
    output, log = output_folder(tmp_path, "many"), tmp_path / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*torchrun, "--nproc_per_node=2", *script],
            cwd=tmp_path,
            env=shell_environment(),
            stdout=file,
            stderr=file,
        )
        wait_until(lambda: len(sequences(output)) >= 2, 300)
        os.kill(torchrun_worker([process.pid], "1"), signal.SIGKILL)
        assert process.wait(120) == 1
    assert "exitcode  : -9" in log.read_text()
    assert "finished videos are kept, and the same command resumes" in log.read_text()
    assert not (output / "scores.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in sequences(output)}
    resumed = subprocess.run(
        [*torchrun, "--nproc_per_node=3", *script],
        cwd=tmp_path,
        env=shell_environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("all objects") == 1
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    succeed("evaluate.py", *command(checkpoint, "single", frames=80), folder=tmp_path)
    assert contents(output) == contents(output_folder(tmp_path, "single"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_cluster.Cluster]:
    if reason := slurm_cluster.lacking():
        pytest.skip(reason)
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.mark.slow
def test_srun_on_two_nodes(tmp_path: Path, checkpoint: Path, cluster: slurm_cluster.Cluster) -> None:
    """Two tasks run on two nodes; without srun the batch script evaluates in one process."""
    words = " ".join(map(repr, (sys.executable, str(ROOT / "evaluate.py"), *command(checkpoint, "many"))))
    script = tmp_path / "job.sh"
    single = words.replace("=many", "=single")
    script.write_text(f"#!/bin/bash\nsrun --kill-on-bad-exit=1 {words}\n{single}\n")
    options = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", f"--output={tmp_path}/log.txt")
    job = cluster.run("sbatch", *options, f"--chdir={tmp_path}", str(script)).split()[-1]
    state = cluster.wait(job, ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), 600)
    log = (tmp_path / "log.txt").read_text()
    assert state["JobState"] == "COMPLETED", log
    many, one = output_folder(tmp_path, "many"), output_folder(tmp_path, "single")
    assert contents(many) == contents(one)
    assert log.count("all objects") == 2
    assert {path.name for path in many.glob("*.log")} == {"evaluate.log", "evaluate_rank1.log"}
    assert {path.name for path in one.glob("*.log")} == {"evaluate.log"}
