"""What happens when a run is told to end before its time: SIGUSR1 and SIGTERM have one owner, this file.

SIGUSR1 is SLURM's warning that a job's time is nearly up (`sbatch --signal=USR1@300`): a checkpoint is
written and the job goes back into the queue. SIGTERM comes when SLURM itself ends the job. It leaves a
canceled one; it requeues a preempted one, but not if that ends by itself in the grace time that its
partition grants (GraceTime), nor one whose time was up before it had answered the warning: those two put
themselves back. While a run trains, neither Lightning's nor submitit's own answers are in force.
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

TIME_IS_UP, ENDED = signal.SIGUSR1, signal.SIGTERM


class Preempted(SystemExit):
    """The run ended because it was told to; its code is the shell's for that signal."""


class EndSignals:
    """Was any process of the run told to end? Signals are noted; training acts on them between steps."""

    def __init__(self) -> None:
        self.received: frozenset[int] = frozenset()

    def listen(self) -> None:
        """Take the signals; Lightning gives them back when the trainer is done."""
        for number in (TIME_IS_UP, ENDED):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received |= {number}

    def agreed(self, trainer: L.Trainer) -> frozenset[int]:
        """The signals that some process got: the same answer in all of them, as they all ask."""
        if trainer.world_size == 1:
            return self.received
        numbers = (TIME_IS_UP, ENDED)
        flags = torch.tensor([one in self.received for one in numbers], dtype=torch.int)
        agreed = trainer.strategy.reduce(flags.to(trainer.strategy.root_device), reduce_op="max").tolist()
        return frozenset(one for one, told in zip(numbers, agreed, strict=True) if told)


def exit_preempted(trainer: L.Trainer, received: Collection[int]) -> NoReturn:
    """End the run, whose checkpoint is written; its job is requeued where that is for it to do.

    Raises:
        Preempted: always.
    """
    number = max(received)
    if trainer.is_global_zero:
        log.warning(
            "%s: stopped after step %d, whose checkpoint is written; %s",
            signal.Signals(number).name,
            trainer.global_step,
            "the job is back in the queue" if _requeued(received) else "resume=auto goes on",
        )
    trainer.strategy.barrier()  # srun ends the first process when it sees another one gone
    raise Preempted(128 + number)


def _requeued(received: Collection[int]) -> bool:
    """Put this process's SLURM job back into the queue, unless it was canceled or SLURM does it; was it?"""
    if (job := _job()) is None or (ENDED in received and not _left_to_itself(job, received)):
        return False
    try:
        _scontrol("requeue", job)
    except (OSError, subprocess.CalledProcessError) as error:  # a container may have no scontrol
        log.warning("scontrol requeue %s: %s", job, getattr(error, "stderr", "").strip() or error)
        return False
    return True


def _left_to_itself(job: str, received: Collection[int]) -> bool:
    """Does nobody requeue a job that got SIGTERM, though nobody canceled it?"""
    try:
        told = _scontrol("show", "job", "--oneliner", job)
    except (OSError, subprocess.CalledProcessError):
        return False
    values = dict(word.split("=", 1) for word in told.split() if "=" in word)
    if values.get("JobState") in ("RUNNING", "SIGNALING"):  # preempted, within the grace time
        return values.get("PreemptTime", "None") != "None"
    return TIME_IS_UP in received and values.get("Reason") == "TimeLimit"


def _job() -> str | None:
    """This process's job of SLURM. (One job of an array has the array's own number for its number.)"""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _scontrol(*words: str) -> str:
    return subprocess.run(["scontrol", *words], capture_output=True, text=True, check=True).stdout


def install_requeue_handlers() -> None:
    """Outside training, where finished work lies in files, a job of SLURM ends at once, and is requeued."""
    if "SLURM_JOB_ID" in os.environ:
        for number in (TIME_IS_UP, ENDED):
            signal.signal(number, end)


def end(number: int, frame: FrameType | None = None) -> None:
    """Answer a signal at once.

    Raises:
        Preempted: but for SIGUSR1 in processes other than the first, which SLURM ends.
    """
    if rank() == 0:
        _requeued({number})
    if rank() == 0 or number == ENDED:
        raise Preempted(128 + number)
