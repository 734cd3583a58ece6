"""Processes that evaluate together give what one gives: shares, equality, interruptions, a rank that dies."""

import itertools
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import _server, contents, wait_until
from helpers.small_networks import network
from hypothesis import given, settings
from hypothesis import strategies as st
from stm.evaluation.shards import Shard, shares

from stm.evaluation.evaluate import Benchmark, evaluate
from stm.video import ArrayVideo

LENGTHS = {"a": (5, 1), "b": (9, 1), "c": (4, 2), "d": (12, 1), "e": (3, 2), "f": (7, 1)}
"""Video -> frames and objects: 5, 9, 8, 12, 6, 7 in this order."""


class Noted(ArrayVideo):
    """A video that notes who reads it, and can be made to stop at its third frame."""

    def __init__(self, name: str, folder: Path, rank: int) -> None:
        length, objects = LENGTHS[name]
        frames = np.random.default_rng(length).integers(0, 256, (length, 32, 48, 3), dtype=np.uint8)
        masks = np.zeros((length, 32, 48), dtype=np.uint8)
        for t, label in itertools.product(range(length), range(objects)):
            masks[t, 4 + 14 * label : 14 + 14 * label, 4 + t : 18 + t] = 3 + label
        super().__init__(name, frames, masks)
        self.folder, self.rank = folder, rank

    def frame(self, t: int) -> np.ndarray:
        with (self.folder / f"read-{self.rank}").open("a") as file:
            file.write(self.name)
        if t == 2 and (self.folder / f"breaks-{self.name}").exists():
            raise OSError("the disk is gone")
        while t == 2 and (self.folder / f"stops-{self.name}").exists():
            time.sleep(0.02)
        return super().frame(t)


def videos(folder: Path = Path(), rank: int = 0) -> list[ArrayVideo]:
    return [Noted(name, folder, rank) for name in LENGTHS]


