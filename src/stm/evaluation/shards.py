"""Which videos does each of several processes evaluate, and how do they come together again?

They need no connection, only a folder that all of them see. Each writes what came of its videos there, and
renews a file as a sign of life while it works; who waits for another watches that one's file.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shutil import rmtree
from threading import Event, Thread
from typing import TypeVar

from stm.atomic_io import write_atomically
from stm.video import Video

SIGNS = "ranks"
"""The folder of the signs of life, below an evaluation's; a finished evaluation has none."""
FAILED = "failed: "
GO_ON = "Finished videos are kept: the same command goes on, with any number of processes."

T = TypeVar("T")


class DeadRank(RuntimeError):
    """A process of the evaluation ended before its videos were done."""


@dataclass(frozen=True)
class Shard:
    """One of the processes that evaluate together.

    Args:
        rank: its number, from 0; that one writes the scores.
        size: how many there are.
        patience: seconds without a sign of life after which another process counts as dead. Longer than
            files of one node may take to be seen on another (a minute on NFS).

    Raises:
        ValueError: there is no such rank, or no patience.
    """

    rank: int = 0
    size: int = 1
    patience: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(
                f"rank {self.rank} of {self.size} processes: ranks count from 0; RANK and WORLD_SIZE (or "
                "srun's variables) do not fit together"
            )
        if self.patience <= 0:
            raise ValueError(f"patience={self.patience}: must be seconds, more than 0, such as 300")


def shares(videos: Sequence[Video], size: int) -> list[list[Video]]:
    """The videos of each process, the same in all of them: the longest first, to whom has least so far.

    A video's length is its frames times its objects. What is finished counts, too: processes that begin at
    different times would not agree on it. A single process takes all in their own order.
    """
    if size == 1:
        return [list(videos)]
    parts: list[list[Video]] = [[] for _ in range(size)]
    loads = [0] * size
    for video in sorted(videos, key=_length, reverse=True):
        least = loads.index(min(loads))
        parts[least].append(video)
        loads[least] += _length(video)
    return parts


def _length(video: Video) -> int:
    return len(video) * max(1, len(video.first_frames))


class Others:
    """The other processes of an evaluation, as far as their files tell.

    Args:
        shard: this process.
        output: the evaluation's folder; a process that is alone needs none.
    """

    def __init__(self, shard: Shard, output: Path | None) -> None:
        self.shard, self.output = shard, output
        self._told = {rank: self._sign(rank) for rank in range(shard.size)}  # by an earlier attempt, too

    def _sign(self, rank: int) -> tuple[int, str]:
        """A process's sign, and when it was written: two attempts may fail in the same words."""
        if self.output is None:
            return 0, ""
        path = self.output / SIGNS / str(rank)
        try:
            return path.stat().st_mtime_ns, path.read_text()
        except OSError:
            return 0, ""

    def wait(self, parts: Sequence[Sequence[Video]], read: Callable[[Video], T | None]) -> Iterator[T]:
        """What the others have made of their videos, as it comes.

        Args:
            parts: of `shares`.
            read: gives what came of a video, None as long as nothing did.

        Raises:
            DeadRank: one that is waited for has failed, or gives no sign of life.
        """
        missing = {rank: list(part) for rank, part in enumerate(parts) if rank != self.shard.rank}
        heard = dict.fromkeys(missing, time.monotonic())
        while missing:
            for rank, videos in list(missing.items()):
                for one in list(videos):
                    found = read(one)
                    if found is not None:
                        videos.remove(one)
                        yield found
                if not videos:
                    del missing[rank]
                    continue
                now = self._sign(rank)
                _, sign = now
                if now != self._told[rank]:
                    self._told[rank], heard[rank] = now, time.monotonic()
                    if sign.startswith(FAILED):
                        raise self._dead(f"rank {rank} {sign}", videos)
                elif time.monotonic() - heard[rank] > self.shard.patience:
                    raise self._dead(
                        f"rank {rank} has given no sign of life for {self.shard.patience:g} s (the last: "
                        f"{sign or 'none'}): it died, or its node does not see {self.output}",
                        videos,
                    )
            if missing:
                time.sleep(min(2.0, self.shard.patience / 50))

    def _dead(self, what: str, left: Sequence[Video]) -> DeadRank:
        return DeadRank(f"{what}\nIt has left {len(left)} videos undone, such as {left[0].name}. {GO_ON}")


@contextmanager
def at_work(shard: Shard, output: Path | None) -> Iterator[Others]:
    """Gives signs of life for a block; at its end they are gone, after an error they tell it.

    A process that is alone gives none, and need not have a folder.
    """
    others = Others(shard, output)
    if shard.size == 1:
        yield others
        if output is not None:
            rmtree(output / SIGNS, ignore_errors=True)
        return
    assert output is not None
    path, ended = output / SIGNS / str(shard.rank), Event()

    def renew() -> None:
        while True:
            with suppress(OSError):  # a full disk stops the work itself, not this
                now = datetime.now().isoformat(" ", "milliseconds")
                write_atomically(path, f"at work on {socket.gethostname()} at {now}")
            if ended.wait(shard.patience / 10):
                return

    thread = Thread(target=renew, name="sign-of-life", daemon=True)
    thread.start()
    try:
        yield others
    except BaseException as error:
        ended.set()
        thread.join()
        with suppress(OSError):
            write_atomically(path, f"{FAILED}{type(error).__name__}: {error}")
        raise
    ended.set()
    thread.join()
    with suppress(OSError):
        path.unlink()
        path.parent.rmdir()  # by the last one
    if shard.rank == 0:
        rmtree(path.parent, ignore_errors=True)  # with what dead ones left
