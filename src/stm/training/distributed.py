"""The processes of a run on several devices of one machine, which Lightning starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import read_write

STARTED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that Lightning sets for the processes it starts."""


def starts_processes(trainer: L.Trainer) -> bool:
    """Return whether this process will start others, as Lightning does for several devices of one machine."""
    launcher = trainer.strategy.launcher
    if type(launcher).__name__ != "_SubprocessScriptLauncher":
        return False
    return not launcher.cluster_environment.creates_processes_externally  # type: ignore[union-attr]


def require_srun(config: Any) -> None:
    """Check that srun started this process where the trainer is SLURM's; else it would wait for the others.

    Args:
        config: the trainer's settings.

    Raises:
        ValueError: srun did not start this process.
    """
    if any("SLURM" in plugin["_target_"] for plugin in config.get("plugins") or ()) and (
        "SLURM_STEP_ID" not in os.environ
    ):
        raise ValueError(
            "trainer=slurm: srun has not started this process; in a job write `srun python train.py "
            "trainer=slurm ...` (docs/clusters.md), from outside `python train.py -m launcher=slurm ...`"
        )


@contextmanager
def manage_ddp_processes(trainer: L.Trainer) -> Iterator[Callable[[], None]]:
    """Run a block in which a trainer uses several local devices; its other processes end with the block.

    Lightning starts the other processes with this process's command line (`sys.argv`). In a sweep that would
    run the whole sweep in each of them, so during the block it is the command of this job alone, in this
    job's folder (https://github.com/Lightning-AI/pytorch-lightning/issues/11300: there is no other way).

    Yields:
        A function to call after training: until then Lightning kills this process if another one fails.

    Raises:
        RuntimeError: another process failed; its error is printed above.
        ValueError: the jobs of the sweep run in processes of joblib, which have no command line.
    """
    if not starts_processes(trainer):
        yield lambda: None
        return
    hydra, command = HydraConfig.get(), sys.argv
    environment = {name: os.environ.get(name) for name in STARTED}
    if hydra.mode == RunMode.MULTIRUN:
        if hydra.runtime.choices["hydra/launcher"] == "joblib":
            raise ValueError(
                f"trainer.devices: {trainer.num_devices} devices a job cannot be combined with "
                "launcher=parallel; leave it out, and the jobs run one after the other"
            )
        sys.argv = [command[0], *hydra.overrides.task, "hydra.mode=RUN"]
        with read_write(hydra):  # type: ignore[arg-type]
            hydra.run.dir = hydra.runtime.output_dir
    launcher: Any = trainer.strategy.launcher
    others: list[subprocess.Popen] = []

    def stop_watching() -> None:
        others.extend(launcher.procs)
        launcher.procs.clear()  # Lightning watches this list and kills this process when one of them fails

    try:
        yield stop_watching
        stop_watching()
        _end(others, seconds=60)
    except RuntimeError as error:
        failure = _failure([*others, *launcher.procs])
        if failure is None:
            raise
        raise RuntimeError(f"{failure}; its error is printed above") from error
    finally:
        stop_watching()
        _end(others, seconds=0)
        sys.argv = command
        if hydra.mode == RunMode.MULTIRUN:  # the next job starts with a clean environment
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _failure(others: Sequence[subprocess.Popen]) -> str | None:
    """Return which process failed by itself, and how; its end may be visible only after a moment."""
    for number, process in enumerate(others, start=1):
        try:
            code = process.wait(2)
        except subprocess.TimeoutExpired:
            continue
        if code:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with code {code}"
            return f"the process of rank {number} {how}"
    return None


def _end(others: Sequence[subprocess.Popen], seconds: float) -> None:
    """Wait for the others for some seconds, then kill the remaining ones."""
    for process in others:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()  # a process in a collective operation ignores SIGTERM
            process.wait()