def work(folder: Path, shard: Shard) -> None:
    """What one process does; what it raises comes to lie in a file."""
    torch.set_num_threads(1)
    benchmark = Benchmark("boxes", videos(folder, shard.rank), protocol="youtube")
    try:
        evaluate(network(), None, benchmark, folder / "output", progress=False, workers=0, shard=shard)
    except Exception as error:
        (folder / f"raised-{shard.rank}").write_text(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def begin(folder: Path, size: int, patience: float = 300, ranks: list[int] | None = None):
    folder.mkdir(exist_ok=True)
    started: list[ForkServerProcess] = []
    for rank in range(size) if ranks is None else ranks:
        started.append(_server.Process(target=work, args=(folder, Shard(rank, size, patience))))
        started[-1].start()
    return started


def end(processes: list[ForkServerProcess], seconds: float = 120) -> list[int | None]:
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, until - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def read_by(folder: Path, rank: int) -> list[str]:
    """The videos that a process read, in order, each as often as in a row."""
    file = folder / f"read-{rank}"
    return [name for name, _ in itertools.groupby(file.read_text())] if file.exists() else []


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one process makes of the videos."""
    folder = tmp_path_factory.mktemp("alone")
    assert end(begin(folder, 1)) == [0]
    assert read_by(folder, 0) == list(LENGTHS), "in their own order"
    return contents(folder / "output")


# Shares


def names(parts: list[list[ArrayVideo]]) -> list[str]:
    return ["".join(video.name for video in part) for part in parts]


def test_the_longest_goes_to_whom_has_least() -> None:
    """d 12, b 9, c 8, f 7, e 6, a 5 by hand."""
    assert names(shares(videos(), 1)) == ["abcdef"]
    assert names(shares(videos(), 2)) == ["dfa", "bce"]  # 12+7+5, 9+8+6
    assert names(shares(videos(), 3)) == ["da", "be", "cf"]
    assert names(shares(videos(), 8)) == ["d", "b", "c", "f", "e", "a", "", ""]


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(1, 12), max_size=7), size=st.integers(2, 3))
def test_no_video_twice_and_no_process_has_much_more(lengths: list[int], size: int) -> None:
    """Against the best of all assignments: longest first is within 4/3 of it (Graham 1969)."""
    frames = np.zeros((12, 1, 1, 3), dtype=np.uint8)
    masks = np.ones((12, 1, 1), dtype=np.uint8)
    given = [ArrayVideo(str(i), frames[:n], masks[:n]) for i, n in enumerate(lengths)]
    parts = shares(given, size)
    assert sorted(video.name for part in parts for video in part) == sorted(video.name for video in given)
    assert all([len(v) for v in part] == sorted((len(v) for v in part), reverse=True) for part in parts)
    best = min(
        max(sum(n for n, to in zip(lengths, taken, strict=True) if to == rank) for rank in range(size))
        for taken in itertools.product(range(size), repeat=len(lengths))
    )
    assert max(sum(map(len, part)) for part in parts) <= 4 / 3 * best


def test_ranks_that_cannot_be_are_refused() -> None:
    for rank, size in ((2, 2), (-1, 1), (0, 0)):
        with pytest.raises(ValueError, match=f"rank {rank} of {size} processes: ranks count from 0"):
            Shard(rank, size)
    with pytest.raises(ValueError, match="patience=0"):
        Shard(patience=0)
    with pytest.raises(ValueError, match="2 processes evaluate together: they need an output folder"):
        evaluate(network(), None, Benchmark("b", []), progress=False, shard=Shard(0, 2))


# Real processes


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_give_what_one_gives(tmp_path: Path, alone: dict, size: int) -> None:
    assert end(begin(tmp_path, size)) == [0] * size
    assert contents(tmp_path / "output") == alone
    assert ["".join(read_by(tmp_path, rank)) for rank in range(size)] == names(shares(videos(), size))


def test_killed_in_the_middle_and_gone_on_with_another_number(tmp_path: Path, alone: dict) -> None:
    for name in "fc":
        (tmp_path / f"stops-{name}").touch()
    processes = begin(tmp_path, 2)
    finished = tmp_path / "output" / "sequences"
    wait_until(lambda: read_by(tmp_path, 0) == ["d", "f"] and read_by(tmp_path, 1) == ["b", "c"])
    end(processes, 0)
    before = {path.name: path.read_bytes() for path in finished.glob("*.json")}
    assert before.keys() == {"d.json", "b.json"}
    assert not (tmp_path / "output" / "scores.json").exists()
    for path in (*tmp_path.glob("stops-*"), *tmp_path.glob("read-*")):
        path.unlink()
    assert end(begin(tmp_path, 3)) == [0, 0, 0]
    assert {name: (finished / name).read_bytes() for name in before} == before
    assert sorted("".join("".join(read_by(tmp_path, rank)) for rank in range(3))) == list("acef")
    assert contents(tmp_path / "output") == alone


def test_a_killed_rank_is_named_and_keeps_nobody_waiting(tmp_path: Path, alone: dict) -> None:
    (tmp_path / "stops-c").touch()  # the second of rank 1's
    first, second = begin(tmp_path, 2, patience=3)
    wait_until(lambda: read_by(tmp_path, 1) == ["b", "c"])
    second.kill()
    began = time.monotonic()
    assert end([first]) == [1]
    assert time.monotonic() - began < 60
    told = (tmp_path / "raised-0").read_text()
    assert told.startswith("DeadRank: rank 1 has given no sign of life for 3 s (the last: at work on ")
    assert (
        "It has left 2 videos undone, such as c. Finished videos are kept: the same command goes on" in told
    )
    (tmp_path / "stops-c").unlink()
    assert end(begin(tmp_path, 1)) == [0]
    assert contents(tmp_path / "output") == alone


def test_a_rank_that_fails_is_told_at_once(tmp_path: Path, alone: dict) -> None:
    """With its error; and the next attempt is not misled by what it left."""
    (tmp_path / "breaks-b").touch()  # the first of rank 1's
    first = begin(tmp_path, 2, ranks=[0])
    wait_until((tmp_path / "output" / "ranks" / "0").exists)  # or it is taken for an earlier attempt's
    assert end([*first, *begin(tmp_path, 2, ranks=[1])]) == [1, 1]
    assert (tmp_path / "raised-1").read_text() == "OSError: the disk is gone"
    told = (tmp_path / "raised-0").read_text()
    assert told.startswith("DeadRank: rank 1 failed: OSError: the disk is gone\nIt has left 3 videos undone")
    (tmp_path / "breaks-b").unlink()
    assert (tmp_path / "output" / "ranks" / "1").exists()
    first = begin(tmp_path, 2, ranks=[0])
    wait_until(lambda: (tmp_path / "output" / "ranks" / "0").read_text().startswith("at work"))
    time.sleep(1)
    assert first[0].is_alive()
    assert end([*first, *begin(tmp_path, 2, ranks=[1])]) == [0, 0]
    assert contents(tmp_path / "output") == alone


def test_a_rank_that_fails_in_the_words_of_an_earlier_attempt_is_told_at_once(tmp_path: Path) -> None:
    left = tmp_path / "output" / "ranks" / "1"
    left.parent.mkdir(parents=True)
    left.write_text("failed: OSError: the disk is gone")
    for what in ("breaks-b", "stops-d"):  # the first ones of rank 1 and 0
        (tmp_path / what).touch()
    first = begin(tmp_path, 2, ranks=[0])
    wait_until(lambda: read_by(tmp_path, 0) == ["d"])
    assert end(begin(tmp_path, 2, ranks=[1])) == [1]
    (tmp_path / "stops-d").unlink()
    assert end(first, 60) == [1]
    told = (tmp_path / "raised-0").read_text()
    assert told.startswith("DeadRank: rank 1 failed: OSError: the disk is gone")


def test_a_rank_that_never_comes(tmp_path: Path) -> None:
    assert end(begin(tmp_path, 2, patience=1, ranks=[1])) == [1]
    told = (tmp_path / "raised-1").read_text()
    assert told.startswith("DeadRank: rank 0 has given no sign of life for 1 s (the last: none): it died, or")
    assert f"its node does not see {tmp_path / 'output'}\nIt has left 3 videos undone, such as d." in told
