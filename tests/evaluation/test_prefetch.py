"""Work ahead and behind: order, bounds, errors and interruptions."""

import threading
import time
from contextlib import closing

import pytest
import torch

from stm.evaluation.prefetch import background_pool, default_workers, prefetch

SECONDS = 20
"""How long a test waits for what should come at once."""


def until(reached):
    end = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.001)


def counting(made, count=10, fails_at=None):
    for i in range(count):
        if i == fails_at:
            raise OSError(f"item {i} is broken")
        made.append(i)
        yield i


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_ahead_gives_the_same_items_in_order(count):
    assert list(prefetch(counting([]), count)) == list(range(10))
    assert list(prefetch(iter([]), count)) == []


@pytest.mark.parametrize("count", [1, 3])
def test_ahead_makes_so_many_items_before_they_are_asked_for_and_no_more(count):
    made = []
    with closing(prefetch(counting(made), count)) as items:
        assert next(items) == 0
        until(lambda: len(made) == 1 + count)
        time.sleep(0.05)
        assert made == list(range(1 + count))
        assert next(items) == 1
        until(lambda: len(made) == 2 + count)


def test_nothing_is_made_ahead_unless_asked_for():
    made = []
    items = prefetch(counting(made), 0)
    assert next(items) == 0 and made == [0]


@pytest.mark.parametrize("count", [0, 2])
def test_ahead_raises_an_item_s_error_in_its_place(count):
    items, got = prefetch(counting([], fails_at=4), count), []
    with pytest.raises(OSError, match="item 4 is broken"):
        for item in items:
            got.append(item)
    assert got == [0, 1, 2, 3]


def test_leaving_early_ends_the_thread():
    before = threading.active_count()
    made = []
    with closing(prefetch(counting(made, 1000), 3)) as items:
        next(items)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before and len(made) <= 4


def test_tasks_behind_are_done_at_the_end_of_the_block():
    done = []
    with background_pool(2) as later:
        results = [later.submit(lambda i=i: done.append(i) or i * i) for i in range(50)]
    assert sorted(done) == list(range(50))
    assert [result.result() for result in results] == [i * i for i in range(50)]


def test_without_workers_a_task_is_done_where_it_is_given():
    with background_pool(0) as later:
        result = later.submit(threading.get_ident)
        assert result.done() and result.result() == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            later.submit(lambda: 1 / 0)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_caller_waits_when_too_many_tasks_are_open(workers):
    release, given = threading.Event(), []

    def caller():
        with background_pool(workers) as later:
            for i in range(100):
                later.submit(release.wait, SECONDS)
                given.append(i)

    thread = threading.Thread(target=caller)
    thread.start()
    until(lambda: len(given) == 4 * workers)
    time.sleep(0.05)
    assert len(given) == 4 * workers
    release.set()
    thread.join(SECONDS)
    assert len(given) == 100


def test_an_error_surfaces_while_tasks_are_given():
    given = []
    with pytest.raises(ZeroDivisionError), background_pool(1) as later:
        for i in range(1000):
            later.submit(lambda i=i: 1 / (i - 3))
            given.append(i)
            time.sleep(0.001)
    assert len(given) < 50


def test_an_error_of_the_last_task_surfaces_too():
    with pytest.raises(ZeroDivisionError), background_pool(1) as later:
        later.submit(lambda: 1 / 0)


def test_after_an_error_what_was_given_before_is_still_done():
    begun, done = threading.Event(), []

    def slow():
        begun.set()
        later.failed.wait(SECONDS)
        done.append("slow")

    with pytest.raises(KeyError), background_pool(1) as later:
        later.submit(slow)
        later.submit(done.append, "next")
        begun.wait(SECONDS)
        raise KeyError("elsewhere")
    assert done == ["slow", "next"]


def test_after_an_interruption_only_what_runs_is_waited_for():
    begun, done = threading.Event(), []

    def slow():
        begun.set()
        later.failed.wait(SECONDS)
        done.append("slow")

    with pytest.raises(KeyboardInterrupt), background_pool(1) as later:
        later.submit(slow)
        later.submit(done.append, "next")
        begun.wait(SECONDS)
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
def test_cores_that_the_network_computes_on_are_left_to_it(monkeypatch, device, threads, cores, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert default_workers(torch.device(device)) == workers
