"""Memory that an evaluation will need, computed from frame sizes, objects and video lengths."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from stm.evaluation.evaluate import Benchmark
from stm.inference.resize import resized_shape
from stm.memory import MemoryPolicy
from stm.memory.policy import MEGABYTE
from stm.network import STM

ROWS = 20
"""Videos in the printed table."""


@dataclass(frozen=True)
class MemoryPlan:
    """Upper bound on the memory that one video needs.

    Attributes:
        video: the video's name.
        length: number of frames.
        size: (H, W) at which the network sees the frames.
        objects: number of objects.
        frames: frames in memory, of the objects with the most.
        bytes: size of the keys and values of all objects.
    """

    video: str
    length: int
    size: tuple[int, int]
    objects: int
    frames: int
    bytes: int


def plan_memory(
    network: STM, policy: MemoryPolicy | None, benchmark: Benchmark, element_size: int = 4
) -> list[MemoryPlan]:
    """Compute the memory that each video of a benchmark needs at most; read one frame of each for its size.

    Every frame is assumed to pass the policy's gates, and all prototypes to be in use.

    Args:
        network: determines the size of keys and values.
        policy: which frames are remembered; None for the network's own, or the paper's.
        benchmark: the videos, and the size at which the network sees them.
        element_size: bytes of a number in memory; 2 where autocast computes in 16 bits.

    Returns:
        A plan for each video, the largest first.

    Raises:
        ValueError: `max_mb` has no room for the minimum number of frames.
    """
    policy = policy or network.policy or MemoryPolicy()
    scale = element_size / network.mean.element_size()
    plans = []
    for video in benchmark.videos:
        size = resized_shape(video.frame(0).shape[:2], benchmark.size)
        cells = network.memory_cells(size)
        groups = Counter(video.first_frames.values())  # first frame -> number of objects
        cell_bytes = {first: int(scale * network.cell_bytes(objects)) for first, objects in groups.items()}
        try:
            total = sum(cell_bytes.values())
            limit = policy.frame_limit(cells * total, policy.prototypes * total)
        except ValueError as error:
            raise ValueError(f"{error} (video {video.name}, {size[0]}x{size[1]})") from error
        frames = {first: min(policy.peak_frames(len(video), first), limit or len(video)) for first in groups}
        needed = sum(
            cell_bytes[first] * (cells * frames[first] + policy.peak_prototypes(len(video), first))
            for first in groups
        )
        plans.append(
            MemoryPlan(video.name, len(video), size, groups.total(), max(frames.values(), default=0), needed)
        )
    return sorted(plans, key=lambda plan: -plan.bytes)


def print_memory_plan(plans: list[MemoryPlan], policy: MemoryPolicy, device: torch.device) -> None:
    """Print a table of the largest plans, and the setting to use if the device has less memory."""
    table = Table("video", "frames", "size", "objects", "frames in memory", "MB", title=f"memory ({policy})")
    for plan in plans[:ROWS]:
        row = (plan.length, f"{plan.size[0]}x{plan.size[1]}", plan.objects, plan.frames)
        table.add_row(plan.video, *map(str, row), f"{plan.bytes / MEGABYTE:.1f}")
    console = Console()
    console.print(table)
    if len(plans) > ROWS:
        console.print(f"and {len(plans) - ROWS} smaller ones")
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        console.print(f"{device}: {free / MEGABYTE:.0f} MB free")
        if plans and plans[0].bytes > free / 2:  # the other half is for activations
            console.print(f"memory.max_mb={free / 2 / MEGABYTE:.0f} would leave half of it for activations")
