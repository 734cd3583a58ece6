"""The process as the environment describes it: its rank under torchrun, SLURM or Lightning, and its CPUs."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


def rank() -> int:
    """Return this process's rank in the run; rank 0 prints and writes."""
    return max(int(os.environ.get(name, 0)) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))


def world_size() -> int:
    """Return the number of processes of the run: torchrun's where RANK is set, else the tasks of srun."""
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", 1))
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) if "SLURM_STEP_ID" in os.environ else 1


def cpus() -> int:
    """Return the number of CPUs that this process may use, in a SLURM job those of its task."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, int(os.environ.get("SLURM_CPUS_PER_TASK", available)))


def tune_cpu() -> None:
    """Set up this process, and this thread of it, for fast networks on a CPU.

    Denormal activations take several times as long as others, so they become zero. By default, glibc returns
    the memory of large maps to the system, which clears each page again before its next use; that takes half
    of the time of a light network.
    """
    import torch

    torch.set_flush_denormal(True)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 2**26)


def program_name() -> str:
    """Return the running program as the user calls it: `python train.py`, `stm-train`."""
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else name
