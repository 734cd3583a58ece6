"""SLURM signals all processes of a job; the run still writes its checkpoint."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.commands import ROOT, TINY, start
from helpers.training_runs import checkpoint, children, trains
from torch.utils.data import DataLoader

from stm.data.sampling import start_worker

SETTINGS = (*TINY, "final_benchmark=null", "trainer.log_every_n_steps=1", "steps=400", "validate_every=400")
BOTH = pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)


@BOTH
def test_data_workers_get_the_signal_too(tmp_path: Path, number: signal.Signals) -> None:
    running = start(
        "train.py", *SETTINGS, "save_every=1000", "data.num_workers=2", "name=run", folder=tmp_path
    )
    running.wait_until(lambda: trains(tmp_path / "runs" / "run"))
    main = running.process.pid
    assert main is not None
    workers = children(main)
    assert len(workers) == 2
    for process in (*workers, main):
        os.kill(process, number)
        time.sleep(0.1)  # SLURM's signals do not arrive all at once either
    assert running.wait(60) == 128 + number
    step = checkpoint(tmp_path / "runs" / "run")["global_step"]
    assert f"{number.name}: stopped after step {step}, whose checkpoint is written" in running.output
    assert not any(Path(f"/proc/{process}").exists() for process in workers)


class Endless(torch.utils.data.Dataset):
    """A data set whose samples take forever."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> int:
        time.sleep(1000)
        return index


def exit_code_of_terminated_worker() -> int | None:
    """Torch calls `terminate` for a worker that does not exit by itself."""
    loader = iter(DataLoader(Endless(), num_workers=1, worker_init_fn=start_worker))
    (process,) = loader._workers
    end = time.monotonic() + 60
    folder = Path(f"/proc/{process.pid}")
    while True:  # until the main thread blocks the signal and another one waits for it
        blocked = int((folder / "status").read_text().partition("SigBlk:")[2].split()[0], 16)
        if blocked >> (signal.SIGTERM - 1) & 1 and len(list((folder / "task").iterdir())) > 1:
            break
        assert time.monotonic() < end
        time.sleep(0.01)
    process.terminate()
    process.join(30)
    return process.exitcode


@pytest.mark.slow
def test_data_worker_exits_on_terminate() -> None:
    """In a new interpreter: a forked worker inherits the signal handlers that other tests set."""
    program = "from test_preemption import exit_code_of_terminated_worker as run; print('exit code', run())"
    folders = os.pathsep.join([str(Path(__file__).parent), str(ROOT / "tests"), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": folders}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "exit code 0" in done.stdout, done.stdout + done.stderr


def test_job_that_cannot_be_requeued_exits_too(tmp_path: Path) -> None:
    """A container may lack scontrol."""
    job = {"SLURM_JOB_ID": "7", "PATH": str(tmp_path)}
    running = start("train.py", *SETTINGS, "save_every=1000", "name=run", folder=tmp_path, environment=job)
    running.wait_until(lambda: trains(tmp_path / "runs" / "run"))
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGUSR1)
    assert running.wait(60) == 128 + signal.SIGUSR1
    assert "scontrol requeue 7: " in running.output and "No such file" in running.output
    assert "whose checkpoint is written; continue with resume=auto" in running.output
    assert "Traceback" not in running.output
    assert checkpoint(tmp_path / "runs" / "run")["global_step"] > 0
