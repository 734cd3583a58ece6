"""What will the memory hold? Told before a run, from sizes, objects and lengths alone."""

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


@dataclass(frozen=True)
class MemoryPlan:
    """What the memory holds at most in one video.

    Attributes:
        video: its name.
        length: its frames.
        size: (H, W) at which the network sees them.
        objects: how many.
        frames: frames held of the objects that have most.
        bytes: keys and values of all objects.
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
    """What each video of a benchmark needs, the largest first; one frame of each is read for its size.

    Gates, which need the frames' content, count as open, and prototypes as all there.

    Args:
        element_size: bytes of a number in memory; 2 where autocast computes in 16 bits.

    Raises:
        ValueError: `max_mb` has no room for the fewest frames.
    """
    policy = policy or MemoryPolicy()
    scale = element_size / network.mean.element_size()
    plans = []
    for video in benchmark.videos:
        size = resized_shape(video.frame(0).shape[:2], benchmark.size)
        cells = network.memory_cells(size)
        groups = Counter(video.first_frames.values())  # frame of entry -> objects
        of_group = {entry: int(scale * network.cell_bytes(objects)) for entry, objects in groups.items()}
        try:
            cell_bytes = sum(of_group.values())
            room = policy.frame_limit(cells * cell_bytes, policy.prototypes * cell_bytes)
        except ValueError as error:
            raise ValueError(f"{error}, as {video.name} has them ({size[0]}x{size[1]})") from error
        held = {entry: min(policy.peak_frames(len(video), entry), room or len(video)) for entry in groups}
        total = sum(of_group[entry] * (cells * held[entry] + policy.prototypes) for entry in groups)
        plans.append(
            MemoryPlan(video.name, len(video), size, groups.total(), max(held.values(), default=0), total)
        )
    return sorted(plans, key=lambda one: -one.bytes)


def print_memory_plan(plans: list[MemoryPlan], policy: MemoryPolicy, device: torch.device) -> None:
    """A table of the largest, and what to set where the device has less room."""
    table = Table("video", "frames", "size", "objects", "held at most", "MB", title=f"memory ({policy})")
    for one in plans[:ROWS]:
        row = (one.length, f"{one.size[0]}x{one.size[1]}", one.objects, one.frames)
        table.add_row(one.video, *map(str, row), f"{one.bytes / MEGABYTE:.1f}")
    console = Console()
    console.print(table)
    if len(plans) > ROWS:
        console.print(f"and {len(plans) - ROWS} smaller ones")
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        console.print(f"{device}: {free / MEGABYTE:.0f} MB free")
        if plans and plans[0].bytes > free / 2:  # the other half is for the network's own work
            console.print(f"memory.max_mb={free / 2 / MEGABYTE:.0f} would leave half of it to the network")
