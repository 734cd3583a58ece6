"""The sequence of training clips: clip k is a pure function of (seed, k).

All random numbers of clip k come from `np.random.default_rng((seed, k))`. So the clips do not depend on the
number of workers or processes, and a resumed run sees the clips that the interrupted run would have seen.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from threading import Thread
from typing import Protocol

import cv2
import numpy as np
from torch.utils.data import Dataset, Sampler

from stm.data.cropping import check_at_least
from stm.data.still_clips import StillClips
from stm.data.video_clips import SkipCurriculum, VideoClips
from stm.video import Clip

__all__ = ["ClipBatches", "ClipDataset", "ClipSource", "SkipCurriculum", "StillClips", "VideoClips"]


class ClipSource(Protocol):
    """A source of clips, such as videos or stills."""

    def clip(self, k: int, rng: np.random.Generator) -> Clip:
        """Draw a clip with the generator; k is its index in the training sequence."""


class ClipDataset(Dataset[Clip]):
    """The sequence of training clips of a seed, each drawn from one of several sources.

    Args:
        sources: sources of clips.
        weights: how often each source is drawn relative to the others; by default equally often.
        seed: seed of the sequence.
        length: number of clips.
        num_unique_clips: repeat the first `num_unique_clips` clips, to overfit on purpose.

    Raises:
        ValueError: there is no source, the weights do not match the sources, or a number is out of range.
    """

    def __init__(
        self,
        sources: Sequence[ClipSource],
        weights: Sequence[float] | None = None,
        seed: int = 0,
        length: int = 1_000_000_000,
        num_unique_clips: int | None = None,
    ) -> None:
        weights = [1.0] * len(sources) if weights is None else list(weights)
        if len(sources) != len(weights) or min(weights, default=0) < 0 or not sum(weights) > 0:
            raise ValueError(
                f"weights={weights}: must be one weight for each source, none below 0 and one above 0; "
                f"got {len(sources)} sources"
            )
        check_at_least(0, seed=seed)
        check_at_least(1, length=length)
        if num_unique_clips is not None:
            check_at_least(1, num_unique_clips=num_unique_clips)
        self.sources, self.probabilities = list(sources), np.asarray(weights, np.float64)
        self.probabilities /= self.probabilities.sum()
        self.seed, self.length, self.num_unique_clips = seed, length, num_unique_clips

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> Clip:
        if not 0 <= k < self.length:
            raise IndexError(f"clip {k} of {self.length}")
        k = k % self.num_unique_clips if self.num_unique_clips else int(k)
        rng = np.random.default_rng((self.seed, k))
        return self.sources[int(rng.choice(len(self.sources), p=self.probabilities))].clip(k, rng)


class ClipBatches(Sampler[list[int]]):
    """Batch sampler over the clips that one process loads.

    Global batch s holds clips s * batch_size .. (s + 1) * batch_size - 1; each process takes a slice of it.

    Args:
        batch_size: clips of a global batch, over all processes.
        steps: batches of the whole run.
        start_step: first batch to yield, for a resumed run.
        rank: number of this process, 0..world_size - 1.
        world_size: number of processes.

    Raises:
        ValueError: the batch cannot be divided evenly among the processes, or a number is out of range.
    """

    def __init__(
        self, batch_size: int, steps: int, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1 or batch_size % world_size != 0:
            allowed = world_size * max(1, round(batch_size / world_size))
            raise ValueError(
                f"batch_size={batch_size}: must be a multiple of the number of processes, {world_size}, such "
                f"as {allowed}, since it is the global batch over all processes"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}: must be in 0..{world_size - 1}")
        check_at_least(0, steps=steps, start_step=start_step)
        self.batch_size, self.steps, self.start_step = batch_size, steps, start_step
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        count = self.batch_size // self.world_size
        for step in range(self.start_step, self.steps):
            begin = step * self.batch_size + self.rank * count
            yield list(range(begin, begin + count))


def start_worker(_: int) -> None:
    """Set up a loading process: one thread, as there are many processes, and signals only from its parent.

    SLURM sends signals to all processes of a job. If one ended a loading process, the training would fail
    before it writes its checkpoint.
    """
    cv2.setNumThreads(0)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where SLURM does not run
        numbers = signal.SIGTERM, signal.SIGUSR1
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        Thread(target=_exit_on_parent_signal, args=(numbers,), daemon=True).start()


def _exit_on_parent_signal(numbers: Sequence[int]) -> None:
    """Exit when the training process sends one of these signals; ignore other senders."""
    while signal.sigwaitinfo(numbers).si_pid != os.getppid():
        pass
    os._exit(0)  # like torch's own signal handler
