"""Settings of the process that both entry points need: threads, signals, warnings, and the trainer."""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig

from stm.config.environment import tune_cpu, world_size
from stm.training.preemption import exit_on_signals


def setup_process(threads: int | None, seed: int | None = None) -> None:
    """Set threads, signal handlers, the treatment of denormal numbers, and the seed of the first weights.

    Raises:
        ValueError: The number of threads is below 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}: must be at least 1, or null for torch's default")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):  # avoid duplicate log lines
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for message in (
        "`isinstance\\(treespec, LeafSpec\\)`",  # raised inside Lightning by newer versions of torch
        "It is recommended to use .*sync_dist=True",  # the scores are gathered already
        "The `srun` command is available",  # on a cluster's login node
        "Found \\d+ module\\(s\\) in eval mode",  # section 3.5: batch normalization is frozen
        "The 'predict_dataloader' does not have many workers",  # the evaluator reads frames by itself
    ):
        warnings.filterwarnings("ignore", message)
    exit_on_signals()
    if threads is not None:
        torch.set_num_threads(threads)
    tune_cpu()
    if seed is not None:
        L.seed_everything(seed, workers=False, verbose=False)


def build_trainer(config: DictConfig, timeout_hours: float | None = None, **arguments: Any) -> L.Trainer:
    """Build the configured trainer; one device each for the processes that torchrun or srun started.

    Args:
        config: a file of `conf/trainer`.
        timeout_hours: how long a process waits for the others in a collective operation; None for the
            configured time, or half an hour.
        arguments: further arguments of the trainer.

    Raises:
        ValueError: the trainer is SLURM's, but srun did not start this process; or the nodes have different
            numbers of processes.
    """
    timeout: dict[str, Any] = {} if timeout_hours is None else {"timeout": timedelta(hours=timeout_hours)}
    is_default = config.devices == 1 and config.num_nodes == 1 and not config.get("plugins")
    if world_size() > 1 and is_default:
        per_node = _processes_per_node()
        arguments |= {"devices": per_node, "num_nodes": world_size() // per_node}
        arguments |= {"strategy": DDPStrategy(**timeout)}
        if "RANK" not in os.environ:  # srun; `stm.training.preemption` requeues the job
            arguments |= {"plugins": [SLURMEnvironment(auto_requeue=False)]}
    elif config.strategy == "auto" and not is_default:
        arguments |= {"strategy": DDPStrategy(**timeout)}
    elif isinstance(config.strategy, DictConfig):
        arguments |= {"strategy": instantiate(config.strategy, **timeout)}
    return instantiate(config, **arguments)


def _processes_per_node() -> int:
    """Return how many processes torchrun or srun started on each node."""
    total = world_size()
    if "RANK" in os.environ:
        return int(os.environ.get("LOCAL_WORLD_SIZE", total))
    count = int(os.environ.get("SLURM_NTASKS_PER_NODE", 0))
    if count < 1 or total % count:
        raise ValueError(
            f"srun started {total} tasks: must be the same number on each node; start them with "
            "srun --nodes=N --ntasks-per-node=M"
        )
    return count


def selected_groups() -> dict[str, str | None]:
    """Return group -> the file chosen for it; tables of runs are sorted by these."""
    return {name: choice for name, choice in HydraConfig.get().runtime.choices.items() if "hydra" not in name}
