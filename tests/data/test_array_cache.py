"""Index files of large files: equal arrays, built once by concurrent processes, rebuilt if broken."""

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

from stm.data.array_cache import Arrays, cached_arrays, iterate_list_members
from stm.data.coco import CocoStills

FORK = mp.get_context("fork")
ARRAYS = {
    "counts": np.arange(7, dtype=np.int64),
    "none": np.empty((0, 2), dtype=np.float32),
    "names": np.array([b"a.jpg", b"bcd.jpg"]),
    "table": np.arange(6, dtype=np.float32).reshape(3, 2),
}


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stm"


def must_not_build() -> Arrays:
    raise AssertionError("an index file exists")


def assert_same(arrays: Arrays, expected: Arrays = ARRAYS) -> None:
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        assert np.array_equal(arrays[name], array)


# --- the index file ---


def test_a_file_is_parsed_once(tmp_path: Path) -> None:
    source = tmp_path / "large.json"
    source.write_text("large")
    built, is_mapped = cached_arrays(source, lambda: ARRAYS)
    assert_same(built)
    assert is_mapped
    arrays, is_mapped = cached_arrays(source, must_not_build)
    assert_same(arrays)
    assert is_mapped
    assert not any(array.flags.writeable for array in arrays.values())
    assert {path.name for path in tmp_path.iterdir()} == {"large.json", "large.json.index"}


def test_a_changed_file_is_parsed_again(tmp_path: Path) -> None:
    source = tmp_path / "large.json"
    source.write_text("large")
    cached_arrays(source, lambda: ARRAYS)
    other = {"counts": np.array([5])}
    source.write_text("other")
    os.utime(source, ns=(0, 12345))
    assert_same(cached_arrays(source, lambda: other)[0], other)
    assert_same(cached_arrays(source, must_not_build)[0], other)


@pytest.mark.parametrize("broken", [b"", b"{}", b"nothing\n", b'{"key": 1, "bytes": "x"}\n'])
def test_a_broken_index_file_is_replaced(tmp_path: Path, broken: bytes) -> None:
    source, path = tmp_path / "large.json", tmp_path / "large.json.index"
    source.write_text("large")
    path.write_bytes(broken)
    assert_same(cached_arrays(source, lambda: ARRAYS)[0])
    path.write_bytes(path.read_bytes()[:-1])
    assert_same(cached_arrays(source, lambda: ARRAYS)[0])
    assert_same(cached_arrays(source, must_not_build)[0])


def test_the_index_of_a_file_in_a_read_only_folder_is_in_the_user_cache(user_cache: Path) -> None:
    source = Path("/proc/version")  # not even root can write there
    _, is_mapped = cached_arrays(source, lambda: ARRAYS)
    assert is_mapped
    (path,) = user_cache.iterdir()
    assert path.name.endswith("_version.index")
    cached_arrays(source, must_not_build)


