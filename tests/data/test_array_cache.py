"""A large file's index: the same arrays as the file gives, made once however many ask, never a broken one."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing as mp
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.data_trees import boxes, write_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.data import array_cache as index
from stm.data.array_cache import cached_arrays, members
from stm.data.coco import CocoStills

FORK = mp.get_context("fork")
ARRAYS = {
    "counts": np.arange(7, dtype=np.int64),
    "none": np.empty((0, 2), dtype=np.float32),
    "names": np.array([b"a.jpg", b"bcd.jpg"]),
    "table": np.arange(6, dtype=np.float32).reshape(3, 2),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stm"


def never() -> index.Arrays:
    raise AssertionError("the index is there")


def assert_same(found: index.Arrays, expected: index.Arrays = ARRAYS) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


# --- the index ---


def test_a_file_is_read_once(tmp_path: Path) -> None:
    source = tmp_path / "large.json"
    source.write_text("large")
    made, mapped = cached_arrays(source, lambda: ARRAYS)
    assert_same(made)
    assert mapped
    found, mapped = cached_arrays(source, never)
    assert_same(found)
    assert mapped
    assert not any(array.flags.writeable for array in found.values())
    assert {path.name for path in tmp_path.iterdir()} == {"large.json", "large.json.index"}


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    source = tmp_path / "large.json"
    source.write_text("large")
    cached_arrays(source, lambda: ARRAYS)
    other = {"counts": np.array([5])}
    source.write_text("other")
    os.utime(source, ns=(0, 12345))
    assert_same(cached_arrays(source, lambda: other)[0], other)
    assert_same(cached_arrays(source, never)[0], other)


@pytest.mark.parametrize("broken", [b"", b"{}", b"nothing\n", b'{"key": 1, "bytes": "x"}\n'])
def test_a_broken_index_is_made_anew(tmp_path: Path, broken: bytes) -> None:
    source, place = tmp_path / "large.json", tmp_path / "large.json.index"
    source.write_text("large")
    place.write_bytes(broken)
    assert_same(cached_arrays(source, lambda: ARRAYS)[0])
    place.write_bytes(place.read_bytes()[:-1])
    assert_same(cached_arrays(source, lambda: ARRAYS)[0])
    assert_same(cached_arrays(source, never)[0])


def test_where_the_data_cannot_be_written_the_index_lies_in_the_cache(own_cache: Path) -> None:
    source = Path("/proc/version")  # not even root can write beside it
    _, mapped = cached_arrays(source, lambda: ARRAYS)
    assert mapped
    (place,) = own_cache.iterdir()
    assert place.name.endswith("_version.index")
    cached_arrays(source, never)


def test_where_nothing_can_be_written_the_arrays_are_there_all_the_same(
    own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_cache.parent.write_text("a file where the folder would be")
    arrays, mapped = cached_arrays("/proc/version", lambda: ARRAYS)
    assert_same(arrays)
    assert not mapped
    assert "/proc/version: no index can be written" in caplog.text


def test_a_mistake_of_the_file_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "large.json"
    source.write_text("large")

    def broken() -> index.Arrays:
        raise KeyError("images")

    with pytest.raises(KeyError):
        cached_arrays(source, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["large.json"]


# --- several processes ---


def build_slowly(folder: Path) -> index.Arrays:
    with (folder / "builders").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    return ARRAYS


def open_index(folder: Path, told: mp.Queue) -> None:
    arrays, mapped = cached_arrays(folder / "large.json", lambda: build_slowly(folder))
    told.put((mapped, {name: array.tolist() for name, array in arrays.items()}))


def builders(folder: Path) -> list[int]:
    path = folder / "builders"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def wait_until(reached: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_of_several_processes_one_makes_it_even_if_the_first_is_killed(tmp_path: Path) -> None:
    (tmp_path / "large.json").write_text("large")
    told: mp.Queue = FORK.Queue()
    running = [FORK.Process(target=open_index, args=(tmp_path, told)) for _ in range(3)]
    for process in running:
        process.start()
    wait_until(lambda: builders(tmp_path))
    (first,) = builders(tmp_path)
    os.kill(first, signal.SIGKILL)
    answers = [told.get(timeout=60) for _ in range(2)]
    for process in running:
        process.join(60)
    assert sorted(process.exitcode or 0 for process in running) == [-signal.SIGKILL, 0, 0]
    assert len(builders(tmp_path)) == 2, "the killed one and one other; the third found it made"
    assert answers == [(True, {name: array.tolist() for name, array in ARRAYS.items()})] * 2
    assert_same(cached_arrays(tmp_path / "large.json", never)[0])


class InTurns(dict):
    """Arrays that two writers read in turns."""

    def __init__(self, arrays: index.Arrays, turn: threading.Barrier) -> None:
        super().__init__(arrays)
        self.turn = turn

    def values(self):
        for array in super().values():
            self.turn.wait(20)
            yield array


def test_two_nodes_whose_file_system_cannot_lock(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both make it at once, in processes of the same number; threads stand for them."""

    def cannot(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", cannot)
    (tmp_path / "large.json").write_text("large")
    turn = threading.Barrier(2)
    with ThreadPoolExecutor(2) as nodes:
        made = [
            nodes.submit(cached_arrays, tmp_path / "large.json", lambda: InTurns(ARRAYS, turn)) for _ in "ab"
        ]
    for one in made:
        arrays, mapped = one.result()
        assert mapped
        assert_same(arrays)
    assert not own_cache.exists(), "neither had to go elsewhere"
    assert {path.name for path in tmp_path.iterdir()} == {"large.json", "large.json.index"}


# --- COCO ---


def write_coco(root: Path, count: int) -> tuple[Path, Path]:
    """Images of two boxes each, the second in front; told in an order that no image's annotations share."""
    images = [{"id": 7 * i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in range(count)]
    annotations = []
    for size in (9, 30):
        for i in reversed(range(count)):
            left = i % 20
            polygon = [left, 2, left + size, 2, left + size, 2 + size, left, 2 + size]
            annotations.append({"image_id": 7 * i, "segmentation": [polygon], "area": size * size})
    root.mkdir(exist_ok=True)
    for image in images:
        write_frame(root / str(image["file_name"]), np.zeros((40, 60, 3), dtype=np.uint8))
    path = root / "instances.json"
    path.write_text(json.dumps({"annotations": annotations, "info": {"a": [1]}, "images": images}))
    return root, path


def open_coco(root: Path, path: Path, told: mp.Queue) -> None:
    stills = CocoStills(root, path)
    told.put([stills.mask(i).tolist() for i in range(len(stills))])


def test_two_processes_that_open_coco_at_once_see_the_same_masks(tmp_path: Path) -> None:
    root, path = write_coco(tmp_path / "coco", 30)
    told: mp.Queue = FORK.Queue()
    running = [FORK.Process(target=open_coco, args=(root, path, told)) for _ in range(2)]
    for process in running:
        process.start()
    answers = [told.get(timeout=60) for _ in running]
    for process in running:
        process.join(60)
    expected = [
        boxes({1: (2, i % 20, 32, i % 20 + 30), 2: (2, i % 20, 11, i % 20 + 9)}).tolist() for i in range(30)
    ]
    assert answers == [expected] * 2
    left = {p.name for p in root.iterdir() if p.suffix != ".png"}
    assert left == {"instances.json", "instances.json.index"}


def test_a_loading_process_is_sent_no_arrays(tmp_path: Path) -> None:
    stills = CocoStills(*write_coco(tmp_path / "coco", 200))
    sent = pickle.dumps(stills)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert len(again) == 200
    assert np.array_equal(again.read(150)[1], stills.mask(150))


# --- the reader ---

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), anything), st.sampled_from([None, 1]))
def test_members_are_those_of_the_whole_text(told: dict, indent: int | None) -> None:
    expected = [(name, member) for name, list_ in told.items() if isinstance(list_, list) for member in list_]
    assert list(members(json.dumps(told, indent=indent))) == expected


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a"', '{"a": [1', '{"a": [1 2]}', '{"a": [1,]}', "null"])
def test_what_is_no_object_is_told(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        list(members(text))
