"""The processes of a run, as the environment variables of torchrun, SLURM and Lightning describe them."""

from __future__ import annotations

import os


def rank() -> int:
    """This process's number among those of the run; 0 is the one that tells and writes."""
    return max(int(os.environ.get(name, 0)) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))


def world_size() -> int:
    """How many processes the run has: what torchrun says (or who else sets RANK), or the tasks of srun."""
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", 1))
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) if "SLURM_STEP_ID" in os.environ else 1


def local_rank() -> int:
    """This process's number among those of its machine, which picks its GPU."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))


def cpus() -> int:
    """How many CPUs this process may use: of a job those that it was given, not all of the machine."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, int(os.environ.get("SLURM_CPUS_PER_TASK", there)))
