"""Prefetching and background tasks: order, bounds, errors and interruptions."""

import threading
import time
from contextlib import closing

import pytest
import torch

from stm.evaluation.prefetch import background_pool, default_workers, prefetch

SECONDS = 20
"""Timeout for events that should occur at once."""


def until(reached):
    end = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.001)


def count_items(computed, count=10, fails_at=None):
    for i in range(count):
        if i == fails_at:
            raise OSError(f"item {i} is damaged")
        computed.append(i)
        yield i


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_prefetch_keeps_items_and_order(count):
    assert list(prefetch(count_items([]), count)) == list(range(10))
    assert list(prefetch(iter([]), count)) == []


@pytest.mark.parametrize("count", [1, 3])
def test_prefetch_computes_exactly_count_items_in_advance(count):
    computed = []
    with closing(prefetch(count_items(computed), count)) as items:
        assert next(items) == 0
        until(lambda: len(computed) == 1 + count)
        time.sleep(0.05)
        assert computed == list(range(1 + count))
        assert next(items) == 1
        until(lambda: len(computed) == 2 + count)


def test_prefetch_of_0_computes_nothing_in_advance():
    computed = []
    items = prefetch(count_items(computed), 0)
    assert next(items) == 0 and computed == [0]


@pytest.mark.parametrize("count", [0, 2])
def test_prefetch_raises_an_item_s_error_in_its_place(count):
    items, received = prefetch(count_items([], fails_at=4), count), []
    with pytest.raises(OSError, match="item 4 is damaged"):
        for item in items:
            received.append(item)
    assert received == [0, 1, 2, 3]


def test_closing_early_ends_the_thread():
    before = threading.active_count()
    computed = []
    with closing(prefetch(count_items(computed, 1000), 3)) as items:
        next(items)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before and len(computed) <= 4


def test_background_tasks_are_done_at_the_end_of_the_block():
    done = []
    with background_pool(2) as pool:
        results = [pool.submit(lambda i=i: done.append(i) or i * i) for i in range(50)]
    assert sorted(done) == list(range(50))
    assert [result.result() for result in results] == [i * i for i in range(50)]


def test_without_workers_submit_runs_the_task():
    with background_pool(0) as pool:
        result = pool.submit(threading.get_ident)
        assert result.done() and result.result() == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_caller_waits_when_too_many_tasks_are_open(workers):
    release, submitted = threading.Event(), []

    def caller():
        with background_pool(workers) as pool:
            for i in range(100):
                pool.submit(release.wait, SECONDS)
                submitted.append(i)

    thread = threading.Thread(target=caller)
    thread.start()
    until(lambda: len(submitted) == 4 * workers)
    time.sleep(0.05)
    assert len(submitted) == 4 * workers
    release.set()
    thread.join(SECONDS)
    assert len(submitted) == 100


def test_an_error_surfaces_while_tasks_are_submitted():
    submitted = []
    with pytest.raises(ZeroDivisionError), background_pool(1) as pool:
        for i in range(1000):
            pool.submit(lambda i=i: 1 / (i - 3))
            submitted.append(i)
            time.sleep(0.001)
    assert len(submitted) < 50


def test_an_error_of_the_last_task_surfaces():
    with pytest.raises(ZeroDivisionError), background_pool(1) as pool:
        pool.submit(lambda: 1 / 0)


def test_after_an_error_submitted_tasks_are_completed():
    started, done = threading.Event(), []

    def slow():
        started.set()
        pool.failed.wait(SECONDS)
        done.append("slow")

    with pytest.raises(KeyError), background_pool(1) as pool:
        pool.submit(slow)
        pool.submit(done.append, "next")
        started.wait(SECONDS)
        raise KeyError("other")
    assert done == ["slow", "next"]


def test_after_an_interruption_only_running_tasks_are_completed():
    started, done = threading.Event(), []

    def slow():
        started.set()
        pool.failed.wait(SECONDS)
        done.append("slow")

    with pytest.raises(KeyboardInterrupt), background_pool(1) as pool:
        pool.submit(slow)
        pool.submit(done.append, "next")
        started.wait(SECONDS)
        raise KeyboardInterrupt
    assert done == ["slow"]


@pytest.mark.parametrize(
    ("device", "threads", "cores", "workers"),
    [
        ("cpu", 1, 1, 0),
        ("cpu", 2, 2, 0),
        ("cpu", 4, 2, 0),
        ("cpu", 1, 2, 1),
        ("cpu", 5, 8, 3),
        ("cpu", 1, 64, 4),
    ]
    + [("cuda", 8, 1, 0), ("cuda", 8, 2, 1), ("cuda", 8, 4, 3), ("cuda", 8, 64, 4)],
)
def test_default_workers_use_idle_cores(monkeypatch, device, threads, cores, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert default_workers(torch.device(device)) == workers
