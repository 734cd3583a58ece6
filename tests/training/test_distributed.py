"""Several processes train as one, alone and in a sweep, and end together. Real processes, gloo."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.commands import ROOT, TINY, run, start, succeed
from helpers.training_runs import TWO, checkpoint, children, furthest, rows, second_process, trains, weights
from hydra import compose, initialize_config_dir

from stm.config.environment import cpus
from stm.config.resolvers import gpu_of_job, gpus_per_node, job_setup, tasks_per_node
from stm.config.schema import CONF

SGD = ("optimizer._target_=torch.optim.SGD", "optimizer.lr=1e-3", "scheduler=constant")
TRAINING = (*TINY, "final_benchmark=null", "trainer.log_every_n_steps=1")


def test_a_batch_that_does_not_divide_is_refused_before_anything_starts(tmp_path: Path) -> None:
    code, output = run("train.py", *TRAINING, *TWO, "batch_size=3", "name=odd", folder=tmp_path)
    assert code == 1 and "Traceback" not in output
    assert "batch_size=3: must be a multiple of the number of processes, 2, such as 4" in output
    assert "Initializing distributed" not in output


def test_slurm_without_srun_is_refused(tmp_path: Path) -> None:
    """It would wait for processes that nobody starts."""
    cpu = ("trainer=slurm", "trainer.accelerator=cpu", "name=alone")
    job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "1"}
    for environment in ({}, job):
        code, output = run("train.py", *TRAINING, *cpu, folder=tmp_path, environment=environment)
        assert code == 1 and "Traceback" not in output
        assert "trainer=slurm: srun has not started this process; in a job write `srun python" in output


def test_each_job_of_a_sweep_has_a_gpu_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert [gpu_of_job(number) for number in range(5)] == ["4", "5", "7", "4", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_of_job(2) == ""


@pytest.mark.parametrize(("devices", "tasks"), [(4, 4), ("2", 2), ([0, 3], 2)])
def test_a_job_of_slurm_has_a_task_for_each_device(devices: object, tasks: int) -> None:
    assert tasks_per_node(devices) == tasks
    assert (gpus_per_node("gpu", devices), gpus_per_node("cpu", devices)) == (tasks, None)
    for unknown in ("auto", -1):
        with pytest.raises(ValueError, match=f"trainer.devices={unknown}: must be the number of devices"):
            tasks_per_node(unknown)


def test_processes_have_as_many_cpus_as_the_job_says(tmp_path: Path) -> None:
    """In SLURM 22.05 to 23.02 srun must be told; here something else tells what it hears."""
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$SRUN_CPUS_PER_TASK" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "6"}
    submitits = "\n".join([*job_setup(["module() { :; }", "module load cuda"]), "srun ..."])
    script = (ROOT / "docs" / "train.sbatch").read_text()
    told = " --cpus-per-task=6 --kill-on-bad-exit=1 python train.py"
    for lines, heard in ((submitits, "6 ..."), (script, told)):
        said = subprocess.run(["bash"], input=lines, env=environment, capture_output=True, text=True).stdout
        assert said.startswith(heard)


def test_a_job_has_the_loading_processes_of_its_own_cpus(tmp_path: Path) -> None:
    """Not of all that the machine has, where srun leaves the others to it unbound."""
    settings = (*TRAINING, "steps=1000", "validate_every=1000", "data.num_workers=2", "name=run")
    running = start("train.py", *settings, folder=tmp_path, environment={"SLURM_CPUS_PER_TASK": "1"})
    running.wait_until(lambda: trains(tmp_path / "runs" / "run"))
    assert running.process.pid is not None
    loading = children(running.process.pid)
    running.kill()
    assert len(loading) == 1
    everywhere = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(everywhere)})
        assert cpus() == 1
    finally:
        os.sched_setaffinity(0, everywhere)


def sbatch_commands() -> list[str]:
    told = (ROOT / "docs" / "train.sbatch").read_text() + (ROOT / "docs" / "clusters.md").read_text()
    return re.findall(r"^(?:# )?(sbatch .*docs/train\.sbatch .*)$", told, re.MULTILINE)


@pytest.mark.parametrize("command", sbatch_commands())
def test_the_batch_divides_among_the_processes_of_the_docs_jobs(command: str) -> None:
    """An option of sbatch counts more than the script's own line."""
    script = (ROOT / "docs" / "train.sbatch").read_text()
    options, _, overrides = command.partition("docs/train.sbatch ")
    told = {}
    for words in (script.partition("#SBATCH")[2], options):
        told |= dict(re.findall(r"--(nodes|ntasks-per-node|gpus-per-node)=(\d+)", words))
    nodes, tasks = int(told["nodes"]), int(told["ntasks-per-node"])
    assert told["gpus-per-node"] == told["ntasks-per-node"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("train", overrides.split()).batch_size % (nodes * tasks) == 0


@pytest.mark.slow
def test_jobs_side_by_side(tmp_path: Path) -> None:
    """In a process of its own kind: those of `commands` end without joblib's clearing up, and wait for it."""
    jobs = ("-m", *TRAINING, "launcher=parallel", "launcher.jobs=2", "name=sweep", "seed=1,2")
    command = [sys.executable, str(ROOT / "train.py"), *jobs]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    folders = sorted(path for path in (tmp_path / "runs" / "sweep").iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["0_seed-1", "1_seed-2"]
    began = [(folder / ".hydra" / "config.yaml").stat().st_mtime for folder in folders]
    ended = [(folder / "checkpoints" / "last.ckpt").stat().st_mtime for folder in folders]
    assert max(began) < min(ended), "at the same time"
    assert [checkpoint(folder)["global_step"] for folder in folders] == [4, 4]
    command += [*TWO, "name=no"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert "trainer.devices: 2 devices a job cannot be combined with launcher=parallel" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "variant"),
    [
        ("32-true", ()),
        ("64-true", ("network.key_input=image_mask", "network.similarity=dot", "data.num_workers=1")),
    ],
    ids=["single", "double, the paper's keys"],
)
def test_processes_and_accumulation_do_not_change_the_training(
    tmp_path: Path, precision: str, variant: tuple[str, ...]
) -> None:
    """The same clips; gradients differ by rounding alone, which Adam's first steps would blow up.

    In single precision, rounding changes the sign of the input of a ReLU about every tenth step, and the
    gradient then jumps by a thousandth; so its norm is compared in double precision only.
    """
    loss = ("loss.dice=0.5", "loss.bootstrap_fraction=0.3", "loss.bootstrap_start_step=0")
    settings = (*TRAINING, *SGD, *loss, "loss.bootstrap_end_step=10", "steps=20", "validate_every=10")
    settings = (*settings, "benchmark.count=1", f"trainer.precision={precision}", "batch_size=4", *variant)
    one, *others = (tmp_path / "runs" / name for name in ("one", "accumulated", "two", "four"))
    for folder, options in (
        (one, ()),
        (others[0], ("batch_size=2", "trainer.accumulate_grad_batches=2")),
        (others[1], TWO),
        (others[2], (*TWO, "trainer.devices=4")),
    ):
        succeed("train.py", *settings, *options, f"name={folder.name}", folder=tmp_path)
    before = torch.load(one / "checkpoints" / "previous.ckpt", weights_only=True)["state_dict"]
    assert furthest(before, weights(one)) > 1e-5, "in one step"
    for other in others:
        assert furthest(weights(one), weights(other)) < (1e-6 if precision == "32-true" else 1e-13)
        for column in ("train/loss", "train/gradient_norm"):
            ours, theirs = ({r["step"]: float(r[column]) for r in rows(f) if r[column]} for f in (one, other))
            if column == "train/loss":
                assert [*ours] == [*theirs] == [str(step) for step in range(20)]
            if (column, precision) != ("train/gradient_norm", "32-true") and other.name != "accumulated":
                assert theirs == pytest.approx(ours, rel=1e-4 if precision == "32-true" else 1e-9)


@pytest.mark.slow
def test_a_sweep_on_two_devices_runs_each_job_once(tmp_path: Path) -> None:
    jobs = ("-m", *TINY, *TWO, "trainer.log_every_n_steps=1", "name=sweep", "memory=first,every_5")
    output = succeed("train.py", *jobs, folder=tmp_path)
    sweep = tmp_path / "runs" / "sweep"
    folders = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["0_memory-first", "1_memory-every_5"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sweep"], "and no folder beside"
    assert output.count("MEMBER: 1/2") == 2 and "MEMBER: 2/2" not in output, "one process speaks"
    assert output.count("all objects") == 2, "the test phase, once a job"
    for folder in folders:
        assert [row["step"] for row in rows(folder) if row["train/loss"]] == ["0", "1", "2", "3"]
        assert len(list(folder.glob("test_*/scores.json"))) == 1
        assert (folder / ".hydra" / "config.yaml").exists()
        told = (folder / "train_rank1.log").read_text()
        assert told.count("MEMBER: 2/2") == 1
        assert told.count("1 of 2 videos are evaluated by rank 1 of 2") == 1, "of the test phase, too"
        assert not list(folder.glob("test_*/ranks"))
    memories = [checkpoint(folder)["config"]["memory"]["every"] for folder in folders]
    assert len(set(map(str, memories))) == 2
    alone = ("train.py", *TRAINING, *TWO, "memory=every_5", "name=alone")
    succeed(*alone, folder=tmp_path)
    assert furthest(weights(folders[1]), weights(tmp_path / "runs" / "alone")) == 0


@pytest.mark.slow
def test_a_mistake_in_a_sweep_on_two_devices_spares_the_other_job(tmp_path: Path) -> None:
    jobs = ("-m", *TRAINING, *TWO, "name=sweep", "monitor=val/nothing,val/J")
    code, output = run("train.py", *jobs, folder=tmp_path)
    assert code == 1
    assert "monitor=val/nothing: must be one of" in output
    (finished,) = (tmp_path / "runs" / "sweep").glob("1_*")
    assert checkpoint(finished)["global_step"] == 4


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run(tmp_path: Path) -> None:
    settings = (*TRAINING, *TWO, "steps=1000", "validate_every=1000", "save_every=5", "name=run")
    running = start("train.py", *settings, folder=tmp_path)
    running.wait_until(lambda: trains(tmp_path / "runs" / "run"))
    os.kill(second_process(running), signal.SIGKILL)
    began = time.monotonic()
    assert running.wait(60) != 0
    assert time.monotonic() - began < 30
    assert "the process of rank 1 was killed by SIGKILL" in running.output


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up(tmp_path: Path) -> None:
    """Within the time limit, which is half a minute here."""
    limit = ("trainer.strategy.timeout.minutes=0.5", "steps=1000", "validate_every=1000", "save_every=5")
    running = start("train.py", *TRAINING, *TWO, *limit, "name=run", folder=tmp_path)
    running.wait_until(lambda: trains(tmp_path / "runs" / "run"))
    other = second_process(running)
    os.kill(other, signal.SIGSTOP)
    began = time.monotonic()
    assert running.wait(120) == 1
    assert 25 < time.monotonic() - began < 60
    assert not Path(f"/proc/{other}").exists()
    assert "Timed out waiting 30000ms" in running.output


@pytest.mark.slow
def test_processes_that_would_go_on_from_different_steps_are_refused(tmp_path: Path) -> None:
    """Two nodes that do not share the run's folder; the second has an older checkpoint, or none."""
    succeed("train.py", *TRAINING, "name=run", folder=tmp_path / "0")
    checkpoints = tmp_path / "1" / "runs" / "run" / "checkpoints"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    nodes = ("trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2", "resume=auto", "steps=8")
    for older in ("no", "previous.ckpt"):
        if older != "no":
            checkpoints.mkdir(parents=True)
            kept = tmp_path / "0" / "runs" / "run" / "checkpoints" / older
            shutil.copy(kept, checkpoints / "last.ckpt")
        running = [
            start(
                "train.py",
                *TRAINING,
                *nodes,
                "name=run",
                folder=tmp_path / str(node),
                environment={"NODE_RANK": str(node), **meet},
            )
            for node in (0, 1)
        ]
        assert [one.wait(120) for one in running] == [1, 1], running[0].output + running[1].output
        step = 0 if older == "no" else 3
        for one in running:
            assert "Traceback" not in one.output
            assert "the processes would resume from different steps: rank 0 from step 4 (" in one.output
            assert f"rank 1 from step {step} (" in one.output
            assert "all nodes must see one run folder" in one.output
    assert checkpoint(tmp_path / "0" / "runs" / "run")["global_step"] == 4


@pytest.mark.slow
def test_the_first_process_takes_the_others_along(tmp_path: Path) -> None:
    """An error on rank zero alone: the others would wait for it in a collective."""
    settings = (*TRAINING, *TWO, "monitor=val/nothing", "name=run")
    running = start("train.py", *settings, folder=tmp_path)
    running.wait_until(lambda: trains(tmp_path / "runs" / "run"))
    other = second_process(running)
    assert running.wait(60) == 1
    assert not Path(f"/proc/{other}").exists()
    assert "monitor=val/nothing: must be one of" in running.output


@pytest.mark.slow
def test_told_to_end_two_processes_write_one_checkpoint_and_go_on(tmp_path: Path) -> None:
    settings = (*TRAINING, *TWO, "steps=40", "validate_every=40", "save_every=1000", "resume=auto")
    succeed("train.py", *settings, "name=whole", folder=tmp_path)
    running = start("train.py", *settings, "name=cut", folder=tmp_path)
    running.wait_until(lambda: trains(tmp_path / "runs" / "cut"))
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGTERM)
    assert running.wait(60) == 128 + signal.SIGTERM
    assert 0 < checkpoint(tmp_path / "runs" / "cut")["global_step"] < 40
    assert "SIGTERM: stopped after step" in running.output and "Traceback" not in running.output
    succeed("train.py", *settings, "name=cut", folder=tmp_path)
    assert furthest(weights(tmp_path / "runs" / "whole"), weights(tmp_path / "runs" / "cut")) == 0
