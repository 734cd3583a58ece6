"""The processes of a run: on one machine Lightning starts them, a sweep's jobs one after the other."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import read_write

from stm.config.environment import local_rank, rank, world_size
from stm.evaluation.shards import GO_ON, DeadRank, Shard
from stm.training.preemption import end

STARTED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that Lightning sets for the processes that it starts."""

T = TypeVar("T")

log = logging.getLogger(__name__)


def all_gather_object(value: T) -> list[T]:
    """What each process of a training has, by rank: all ask at once, and get the same."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [value]
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def launched(patience: float) -> Shard:
    """This process among those that torchrun or srun has started to evaluate together, each on its own GPU.

    Args:
        patience: see `Shard`.
    """
    shard = Shard(rank(), world_size(), patience)
    if shard.size > 1:
        signal.signal(signal.SIGTERM, _end_well)
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    return shard


def _end_well(number: int, frame: FrameType | None) -> None:
    """torchrun and srun send SIGTERM to those that are left when one process has failed."""
    log.error("SIGTERM: the job was told to end, or another process has failed. %s", GO_ON)
    end(number)


def starts_processes(trainer: L.Trainer) -> bool:
    """Whether this process will start others, as Lightning does for several devices of one machine."""
    launcher = trainer.strategy.launcher
    if type(launcher).__name__ != "_SubprocessScriptLauncher":
        return False
    return not launcher.cluster_environment.creates_processes_externally  # type: ignore[union-attr]


def refuse_without_srun(config: Any) -> None:
    """A job of SLURM has the processes that srun starts; without it, one would wait for the others.

    Args:
        config: the trainer's settings.

    Raises:
        ValueError: this is no task of srun, but `trainer` is slurm's.
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
    """While a run trains on several local devices: its processes are those of this job, and they end with it.

    Lightning starts them with the command line of this process. In a sweep that would be the whole sweep
    again in each, so for the while it is the command of this job alone, in the folder of this job.

    Yields:
        To be called when training is done: Lightning would kill this process, too, where another one fails.

    Raises:
        RuntimeError: another process ended before its time; what it said stands above.
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

    def unwatched() -> None:
        others.extend(launcher.procs)
        launcher.procs.clear()  # Lightning watches the list, and kills this process for a failure of theirs

    try:
        yield unwatched
        unwatched()
        _end(others, seconds=60)
    except RuntimeError as error:
        gone = _gone([*others, *launcher.procs])
        if gone is None or isinstance(error, DeadRank):
            raise
        raise RuntimeError(f"{gone}; what it said stands above") from error
    finally:
        unwatched()
        _end(others, seconds=0)
        sys.argv = command
        if hydra.mode == RunMode.MULTIRUN:  # the next job begins anew
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _gone(others: Sequence[subprocess.Popen]) -> str | None:
    """Which process ended badly by itself, and how? It may take a moment until it is seen to be gone."""
    for number, process in enumerate(others, start=1):
        try:
            code = process.wait(2)
        except subprocess.TimeoutExpired:
            continue
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with code {code}"
            return f"the process of rank {number} {how}"
    return None


def _end(others: Sequence[subprocess.Popen], seconds: float) -> None:
    """Wait for the others so long, and kill those that are left."""
    for process in others:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()  # a collective that waits for us does not hear SIGTERM
            process.wait()
