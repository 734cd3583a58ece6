"""Evaluation in several processes of a process group: assignment, equal results, interruptions, failures."""

import itertools
import time
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import contents, fork_server, wait_until
from helpers.small_networks import network
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.sharding import all_gather_object, partition_videos, process_rank
from stm.video import ArrayVideo

VIDEOS = {"a": (5, 1), "b": (9, 1), "c": (4, 2), "d": (12, 1), "e": (3, 2), "f": (7, 1)}
"""Video -> frames and objects; their work is 5, 9, 8, 12, 6 and 7."""


class RecordedVideo(ArrayVideo):
    """A video that records its reader, and that files can make fail or block at its third frame."""

    def __init__(self, name: str, folder: Path, rank: int) -> None:
        length, objects = VIDEOS[name]
        frames = np.random.default_rng(length).integers(0, 256, (length, 32, 48, 3), dtype=np.uint8)
        masks = np.zeros((length, 32, 48), dtype=np.uint8)
        for t, label in itertools.product(range(length), range(objects)):
            masks[t, 4 + 14 * label : 14 + 14 * label, 4 + t : 18 + t] = 3 + label
        super().__init__(name, frames, masks)
        self.folder, self.rank = folder, rank

    def frame(self, t: int) -> np.ndarray:
        with (self.folder / f"read-{self.rank}").open("a") as file:
            file.write(self.name)
        if t == 2 and (self.folder / f"fail-{self.name}").exists():
            raise OSError("cannot read the disk")
        while t == 2 and (self.folder / f"block-{self.name}").exists():
            time.sleep(0.02)
        return super().frame(t)


def make_videos(folder: Path = Path(), rank: int = 0) -> list[ArrayVideo]:
    return [RecordedVideo(name, folder, rank) for name in VIDEOS]


