"""Which clip is the k-th of a run, and who computes it? A pure function of (seed, k).

Everything random is drawn from `np.random.default_rng((seed, k))`, so the number of workers and of processes
does not matter and a resumed run goes on exactly where it was.
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

from stm.data.still_clips import StillClips
from stm.data.video_clips import SkipCurriculum, VideoClips
from stm.video import Clip

__all__ = ["ClipBatches", "ClipDataset", "ClipSource", "SkipCurriculum", "StillClips", "VideoClips"]


class ClipSource(Protocol):
    """Where clips come from: videos or stills."""

    def clip(self, k: int, rng: np.random.Generator) -> Clip:
        """The clip that the generator draws; k is its place in the training sequence."""


class ClipDataset(Dataset[Clip]):
    """The training sequence: clip k of a seed, drawn from one of several sources.

    Args:
        sources: where clips come from.
        weights: how often each source is drawn, relative to the others; alike if None.
        seed: with k, it determines clip k.
        length: how many clips the sequence has.
        num_unique_clips: go through the first `num_unique_clips` clips over and over (to overfit on purpose).

    Raises:
        ValueError: there is no source, or the weights don't fit.
    """

    def __init__(
        self,
        sources: Sequence[ClipSource],
        weights: Sequence[float] | None = None,
        seed: int = 0,
        length: int = 1_000_000_000,
        num_unique_clips: int | None = None,
    ) -> None:
        shares = np.asarray([1.0] * len(sources) if weights is None else weights, dtype=np.float64)
        if len(sources) == 0 or len(shares) != len(sources) or not (shares >= 0).all() or shares.sum() <= 0:
            raise ValueError(
                f"weights={None if weights is None else list(weights)} for {len(sources)} sources: "
                "there must be a source, and a weight for each, none negative and one above 0"
            )
        if seed < 0 or length < 1 or (num_unique_clips is not None and num_unique_clips < 1):
            raise ValueError(
                f"seed={seed} must not be negative, length={length} and num_unique_clips={num_unique_clips} at least 1"
            )
        self.sources, self.shares = list(sources), shares / shares.sum()
        self.seed, self.length, self.num_unique_clips = seed, length, num_unique_clips

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> Clip:
        if not 0 <= k < self.length:
            raise IndexError(f"clip {k} of {self.length}")
        k = k % self.num_unique_clips if self.num_unique_clips else int(k)
        rng = np.random.default_rng((self.seed, k))
        return self.sources[int(rng.choice(len(self.sources), p=self.shares))].clip(k, rng)


class ClipBatches(Sampler[list[int]]):
    """Which clips are in each batch of this process? A batch sampler over the global batches.

    Global batch s holds clips s * batch_size .. (s + 1) * batch_size - 1; a process takes its slice of it.

    Args:
        batch_size: clips of a global batch, over all processes.
        steps: the batches of the whole run.
        start_step: the first one to yield, where a run is resumed.
        rank: this process, 0..world_size - 1.
        world_size: processes.

    Raises:
        ValueError: the global batch does not divide among the processes.
    """

    def __init__(
        self, batch_size: int, steps: int, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1 or batch_size % world_size != 0:
            allowed = world_size * max(1, round(batch_size / world_size))
            raise ValueError(
                f"batch_size={batch_size} is the global batch, over all processes: it must be a multiple of "
                f"their number, {world_size}, for example {allowed}"
            )
        if not 0 <= rank < world_size or steps < 0 or start_step < 0:
            raise ValueError(
                f"rank={rank} must be in 0..{world_size - 1}, steps={steps} and {start_step=} at least 0"
            )
        self.batch_size, self.steps, self.start_step = batch_size, steps, start_step
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world_size
        for step in range(self.start_step, self.steps):
            begin = step * self.batch_size + self.rank * share
            yield list(range(begin, begin + share))


def start_worker(_: int) -> None:
    """What a loading process does first: one thread, since there are many processes; it ends with its parent.

    SLURM's signals go to all processes of a job. A loading process that ended by one would take the training
    along before its checkpoint is written.
    """
    cv2.setNumThreads(0)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none, nor SLURM
        numbers = signal.SIGTERM, signal.SIGUSR1
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        Thread(target=_end_by_parent, args=(numbers,), daemon=True).start()


def _end_by_parent(numbers: Sequence[int]) -> None:
    """Of these signals, obey those of the training process alone."""
    while signal.sigwaitinfo(numbers).si_pid != os.getppid():
        pass
    os._exit(0)  # as torch's own answer does
