"""Resolvers of the configuration files, such as `${checkpoint_name:...}`, and names of folders and logs."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, Quote, QuotedString, Sweep
from omegaconf import OmegaConf

from stm.config.environment import rank
from stm.config.schema import CONF

NEUTRAL_KEYS = ("launcher", "logger", "output_root", "threads", "overlays", "video")

# --- names ---


def checkpoint_name(checkpoint: str) -> str:
    """Return a checkpoint's short name: `main-best` for `main/checkpoints/best.ckpt`, else its stem."""
    path = Path(checkpoint)
    return f"{path.parents[1].name}-{path.stem}" if path.parent.name == "checkpoints" else path.stem


def folder_name(text: str) -> str:
    """Return text as the name of one folder, without slashes; over 120 bytes it is cut and ends in a hash."""
    name = text.replace("/", "-")
    if len(name.encode()) <= 120:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name.encode()[:111].decode(errors='ignore')}-{digest}"


def settings_label(settings: Mapping[str, str]) -> str:
    """Return settings as part of a folder's name: `seed-1_similarity-dot`, with checkpoints' short names."""
    return "_".join(
        f"{key.rpartition('.')[2]}-{checkpoint_name(value) if key == 'checkpoint' else value}"
        for key, value in settings.items()
    )


def quote_override(path: str | Path) -> str:
    """Return a path as the value of an override, in quotes where Hydra's grammar needs them."""
    if re.fullmatch(r"[\w./+-]+", str(path), re.ASCII):
        return str(path)
    return QuotedString(str(path), Quote.single).with_quotes()


def size_suffix(size: int | None, sizes: Sequence[int] | None) -> str:
    """Return the part of a folder's name for the network's frame sizes: `_480-600`; empty for None."""
    chosen = sizes or ([] if size is None else [size])
    return f"_{'-'.join(map(str, chosen))}" if chosen else ""


def augmentation_suffix(tta: str | None, ensemble: Sequence[str]) -> str:
    """Return the part of a folder's name for what else is averaged at test time: `_flip_RUN-last`."""
    parts = [*([tta] if tta else []), *map(checkpoint_name, ensemble)]
    return folder_name("".join(f"_{part}" for part in parts))


def weight_of(path: str | None, weight: float) -> float:
    """Return the weight of a source of clips; 0 where its path is null."""
    return 0.0 if path is None else weight


def default_run_name() -> str:
    """Return the name of an unnamed run: its SLURM job, shared by all processes and restarts, or the time."""
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID")
    return f"slurm_{job}_{step}" if job and step else time.strftime("%Y-%m-%d_%H-%M-%S")


def trial_label(searched: Container[str], overrides: Sequence[str]) -> str:
    """Return the part of a trial's folder name with the values of the searched keys.

    Args:
        searched: Keys of the search.
        overrides: Overrides of the trial, `key=value`.
    """
    settings = dict(word.split("=", 1) for word in overrides)
    return folder_name(settings_label({key: settings[key] for key in settings if key in searched}))


def evaluation_sweep_name(overrides: Sequence[str]) -> str:
    """Return the folder of a sweep of evaluations, which differs where the scores may differ.

    Args:
        overrides: Overrides of the command line.

    Returns:
        `name=` where it has one value; else the sweep, its checkpoints, and all other settings, of which
        swept ones have several values: `table5_main-best_size-240`, `main-best_top_k-8+16`.
    """
    values = {
        override.key_or_group: [str(value) for value in override_values(override)]
        for override in OverridesParser.create().parse_overrides(list(overrides))
    }
    if len(values.get("name", ())) == 1:
        return values["name"][0]
    first = [*values.pop("sweep", []), "+".join(map(checkpoint_name, values.pop("checkpoint", [])))]
    label = settings_label({key: "+".join(values[key]) for key in values if not is_neutral(key)})
    return folder_name("_".join(word for word in (*first, label) if word))


def is_neutral(key: str) -> bool:
    """Return whether a key cannot change a score: it sets where a job runs, or what else it writes."""
    return key.partition(".")[0] in NEUTRAL_KEYS or key.startswith(("hydra.", "hydra/"))


def override_values(override: Override, choices: Sequence[str] = ()) -> list[str | None]:
    """Return every value that an override assigns; a glob selects from `choices`."""
    value = override.value()
    if isinstance(value, Glob):
        return list(value.filter(list(choices)))
    if isinstance(value, Sweep) and not isinstance(value, ChoiceSweep):
        return [str(override.input_line).partition("=")[2]]
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    values = [value.text if isinstance(value, QuotedString) else value for value in values]
    return [None if value is None else str(value) for value in values]


def group_choices(group: str) -> str:
    """Return all files of a group as the values of a sweep, separated by commas."""
    return ",".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


# --- logs ---


def log_name(config_name: str) -> str:
    """Return the name of this process's log file: `train`, `train_rank1`, ...

    Args:
        config_name: the main configuration. (Lightning renames the jobs of processes that it starts.)
    """
    return config_name + (f"_rank{rank()}" if rank() else "")


def console_level() -> str:
    """Return the log level of the console: INFO in the first process, ERROR in the others."""
    return "ERROR" if rank() else "INFO"


# --- devices and SLURM ---


def gpus() -> list[str]:
    """Return the usable GPUs of this machine as CUDA_VISIBLE_DEVICES names them, without loading a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    return sorted((path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


def gpu_of_job(number: int | None) -> str:
    """Return the GPU of a sweep's job, by the job's number; empty without GPUs."""
    available = gpus()
    return available[(number or 0) % len(available)] if available else ""


def tasks_per_node(devices: Any) -> int:
    """Return the number of processes on a node, one for each device.

    Raises:
        ValueError: The number depends on the machine, which is not known yet.
    """
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    try:
        count = int(devices)
    except ValueError:
        count = -1
    if count < 1:
        raise ValueError(
            f"trainer.devices={devices}: must be the number of devices of a node with launcher=slurm"
        )
    return count


def gpus_per_node(accelerator: str, devices: Any) -> int | None:
    """Return the number of GPUs to request from SLURM for each node; None for a CPU."""
    return None if accelerator == "cpu" else tasks_per_node(devices)


def job_setup(lines: Sequence[str]) -> list[str]:
    """Return the shell lines that a SLURM job runs before its program: the user's, and two settings of srun.

    The death of one process ends the others. In SLURM 22.05 to 23.02, srun does not inherit the job's number
    of CPUs and would bind each process to one core.
    """
    return [*lines, "export SLURM_KILL_BAD_EXIT=1 SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]


_RESOLVERS: tuple[Callable[..., Any], ...] = (
    augmentation_suffix,
    checkpoint_name,
    console_level,
    gpu_of_job,
    gpus_per_node,
    group_choices,
    job_setup,
    log_name,
    size_suffix,
    tasks_per_node,
    trial_label,
    weight_of,
)
for _resolver in _RESOLVERS:
    OmegaConf.register_new_resolver(_resolver.__name__, _resolver, replace=True)
OmegaConf.register_new_resolver("gpu_count", lambda: max(1, len(gpus())), replace=True)
# The jobs of a sweep copy the sweep's cache, so that these values are the same in all of them.
for _cached in (default_run_name, evaluation_sweep_name):
    OmegaConf.register_new_resolver(_cached.__name__, _cached, replace=True, use_cache=True)
