"""Resolvers of the configuration files: `${run_of:...}` and others."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stm.config.environment import rank
from stm.config.schema import CONF


def run_of(checkpoint: str) -> str:
    """A checkpoint's short name: `runs/main/checkpoints/best.ckpt` -> `main-best`, else the file's stem."""
    path = Path(checkpoint)
    return f"{path.parents[1].name}-{path.stem}" if path.parent.name == "checkpoints" else path.stem


def folder_name(text: str) -> str:
    """Text as a folder's name: one level, at most 100 characters."""
    return text.replace("/", "-")[:100]


def quoted(path: str | Path) -> str:
    """A path as a value of an override: in quotes where Hydra's grammar needs them."""
    return str(path) if re.fullmatch(r"[\w./+-]+", str(path)) else f"'{path}'"


def at_size(size: int | None) -> str:
    """How a folder's name tells the size at which the network sees the frames: `_240`, or nothing."""
    return "" if size is None else f"_{size}"


def new_name() -> str:
    """A run's folder if none is named: its SLURM job, which all processes and restarts share, or the time."""
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID")
    return f"slurm_{job}_{step}" if job and step else time.strftime("%Y-%m-%d_%H-%M-%S")


def log_name(job: str) -> str:
    """A log file for each process: `train`, `train_rank1`, ... (Lightning has names of its own for some.)"""
    return re.sub(r"_ddp_process_\d+$", "", job) + (f"_rank{rank()}" if rank() else "")


def console_level() -> str:
    """One process speaks on the console; from the others, errors alone."""
    return "ERROR" if rank() else "INFO"


def gpus() -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them; asks no driver."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [name for name in told.split(",") if name.strip()]
    return sorted((path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


def gpu_of_job(number: int | None) -> str:
    """The one GPU that a sweep's job may use; empty where there is none."""
    there = gpus()
    return there[(number or 0) % len(there)] if there else ""


def tasks_a_node(devices: Any) -> int:
    """How many processes a node has, each with a device.

    Raises:
        ValueError: the number depends on the machine, which is not known yet.
    """
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    try:
        count = int(devices)
    except ValueError:
        count = -1
    if count < 1:
        raise ValueError(f"launcher=slurm: trainer.devices={devices}: say how many each node has")
    return count


def gpus_a_node(accelerator: str, devices: Any) -> int | None:
    """How many GPUs to ask SLURM for on each node."""
    return None if accelerator == "cpu" else tasks_a_node(devices)


def shell_lines(lines: Sequence[str]) -> list[str]:
    """What a job does before its program: the user's lines; and where one process dies, the others end.

    In SLURM 22.05 to 23.02 the job's number of CPUs is not srun's, which would bind each process to one core.
    """
    return [*lines, "export SLURM_KILL_BAD_EXIT=1 SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]


def choices_of(group: str) -> str:
    """All files of a group, as a sweep lists values."""
    return ",".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


OmegaConf.register_new_resolver("choices_of", choices_of, replace=True)
OmegaConf.register_new_resolver("gpus", lambda: max(1, len(gpus())), replace=True)
OmegaConf.register_new_resolver("gpu_of_job", gpu_of_job, replace=True)
OmegaConf.register_new_resolver("tasks_a_node", tasks_a_node, replace=True)
OmegaConf.register_new_resolver("gpus_a_node", gpus_a_node, replace=True)
OmegaConf.register_new_resolver("shell_lines", shell_lines, replace=True)
OmegaConf.register_new_resolver("new_name", new_name, replace=True, use_cache=True)
OmegaConf.register_new_resolver("log_name", log_name, replace=True)
OmegaConf.register_new_resolver("console_level", console_level, replace=True)
OmegaConf.register_new_resolver("run_of", run_of, replace=True)
OmegaConf.register_new_resolver("at_size", at_size, replace=True)
OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
