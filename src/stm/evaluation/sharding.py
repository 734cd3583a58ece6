"""The videos of an evaluation, dealt out to the processes of a process group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from stm.video import Video

T = TypeVar("T")


def process_rank() -> tuple[int, int]:
    """Return this process's rank and the number of processes of the group; (0, 1) without a group."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def all_gather_object(value: T) -> list[T]:
    """Return the value of each process, by rank. Every process of the group must call this."""
    _, size = process_rank()
    if size == 1:
        return [value]
    values = [value] * size
    torch.distributed.all_gather_object(values, value)
    return values


def partition_videos(videos: Sequence[Video], size: int) -> list[list[Video]]:
    """Assign videos to processes: the longest first, each to the process with the least work so far.

    A video's work is its frames times its objects. Finished videos count as well, because processes that
    start at different times would disagree on them. A single process keeps the order of the videos.
    """
    if size == 1:
        return [list(videos)]
    parts: list[list[Video]] = [[] for _ in range(size)]
    loads = [0] * size
    for video in sorted(videos, key=_work, reverse=True):
        least = loads.index(min(loads))
        parts[least].append(video)
        loads[least] += _work(video)
    return parts


def _work(video: Video) -> int:
    return len(video) * max(1, len(video.first_frames))
