"""What a training has left in its folder, and the processes that it has."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from helpers import slurm_cluster
from helpers.commands import Running

TWO = ("trainer=ddp_cpu", "trainer.devices=2")


def checkpoint(run_folder: Path) -> dict:
    return torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint(run_folder)["state_dict"]


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def rows(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / "logs" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def children(process: int) -> list[int]:
    """Those that a process has started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def trains(run_folder: Path) -> bool:
    """Whether a step is logged."""
    return (run_folder / "logs" / "metrics.csv").exists() and bool(rows(run_folder))


def second_process(running: Running) -> int:
    assert running.process.pid is not None
    (other,) = children(running.process.pid)
    return other


def shell_environment(**more: str) -> dict[str, str]:
    """The environment of a command that is not a job of SLURM."""
    return {**slurm_cluster.outside_environment(), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}


def torchrun_worker(parents: Sequence[int], rank: str) -> int:
    """The process of that rank that one of these torchruns has started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            status = (entry / "status").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        is_child = any(f"\nPPid:\t{parent}\n" in status for parent in parents)
        if is_child and f"RANK={rank}".encode() in variables:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")
