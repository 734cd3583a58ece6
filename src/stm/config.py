"""The schema of the two entry points' configuration.

The groups under `conf/` hold the arguments of the objects they build; there, the objects' signatures are the
schema.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

_CARRIED = Path(__file__).with_name("conf")
CONF = _CARRIED if _CARRIED.is_dir() else Path(__file__).parents[2] / "conf"
"""The groups' files: a wheel carries them in the package, a checkout has them at its top."""
PLAN, JOB = "jobs.json", "job.json"
"""What tells a sweep's jobs, in the sweep's folder; and how a job ended, in the job's."""


@dataclass
class TrainConfig:
    """What `train.py` needs.

    Attributes:
        name: the run's folder below `output_root`; give one to be able to resume.
        output_root: where runs are written.
        seed: of the clips and of the network's first weights.
        steps: optimizer steps of the whole run.
        batch_size: clips of a batch over all devices together.
        validate_every: optimizer steps between two validations on whole videos.
        save_every: optimizer steps between two checkpoints `last.ckpt`.
        monitor: the metric that picks `best.ckpt`.
        init: checkpoint whose weights the run begins with, such as the pre-training's.
        resume: 'auto' goes on with the run folder's last checkpoint, a path with that one.
        threads: CPU threads of torch; null leaves torch's choice.
        test: benchmark keys that differ for the evaluation at the end; null leaves that evaluation out.
        also: name -> a further benchmark that is scored at the end.
    """

    name: str = MISSING
    output_root: str = "runs"
    seed: int = 1
    steps: int = MISSING
    batch_size: int = 4
    validate_every: int = 1000
    save_every: int = 500
    monitor: str = "val/J&F"
    init: str | None = None
    resume: str | None = None
    threads: int | None = None
    test: dict[str, Any] | None = field(default_factory=dict)
    also: dict[str, Any] | None = None
    backbone: Any = MISSING
    network: Any = MISSING
    memory: Any = MISSING
    loss: Any = MISSING
    data: Any = MISSING
    benchmark: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    trainer: Any = MISSING
    launcher: Any = None
    logger: Any = None
    callbacks: Any = None


@dataclass
class EvaluateConfig:
    """What `evaluate.py` needs.

    Attributes:
        checkpoint: of ours, or the authors' published one.
        name: the evaluation's folder below `output_root`; the same name goes on where it was interrupted.
        output_root: where evaluations are written.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
        precision: '32-true', or 'bf16-mixed' or '16-mixed' for GPUs that are faster in 16 bits.
        compile: fuse the network with torch.compile, which takes a minute or so at the start.
        threads: CPU threads of torch; null leaves torch's choice.
        plan: print what the memory will hold in each video, and stop.
        patience: where several processes evaluate together, seconds after which one counts as dead.
        overlays: write a picture of each sequence.
        video: write an mp4 of each sequence.
        submission: 'davis', 'mose' or 'youtube' to zip the masks as that server wants them.
    """

    checkpoint: str = MISSING
    name: str = MISSING
    output_root: str = "runs/evaluate"
    device: str = "auto"
    precision: str = "32-true"
    compile: bool = False
    threads: int | None = None
    plan: bool = False
    patience: float = 300.0
    overlays: bool = True
    video: bool = False
    submission: str | None = None
    memory: Any = MISSING
    benchmark: Any = MISSING
    launcher: Any = None
    logger: Any = None


ConfigStore.instance().store(name="train_schema", node=TrainConfig)
ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)


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
