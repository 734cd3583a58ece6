"""On a real SLURM of two nodes: a job of sbatch that is preempted, and sweeps through submitit."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import slurm_cluster
from helpers.commands import ROOT, TINY
from helpers.logged_values import history, records
from helpers.slurm_cluster import Cluster, wait_until
from helpers.training_runs import checkpoint
from training.test_resume import assert_equal

pytestmark = pytest.mark.slow
ON_CPU = ("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.benchmark=false")
NODES = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := slurm_cluster.lacking():
        pytest.skip(reason)
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def submit(cluster: Cluster, folder: Path, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """The job's number; its output is in `folder`."""
    log = f"--output={folder}/job-%j.log"
    said = cluster.run("sbatch", *NODES, log, *options, "docs/train.sbatch", *ON_CPU, *arguments, folder=ROOT)
    return said.split()[-1]


def log_of(folder: Path, job: str) -> str:
    file = folder / f"job-{job}.log"
    return file.read_text() if file.exists() else ""


def steps(run: Path) -> list[int]:
    """Return the logged optimizer steps."""
    try:
        with (run / "logs" / "metrics.csv").open(newline="") as file:
            return [int(row["step"]) for row in csv.DictReader(file) if row.get("train/loss")]
    except (FileNotFoundError, ValueError):
        return []


def finished(cluster: Cluster, job: str, folder: Path, seconds: float = 300) -> None:
    states = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    state = cluster.wait(job, states, seconds)["JobState"]
    assert state == "COMPLETED", log_of(folder, job)