def evaluate_in_process(folder: Path, rank: int, size: int, number: int) -> None:
    """Join the process group, evaluate, and write the scores or the error to a file."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/group-{number}"
    timeout = timedelta(minutes=5)
    torch.distributed.init_process_group("gloo", meeting, timeout, rank=rank, world_size=size)
    benchmark = Benchmark("boxes", make_videos(folder, rank), protocol="youtube")
    try:
        scores = evaluate(
            network(), None, benchmark, folder / "output", progress=False, workers=0, distributed=True
        )
    except Exception as error:
        (folder / f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error
    (folder / f"scores-{rank}").write_text(str((scores.overall, [one.name for one in scores.sequences])))
    torch.distributed.destroy_process_group()


def start(folder: Path, size: int) -> list[ForkServerProcess]:
    folder.mkdir(exist_ok=True)
    number = len(list(folder.glob("group-*")))
    processes = [
        fork_server.Process(target=evaluate_in_process, args=(folder, rank, size, number))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def join(processes: list[ForkServerProcess], seconds: float = 120) -> list[int | None]:
    """Return the exit codes; None for processes that had to be killed after so many seconds."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, end - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def videos_read(folder: Path, rank: int) -> str:
    """Return the names of the videos that a process read, in order."""
    file = folder / f"read-{rank}"
    return "".join(name for name, _ in itertools.groupby(file.read_text())) if file.exists() else ""


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an evaluation in one process."""
    folder = tmp_path_factory.mktemp("single")
    assert join(start(folder, 1)) == [0]
    assert videos_read(folder, 0) == "".join(VIDEOS), "one process keeps the order of the videos"
    return folder


# Assignment of videos


def names(parts: list[list[ArrayVideo]]) -> list[str]:
    return ["".join(video.name for video in part) for part in parts]


def test_hand_computed_partitions() -> None:
    """The work of d, b, c, f, e and a is 12, 9, 8, 7, 6 and 5."""
    assert names(partition_videos(make_videos(), 1)) == ["abcdef"]
    assert names(partition_videos(make_videos(), 2)) == ["dfa", "bce"]  # 12 + 7 + 5, 9 + 8 + 6
    assert names(partition_videos(make_videos(), 3)) == ["da", "be", "cf"]
    assert names(partition_videos(make_videos(), 8)) == ["d", "b", "c", "f", "e", "a", "", ""]


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(1, 12), max_size=7), size=st.integers(2, 3))
def test_partitions_are_complete_and_balanced(lengths: list[int], size: int) -> None:
    """Longest first is within 4/3 of the best assignment (Graham 1969), which is found by trying all."""
    frames = np.zeros((12, 1, 1, 3), dtype=np.uint8)
    masks = np.ones((12, 1, 1), dtype=np.uint8)
    videos = [ArrayVideo(str(i), frames[:n], masks[:n]) for i, n in enumerate(lengths)]
    parts = partition_videos(videos, size)
    assert sorted(video.name for part in parts for video in part) == sorted(video.name for video in videos)
    assert all([len(v) for v in part] == sorted((len(v) for v in part), reverse=True) for part in parts)
    best = min(
        max(sum(n for n, r in zip(lengths, ranks, strict=True) if r == rank) for rank in range(size))
        for ranks in itertools.product(range(size), repeat=len(lengths))
    )
    assert max(sum(map(len, part)) for part in parts) <= 4 / 3 * best


def test_without_a_process_group_there_is_one_process() -> None:
    assert process_rank() == (0, 1)
    assert all_gather_object("value") == ["value"]


# Processes


@pytest.mark.parametrize(
    "size", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 7]
)
def test_several_processes_equal_one(tmp_path: Path, single: Path, size: int) -> None:
    """All ranks return all scores, also one that has no video."""
    assert join(start(tmp_path, size)) == [0] * size
    assert contents(tmp_path / "output") == contents(single / "output")
    assigned = [videos_read(tmp_path, rank) for rank in range(size)]
    assert assigned == names(partition_videos(make_videos(), size))
    scores = {(tmp_path / f"scores-{rank}").read_text() for rank in range(size)}
    assert scores == {(single / "scores-0").read_text()}


def test_resuming_with_another_number_of_processes(tmp_path: Path, single: Path) -> None:
    for name in "fc":
        (tmp_path / f"block-{name}").touch()
    processes = start(tmp_path, 2)
    wait_until(lambda: [videos_read(tmp_path, rank) for rank in range(2)] == ["df", "bc"])
    join(processes, 0)
    sequences = tmp_path / "output" / "sequences"
    finished = {path.name: path.read_bytes() for path in sequences.glob("*.json")}
    assert finished.keys() == {"d.json", "b.json"}
    assert not (tmp_path / "output" / "scores.json").exists()
    for path in (*tmp_path.glob("block-*"), *tmp_path.glob("read-*")):
        path.unlink()
    assert join(start(tmp_path, 3)) == [0, 0, 0]
    assert {name: (sequences / name).read_bytes() for name in finished} == finished
    assert sorted("".join(videos_read(tmp_path, rank) for rank in range(3))) == list("acef")
    assert contents(tmp_path / "output") == contents(single / "output")


def test_a_killed_process_ends_the_others(tmp_path: Path, single: Path) -> None:
    (tmp_path / "block-c").touch()  # the second video of rank 1
    first, second = start(tmp_path, 2)
    wait_until(lambda: videos_read(tmp_path, 1) == "bc")
    second.kill()
    assert join([first], 60) == [1]
    assert (tmp_path / "error-0").exists() and not (tmp_path / "output" / "scores.json").exists()
    (tmp_path / "block-c").unlink()
    assert join(start(tmp_path, 1)) == [0]
    assert contents(tmp_path / "output") == contents(single / "output")


def test_a_failed_process_ends_the_others_with_an_error(tmp_path: Path, single: Path) -> None:
    (tmp_path / "fail-b").touch()  # the first video of rank 1
    assert join(start(tmp_path, 2), 60) == [1, 1]
    assert (tmp_path / "error-1").read_text() == "OSError: cannot read the disk"
    assert not (tmp_path / "output" / "scores.json").exists()
    (tmp_path / "fail-b").unlink()
    assert join(start(tmp_path, 2)) == [0, 0]
    assert contents(tmp_path / "output") == contents(single / "output")