def test_arrays_are_built_if_no_index_can_be_written(
    user_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user_cache.parent.write_text("a file in place of the folder")
    arrays, is_mapped = cached_arrays("/proc/version", lambda: ARRAYS)
    assert_same(arrays)
    assert not is_mapped
    assert "/proc/version: no index file can be written" in caplog.text


def test_an_error_of_the_parser_is_raised_and_leaves_no_index(tmp_path: Path) -> None:
    source = tmp_path / "large.json"
    source.write_text("large")

    def broken() -> Arrays:
        raise KeyError("images")

    with pytest.raises(KeyError):
        cached_arrays(source, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["large.json"]


# --- several processes ---


def build_slowly(folder: Path) -> Arrays:
    with (folder / "builders").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    return ARRAYS


def open_index(folder: Path, results: mp.Queue) -> None:
    arrays, is_mapped = cached_arrays(folder / "large.json", lambda: build_slowly(folder))
    results.put((is_mapped, {name: array.tolist() for name, array in arrays.items()}))


def builders(folder: Path) -> list[int]:
    path = folder / "builders"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_process_builds_the_index_and_another_takes_over_if_it_is_killed(tmp_path: Path) -> None:
    (tmp_path / "large.json").write_text("large")
    results: mp.Queue = FORK.Queue()
    processes = [FORK.Process(target=open_index, args=(tmp_path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    wait_until(lambda: builders(tmp_path))
    (first,) = builders(tmp_path)
    os.kill(first, signal.SIGKILL)
    opened = [results.get(timeout=60) for _ in range(2)]
    for process in processes:
        process.join(60)
    assert sorted(process.exitcode or 0 for process in processes) == [-signal.SIGKILL, 0, 0]
    assert len(builders(tmp_path)) == 2, "the killed process and one other; the third maps the index"
    assert opened == [(True, {name: array.tolist() for name, array in ARRAYS.items()})] * 2
    assert_same(cached_arrays(tmp_path / "large.json", must_not_build)[0])


class SynchronizedArrays(dict):
    """Arrays whose values two writers read in lockstep."""

    def __init__(self, arrays: Arrays, barrier: threading.Barrier) -> None:
        super().__init__(arrays)
        self.barrier = barrier

    def values(self):
        for array in super().values():
            self.barrier.wait(20)
            yield array


def test_two_nodes_write_at_once_if_their_file_system_cannot_lock(
    tmp_path: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stand for processes on two nodes, which may have the same process id."""

    def raise_no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", raise_no_locks)
    (tmp_path / "large.json").write_text("large")
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as nodes:
        futures = [
            nodes.submit(cached_arrays, tmp_path / "large.json", lambda: SynchronizedArrays(ARRAYS, barrier))
            for _ in range(2)
        ]
    for future in futures:
        arrays, is_mapped = future.result()
        assert is_mapped
        assert_same(arrays)
    assert not user_cache.exists(), "neither node needed the user cache"
    assert {path.name for path in tmp_path.iterdir()} == {"large.json", "large.json.index"}


# --- COCO ---


def write_coco(root: Path, count: int) -> tuple[Path, Path]:
    """Write images of two boxes each, the second in front; the annotations of an image are far apart."""
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


def open_coco(root: Path, path: Path, results: mp.Queue) -> None:
    stills = CocoStills(root, path)
    results.put([stills.mask(i).tolist() for i in range(len(stills))])


def test_two_processes_that_open_coco_at_once_read_the_same_masks(tmp_path: Path) -> None:
    root, path = write_coco(tmp_path / "coco", 30)
    results: mp.Queue = FORK.Queue()
    processes = [FORK.Process(target=open_coco, args=(root, path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    opened = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    expected = [
        boxes({1: (2, i % 20, 32, i % 20 + 30), 2: (2, i % 20, 11, i % 20 + 9)}).tolist() for i in range(30)
    ]
    assert opened == [expected] * 2
    files = {p.name for p in root.iterdir() if p.suffix != ".png"}
    assert files == {"instances.json", "instances.json.index"}


def test_pickles_hold_no_cached_arrays(tmp_path: Path) -> None:
    stills = CocoStills(*write_coco(tmp_path / "coco", 200))
    pickled = pickle.dumps(stills)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert len(again) == 200
    assert np.array_equal(again.read(150)[1], stills.mask(150))


# --- the parser ---

FLOATS = st.floats(allow_nan=False, allow_subnormal=False)
scalars = st.none() | st.booleans() | st.integers() | FLOATS | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), anything), st.sampled_from([None, 1]))
def test_members_equal_those_of_the_standard_parser(content: dict, indent: int | None) -> None:
    expected = [
        (name, member) for name, value in content.items() if isinstance(value, list) for member in value
    ]
    assert list(iterate_list_members(json.dumps(content, indent=indent))) == expected


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a"', '{"a": [1', '{"a": [1 2]}', '{"a": [1,]}', "null"])
def test_a_text_that_is_not_an_object_is_refused(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        list(iterate_list_members(text))