def processes(job: str) -> dict[int, int]:
    """The job's training processes: rank -> number, by SLURM's variables."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        variables = dict(word.split("=", 1) for word in words if "=" in word)
        if variables.get("SLURM_JOB_ID") == job and "SLURM_STEP_ID" in variables and "train.py" in command:
            found[int(variables["SLURM_PROCID"])] = int(entry.name)
    return found


def test_a_job_that_is_requeued_and_killed_ends_as_a_whole_one(cluster: Cluster, tmp_path: Path) -> None:
    """Two nodes; `scontrol requeue` twice while it runs, SIGKILL once; the W&B run continues."""
    total = 300
    training = (*TINY, f"steps={total}", f"validate_every={total}", "save_every=10", "logger=wandb")
    training += ("trainer.log_every_n_steps=1", f"output_root={tmp_path}", "scheduler=warmup_linear")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    job = submit(cluster, tmp_path, *training, "name=cut")
    for _ in range(2):
        before = len(steps(cut))
        wait_until(lambda: len(steps(cut)) > before + 12, 180, lambda: log_of(tmp_path, job))  # noqa: B023
        cluster.run("scontrol", "requeue", job)
        cluster.wait(job, ("PENDING",), 90)
        at = checkpoint(cut)["global_step"]
        assert f"SIGTERM: stopped after step {at}, whose checkpoint is written" in log_of(tmp_path, job)
        assert before < at < total
    before = len(steps(cut))
    wait_until(lambda: len(steps(cut)) > before + 12, 180, lambda: log_of(tmp_path, job))
    os.kill(processes(job)[1], signal.SIGKILL)
    began = time.monotonic()
    cluster.wait(job, ("FAILED",), 90)
    assert time.monotonic() - began < 60, "no process waits for the dead one"
    assert checkpoint(cut)["global_step"] < total
    cluster.run("scontrol", "requeue", job)
    finished(cluster, job, tmp_path)
    job = submit(cluster, tmp_path, *training, "name=whole")
    finished(cluster, job, tmp_path)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "callbacks"):
        assert_equal(checkpoint(whole)[key], checkpoint(cut)[key], key)
    assert steps(cut) == steps(whole) == list(range(total))
    assert {path.name for path in cut.glob("train*.log")} == {"train.log", "train_rank1.log"}
    starts = records(cut)
    assert len(starts) == 4
    told = {record.run.run_id for start in starts for record in start if record.HasField("run")}
    assert told == {(cut / "wandb_id.txt").read_text()}
    logged = [
        {line["trainer/global_step"] for line in history(start) if "train/loss" in line} for start in starts
    ]
    assert logged[-1] == set(range(min(logged[-1]), total)), "a killed one may lose what was not yet on disk"


def test_a_job_whose_time_is_nearly_up_requeues_itself(cluster: Cluster, tmp_path: Path) -> None:
    """SIGUSR1, as `--signal` sends it; the run has no name, and is found again all the same."""
    total = 150
    training = (*TINY, f"steps={total}", f"validate_every={total}", "save_every=1000", "final_benchmark=null")
    training += ("trainer.log_every_n_steps=1", f"output_root={tmp_path}", "name=${default_run_name:}")
    job = submit(cluster, tmp_path, *training)
    run = tmp_path / f"slurm_{job}_0"
    wait_until(lambda: len(steps(run)) > 5, 180, lambda: log_of(tmp_path, job))
    cluster.run("scancel", "--signal=USR1", job)
    wait_until(lambda: cluster.job(job)["Restarts"] == "1", 60)
    assert 0 < checkpoint(run)["global_step"] < total
    assert "the job is requeued" in log_of(tmp_path, job)
    finished(cluster, job, tmp_path)
    assert checkpoint(run)["global_step"] == total
    assert steps(run) == list(range(total))


def test_a_job_that_slurm_would_not_requeue(cluster: Cluster, tmp_path: Path) -> None:
    """It is preempted, and ends within its partition's grace time. Then it comes to its limit before it has
    answered the warning: its processes stand still until SLURM wakes them with SIGTERM.
    """
    total = 150
    training = (*TINY, f"steps={total}", f"validate_every={total}", "save_every=1000", "final_benchmark=null")
    training += ("trainer.log_every_n_steps=1", f"output_root={tmp_path}", "name=run")
    job = submit(cluster, tmp_path, *training, options=("--time=10",))
    run = tmp_path / "run"
    wait_until(lambda: len(steps(run)) > 5, 180, lambda: log_of(tmp_path, job))
    other = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.run("sbatch", *other)
    wait_until(lambda: cluster.job(job)["Restarts"] == "1", 60, lambda: log_of(tmp_path, job))
    before = checkpoint(run)["global_step"]
    assert 0 < before < total
    told = f"SIGTERM: stopped after step {before}, whose checkpoint is written; the job is requeued"
    assert told in log_of(tmp_path, job)
    wait_until(lambda: len(steps(run)) > before + 5, 180, lambda: log_of(tmp_path, job))
    for process in processes(job).values():
        os.kill(process, signal.SIGSTOP)
    cluster.run("scancel", "--signal=USR1", job)
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    wait_until(lambda: cluster.job(job)["Restarts"] == "2", 120, lambda: log_of(tmp_path, job))
    cluster.wait(job, ("PENDING",), 90)
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    assert before < checkpoint(run)["global_step"] < total
    finished(cluster, job, tmp_path)
    assert steps(run) == list(range(total))


def test_a_canceled_job_stays_canceled(cluster: Cluster, tmp_path: Path) -> None:
    """Even if it was warned before, and has not answered yet."""
    training = (*TINY, "steps=1000", "validate_every=1000", "save_every=1000", "final_benchmark=null")
    job = submit(
        cluster, tmp_path, *training, "trainer.log_every_n_steps=1", f"output_root={tmp_path}", "name=run"
    )
    wait_until(lambda: len(steps(tmp_path / "run")) > 5, 180, lambda: log_of(tmp_path, job))
    for process in processes(job).values():
        os.kill(process, signal.SIGSTOP)
    cluster.run("scancel", "--signal=USR1", job)
    cluster.run("scancel", job)
    cluster.wait(job, ("CANCELLED",), 90)
    assert checkpoint(tmp_path / "run")["global_step"] > 5
    time.sleep(8)  # a requeued one would begin again
    assert cluster.job(job)["JobState"] == "CANCELLED"


@contextmanager
def sweeping(cluster: Cluster, folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen, Callable]]:
    """train.py -m with launcher=slurm, as by a user on a login node; and what it says."""
    arguments += ("trainer.log_every_n_steps=1", f"output_root={folder}", "name=sweep", "launcher.cpus=1")
    command = [sys.executable, str(ROOT / "train.py"), "-m", "launcher=slurm", *arguments, *ON_CPU]
    environment = {**slurm_cluster.outside_environment(), **cluster.environment}
    log = folder / f"output-{len(list(folder.glob('output-*')))}.txt"
    with log.open("w") as output:
        sweep = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in the background
        )
        try:
            yield sweep, log.read_text
        finally:
            sweep.kill()


def test_a_sweep_of_submitit(cluster: Cluster, tmp_path: Path) -> None:
    """Four jobs of an array, three at a time; one is canceled midway, one requeues itself.

    The last one has the array's number, by which SLURM would requeue all of them.
    """
    total = 60
    training = (*TINY, f"steps={total}", f"validate_every={total}", "save_every=10", "final_benchmark=null")
    keys = ("launcher.account=vision", "launcher.partition=main", "launcher.constraint=small")
    keys += ("launcher.jobs=3", "launcher.time=30", "trainer=slurm", "trainer.devices=1", "seed=1,2,3,4")
    runs = {number: tmp_path / "sweep" / f"{number - 1}_seed-{number}" for number in (1, 2, 3, 4)}
    with sweeping(cluster, tmp_path, *training, *keys) as (sweep, said):
        wait_until(lambda: len(steps(runs[3])) > 3, 240, said)
        array = cluster.run("squeue", "-h", "-o%F").split()[0]
        assert cluster.job(f"{array}_2")["Account"] == "vision"
        assert cluster.job(f"{array}_2")["Features"] == "small"
        assert cluster.job(f"{array}_2")["TimeLimit"] == "00:30:00"
        cluster.run("scancel", f"{array}_2")
        wait_until(lambda: len(steps(runs[4])) > 3, 240, said)
        assert cluster.job(f"{array}_3")["JobId"] == array
        cluster.run("scancel", "--signal=USR1", f"{array}_3")
        wait_until(lambda: not cluster.run("squeue", "-h"), 300, said)
        assert sweep.wait(200) != 0
        ends = cluster.run("sacct", "-XDnP", "-j", array, "-o", "jobid,state").splitlines()
        assert [end for end in ends if "REQUEUED" in end] == [f"{array}_3|REQUEUED"]
    assert [checkpoint(run)["global_step"] for run in (runs[1], runs[2], runs[4])] == [total] * 3
    assert checkpoint(runs[3])["global_step"] < total
    assert steps(runs[4]) == list(range(total))
    assert {path.name for path in (tmp_path / "sweep").iterdir() if not path.name.startswith(".")} == {
        *(run.name for run in runs.values()),
        *("multirun.yaml", "jobs.json", "table.md", "table.csv"),
    }
    with (tmp_path / "sweep" / "table.csv").open(newline="") as file:
        told = {Path(row["folder"]).name: row["status"] for row in csv.DictReader(file)}
    assert told == {run.name: "unfinished" if run == runs[3] else "completed" for run in runs.values()}
    assert "3 of 4 jobs are finished." in said() and "Traceback" not in said()
    assert f"SLURM job {array}_2 returned no result (state: CANCELLED" in said()


def test_ctrl_c_leaves_the_jobs_and_says_so(cluster: Cluster, tmp_path: Path) -> None:
    """The same command is refused while they are there: it would be a second writer of the same folders."""
    training = (*TINY, "steps=300", "validate_every=300", "save_every=1000", "final_benchmark=null")
    training += ("resume=auto", "trainer=slurm", "trainer.devices=1", "seed=1,2")
    runs = [tmp_path / "sweep" / f"{place}_seed-{place + 1}" for place in (0, 1)]
    with sweeping(cluster, tmp_path, *training) as (sweep, said):
        wait_until(lambda: all(len(steps(run)) > 3 for run in runs), 240, said)
        (array,) = set(cluster.run("squeue", "-h", "-o%F").split())
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait(60) == 1
    assert "0 of 2 jobs are finished." in said() and "Traceback" not in said()
    assert f"  scancel {array} " in said().partition("The jobs of this sweep continue in SLURM")[2]
    with sweeping(cluster, tmp_path, *training) as (sweep, said):
        assert sweep.wait(60) == 1
    assert f"jobs of this sweep are in SLURM's queue ({array})" in said() and "Traceback" not in said()
    cluster.run("scancel", array)
    wait_until(lambda: not cluster.run("squeue", "-h"), 90)
    before = [checkpoint(run)["global_step"] for run in runs]
    with sweeping(cluster, tmp_path, *training) as (sweep, said):
        assert sweep.wait(300) == 0, said()
    assert "2 of 2 jobs are finished." in said()
    assert all(0 < step < 300 for step in before)
    assert [steps(run) for run in runs] == [list(range(300))] * 2, "they went on where they were ended"


def test_a_search(cluster: Cluster, tmp_path: Path) -> None:
    """Two trials at a time; one is canceled, which has failed, and the search goes on."""
    search = ("sweep=search", *TINY, "steps=200", "validate_every=200", "save_every=1000", "trainer=slurm")
    search += ("trainer.devices=1", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    folder = tmp_path / "sweep_quickstart"
    with sweeping(cluster, tmp_path, *search) as (running, said):
        wait_until(lambda: any(len(steps(run)) > 3 for run in folder.glob("1_*")), 240, said)
        array = cluster.run("squeue", "-h", "-o%F").split()[0]
        cluster.run("scancel", f"{array}_1")
        assert running.wait(400) == 0, said()
    with (folder / "table.csv").open(newline="") as file:
        ends = {row["trial"]: row["status"] for row in csv.DictReader(file)}
    assert ends == {"0": "completed", "1": "unfinished", "2": "completed"}
    assert (folder / "table.md").read_text() in said()


def test_a_job_of_submitit_on_two_nodes_requeues_itself(cluster: Cluster, tmp_path: Path) -> None:
    total = 40
    training = (*TINY, f"steps={total}", f"validate_every={total}", "save_every=1000", "final_benchmark=null")
    training += ("seed=1", "trainer=slurm", "trainer.num_nodes=2", "trainer.devices=1")
    with sweeping(cluster, tmp_path, *training) as (sweep, said):
        run = tmp_path / "sweep" / "0"
        wait_until(lambda: len(steps(run)) > 3, 240, said)
        (job,) = cluster.run("squeue", "-h", "-o%A").split()
        assert cluster.job(job)["NumNodes"] == "2"
        cluster.run("scancel", "--signal=USR1", job)
        wait_until(lambda: cluster.job(job)["Restarts"] == "1", 60)
        assert 0 < checkpoint(run)["global_step"] < total
        assert sweep.wait(300) == 0
    assert steps(run) == list(range(total))
