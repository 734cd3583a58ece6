"""Threads that decode frames in advance, and that write and score masks in the background.

Threads suffice, because decoders, encoders and array operations release the interpreter's lock. Nothing is
copied between processes, and no second process needs the GPU.
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
    """Return the number of background threads: as many as the network leaves cores idle, at most 4.

    On a CPU (or without a device) the network uses as many cores as torch has threads, by default all. More
    threads than cores can make the network several times slower.
    """
    is_cpu = device is None or device.type == "cpu"
    used = torch.get_num_threads() if is_cpu else 1
    return max(0, min(4, cpus() - used))


def prefetch(items: Iterator[T], count: int) -> Generator[T]:
    """Yield the same items, computed in a thread up to `count` items in advance.

    An error of an item is raised in its place. Close the generator to end the thread early. A count of 0 uses
    no thread.
    """
    if count == 0:
        yield from items
        return
    end = object()
    with ThreadPoolExecutor(1, "prefetch") as thread:
        pending = deque(thread.submit(next, items, end) for _ in range(count))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]  # mypy does not narrow by `end`
        finally:
            thread.shutdown(cancel_futures=True)


class BackgroundPool:
    """Pool of threads that starts tasks in the order of submission.

    Args:
        workers: number of threads; with 0, `submit` runs the task itself.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.failed = Event()
        """Set once the caller has failed; long optional tasks should then stop."""
        self.threads = ThreadPoolExecutor(max(workers, 1), "background")  # starts threads on demand
        self._open: list[Future] = []

    def submit(self, task: Callable[..., T], *arguments: object) -> Future[T]:
        """Submit a task; wait while too many are open, and raise the error of an earlier one."""
        if self.workers == 0:
            done: Future[T] = Future()
            done.set_result(task(*arguments))
            return done
        self.wait(4 * self.workers - 1)
        future = self.threads.submit(task, *arguments)
        self._open.append(future)
        return future

    def wait(self, limit: int = 0) -> None:
        """Wait until at most `limit` tasks are open; raise the error of a finished one."""
        while True:
            for future in [future for future in self._open if future.done()]:
                self._open.remove(future)
                future.result()
            if len(self._open) <= limit:
                return
            wait(self._open, return_when=FIRST_COMPLETED)


@contextmanager
def background_pool(workers: int) -> Iterator[BackgroundPool]:
    """Yield a pool; at the end of the block wait for all tasks and raise their errors.

    After an error in the block, submitted tasks are still completed. After an interruption (Ctrl-C) only
    running tasks are.
    """
    pool, is_interrupted = BackgroundPool(workers), False
    try:
        yield pool
        pool.wait()
    except BaseException as error:
        pool.failed.set()
        is_interrupted = not isinstance(error, Exception)
        raise
    finally:
        pool.threads.shutdown(cancel_futures=is_interrupted)
