"""What happens when a run is told to end before its time: SIGUSR1 and SIGTERM have one owner, this file.

SIGUSR1 is SLURM's warning that a job's time is nearly up (`sbatch --signal=USR1@300`): a checkpoint is
written and the job goes back into the queue. SIGTERM comes when SLURM itself ends the job: it requeues a
preempted one and leaves a cancelled one, so only the checkpoint is written. While a run trains, neither
Lightning's nor submitit's own answers to these signals are in force.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from types import FrameType
from typing import NoReturn

import lightning as L
import torch

log = logging.getLogger(__name__)

TIME_IS_UP, ENDED = signal.SIGUSR1, signal.SIGTERM


class Preempted(SystemExit):
    """The run ended because it was told to; its code is the shell's for that signal."""


class EndSignals:
    """Was any process of the run told to end? The signal is noted; training acts on it between steps."""

    def __init__(self) -> None:
        self.received = 0

    def listen(self) -> None:
        """Take the signals; Lightning gives them back when the trainer is done."""
        for number in (TIME_IS_UP, ENDED):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = max(self.received, number)

    def agreed(self, trainer: L.Trainer) -> int:
        """The signal that some process got, 0 for none: the same answer in all of them, as they all ask."""
        if trainer.world_size == 1:
            return self.received
        received = torch.tensor(self.received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(received, reduce_op="max"))


def leave(trainer: L.Trainer, number: int) -> NoReturn:
    """End the run, whose checkpoint is written; where its time was up, the job is requeued.

    Raises:
        Preempted: always.
    """
    if trainer.is_global_zero:
        name, again = signal.Signals(number).name, number == TIME_IS_UP and requeue()
        log.warning(
            "%s: stopped after step %d, whose checkpoint is written; %s",
            name,
            trainer.global_step,
            "the job is back in the queue" if again else "resume=auto goes on",
        )
    trainer.strategy.barrier()  # srun ends the first process when it sees another one gone
    raise Preempted(128 + number)


def requeue() -> bool:
    """Put this process's SLURM job back into the queue; False where there is no job or it cannot be."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:  # a container may have no scontrol
        log.warning("scontrol requeue %s: %s", job, getattr(error, "stderr", None) or error)
        return False
    return True


def requeue_when_time_is_up() -> None:
    """Outside training, where finished work lies in files: SIGUSR1 requeues the job and ends it."""

    def end(number: int, frame: FrameType | None) -> None:
        if os.environ.get("SLURM_PROCID", "0") == "0":  # SLURM ends the others
            requeue()
            raise Preempted(128 + number)

    if "SLURM_JOB_ID" in os.environ:
        signal.signal(TIME_IS_UP, end)
