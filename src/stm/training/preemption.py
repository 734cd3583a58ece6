"""Handling of SIGUSR1 and SIGTERM: write a checkpoint, requeue the SLURM job, exit.

SIGUSR1 is SLURM's warning before a job's time limit (`sbatch --signal=USR1@300`): the run writes a checkpoint
and requeues the job. SLURM itself ends a job with SIGTERM. A canceled job stays canceled. SLURM requeues a
preempted job, but neither one that exits within the grace time of its partition (GraceTime), nor one that
reaches its time limit before it has answered the warning: those two requeue themselves.

While a run trains, these handlers replace Lightning's, which saves in the middle of a step and only on
SIGUSR1, and submitit's, which saves nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Collection
from types import FrameType
from typing import NoReturn

import lightning as L
import torch

from stm.config.environment import rank

log = logging.getLogger(__name__)

TIME_LIMIT_WARNING, TERMINATION = signal.SIGUSR1, signal.SIGTERM


class Preempted(SystemExit):
    """Exit of a run that received a signal; the exit code is the shell's for that signal."""


class EndSignals:
    """The end signals that this process has received; training acts on them between steps."""

    def __init__(self) -> None:
        self.received: frozenset[int] = frozenset()

    def listen(self) -> None:
        """Install the handlers; Lightning restores the previous ones after training."""
        for number in (TIME_LIMIT_WARNING, TERMINATION):
            signal.signal(number, self._record)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received |= {number}

    def gather(self, trainer: L.Trainer) -> frozenset[int]:
        """Return the signals that any process has received; all processes must call this together."""
        if trainer.world_size == 1:
            return self.received
        numbers = (TIME_LIMIT_WARNING, TERMINATION)
        flags = torch.tensor([number in self.received for number in numbers], dtype=torch.int)
        merged = trainer.strategy.reduce(flags.to(trainer.strategy.root_device), reduce_op="max").tolist()
        return frozenset(number for number, flag in zip(numbers, merged, strict=True) if flag)


def exit_preempted(trainer: L.Trainer, received: Collection[int]) -> NoReturn:
    """Exit after the checkpoint is written, and requeue the SLURM job where SLURM does not.

    Raises:
        Preempted: Always.
    """
    number = max(received)
    if trainer.is_global_zero:
        log.warning(
            "%s: stopped after step %d, whose checkpoint is written; %s",
            signal.Signals(number).name,
            trainer.global_step,
            "the job is requeued" if _requeue(received) else "continue with resume=auto",
        )
    trainer.strategy.barrier()  # srun kills the first process when another one exits before it
    raise Preempted(128 + number)


def _requeue(received: Collection[int]) -> bool:
    """Requeue the SLURM job unless it was canceled or SLURM requeues it; return whether it was requeued."""
    if (job := _job_number()) is None or (TERMINATION in received and not _needs_own_requeue(job, received)):
        return False
    try:
        _scontrol("requeue", job)
    except (OSError, subprocess.CalledProcessError) as error:  # a container may lack scontrol
        log.warning("scontrol requeue %s: %s", job, getattr(error, "stderr", "").strip() or error)
        return False
    return True


def _needs_own_requeue(job: str, received: Collection[int]) -> bool:
    """Return whether a job that got SIGTERM was neither canceled nor will be requeued by SLURM."""
    try:
        description = _scontrol("show", "job", "--oneliner", job)
    except (OSError, subprocess.CalledProcessError):
        return False
    values = dict(word.split("=", 1) for word in description.split() if "=" in word)
    if values.get("JobState") in ("RUNNING", "SIGNALING"):  # preempted, within the grace time
        return values.get("PreemptTime", "None") != "None"
    return TIME_LIMIT_WARNING in received and values.get("Reason") == "TimeLimit"


def _job_number() -> str | None:
    """Return this process's SLURM job; the plain number of one job of an array can be the whole array's."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _scontrol(*words: str) -> str:
    return subprocess.run(["scontrol", *words], capture_output=True, text=True, check=True).stdout


def exit_on_signals() -> None:
    """Make SIGUSR1 and SIGTERM end the process at once outside of training, where finished work is in files.

    A SLURM job is requeued.
    """
    for number in (TIME_LIMIT_WARNING, TERMINATION):
        signal.signal(number, _exit_now)


def _exit_now(number: int, frame: FrameType | None = None) -> None:
    """Requeue the job and exit.

    Raises:
        Preempted: Except on SIGUSR1 in processes other than the first, which SLURM ends.
    """
    if rank() == 0:
        _requeue({number})
    if rank() == 0 or number == TERMINATION:
        raise Preempted(128 + number)
