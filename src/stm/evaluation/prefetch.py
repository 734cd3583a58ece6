"""Work ahead and behind: frames decoded before they are asked for, masks written and scored afterwards.

Threads and not processes: decoders, encoders and operations on arrays let other threads run meanwhile,
nothing is copied, and a process that computes on a GPU need not be started twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import torch

from stm.config.environment import cpus

T = TypeVar("T")


def default_workers(device: torch.device | None = None) -> int:
    """How many threads work behind the network? As many as it leaves cores free, at most 4.

    On a CPU (or no device) it keeps as many cores busy as torch has threads, by default all. A thread more
    than there are cores can make these wait for each other, and the network several times as slow.
    """
    on_cpu = device is None or device.type == "cpu"
    busy = torch.get_num_threads() if on_cpu else 1
    return max(0, min(4, cpus() - busy))


def prefetch(items: Iterator[T], count: int) -> Generator[T]:
    """The same items, made by a thread, up to `count` of them before they are asked for.

    What making an item raises comes in its place. Close it where it is left early: that ends the thread.
    With a count of 0 there is no thread.
    """
    if count == 0:
        yield from items
        return
    end = object()
    with ThreadPoolExecutor(1, "ahead") as thread:
        made = deque(thread.submit(next, items, end) for _ in range(count))
        try:
            while (item := made.popleft().result()) is not end:
                made.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]  # mypy knows no narrowing by `end`
        finally:
            thread.shutdown(cancel_futures=True)


class BackgroundPool:
    """Runs tasks in threads behind the caller, and begins them in the order in which they were given.

    Args:
        workers: how many threads; with 0 a task is done where it is given.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.failed = Event()
        """Set once the caller has failed: long tasks that may be done another time leave off."""
        self.threads = ThreadPoolExecutor(max(workers, 1), "behind")  # none starts before there is a task
        self._open: list[Future] = []

    def submit(self, task: Callable[..., T], *arguments: object) -> Future[T]:
        """Have a task done; waits while too many are open. Raises what an earlier one raised."""
        if self.workers == 0:
            done: Future[T] = Future()
            done.set_result(task(*arguments))
            return done
        self.settle(4 * self.workers - 1)
        future = self.threads.submit(task, *arguments)
        self._open.append(future)
        return future

    def settle(self, most: int = 0) -> None:
        """Wait until at most so many tasks are open. Raises what one of those that are done raised."""
        while True:
            for future in [future for future in self._open if future.done()]:
                self._open.remove(future)
                future.result()
            if len(self._open) <= most:
                return
            wait(self._open, return_when=FIRST_COMPLETED)


@contextmanager
def background_pool(workers: int) -> Iterator[BackgroundPool]:
    """Threads for a block; at its end all tasks are done, and their errors raised.

    After an error in the block, the tasks given before are still done; after an interruption (Ctrl-C) only
    those that run are waited for.
    """
    tasks, drop = BackgroundPool(workers), False
    try:
        yield tasks
        tasks.settle()
    except BaseException as error:
        tasks.failed.set()
        drop = not isinstance(error, Exception)
        raise
    finally:
        tasks.threads.shutdown(cancel_futures=drop)
