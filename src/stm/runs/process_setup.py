"""Settings of the process that both entry points need: threads, signals, warnings, device."""

from __future__ import annotations

import logging
import warnings

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig

from stm.training.preemption import install_requeue_handlers


def setup_process(threads: int | None, seed: int | None = None) -> None:
    """Set what holds for the process: threads, signals, no denormal numbers, the first weights' seed."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):  # or they would say everything twice
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for affair in (
        "`isinstance\\(treespec, LeafSpec\\)`",  # Lightning's with torch
        "It is recommended to use .*sync_dist=True",  # scores that are gathered already
        "The `srun` command is available",  # on a cluster's login node
    ):
        warnings.filterwarnings("ignore", affair)
    install_requeue_handlers()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # a trained network's small activations are 3 times as slow without it
    if seed is not None:
        L.seed_everything(seed, workers=False, verbose=False)


def pick_device(name: str) -> torch.device:
    """'auto' is the GPU where there is one.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={name!r} is not to be had here ({error}); allowed: auto, cpu, cuda, cuda:1, ..."
        ) from error
    return device


def selected_groups() -> dict[str, str | None]:
    """Which file of each group was chosen: what a table of runs is sorted by."""
    return {name: choice for name, choice in HydraConfig.get().runtime.choices.items() if "hydra" not in name}
