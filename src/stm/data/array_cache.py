"""Arrays parsed from a large file, cached in a file that processes map into memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from stm.atomic_io import atomic_path

log = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]
VERSION = 1
"""Increase this when the cached arrays change, so that older index files are rebuilt."""


def cached_arrays(source: str | Path, build: Callable[[], Arrays]) -> tuple[Arrays, bool]:
    """Return the arrays that `build` computes from a file, from an index file if a valid one exists.

    Otherwise the index file is written, as `<file>.index` beside the file, or in the user's cache folder if
    that fails. It is valid for the size and the modification time of the file. Processes that need it at the
    same time wait for the first one to write it, and all of them map the same memory.

    Args:
        source: the large file.
        build: computes the arrays from the file.

    Returns:
        The arrays, read-only, and whether they are mapped from an index file (False if none can be written).
    """
    source = Path(source)
    state = source.stat()
    key = [VERSION, state.st_size, state.st_mtime_ns]
    paths = (source.with_name(f"{source.name}.index"), _cache_folder() / _unique_name(source))
    for path in paths:
        if (arrays := _read_index(path, key)) is not None:
            return arrays, True
    for path in paths:
        try:
            with _exclusive_lock(path):
                if (arrays := _read_index(path, key)) is not None:
                    return arrays, True  # another process has written it in the meantime
                arrays = build()
                log.info("%s: parsed; the index file is %s", source, path)
                _write_index(path, key, arrays)
        except OSError as error:
            log.debug("%s: cannot be written: %s", path, error)
            continue
        written = _read_index(path, key)
        assert written is not None, path
        return written, True
    log.warning("%s: no index file can be written beside it or in %s", source, paths[1].parent)
    return build(), False


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stm"


def _unique_name(source: Path) -> str:
    return f"{hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]}_{source.name}.index"


def _read_index(path: Path, key: list[int]) -> Arrays | None:
    """Map the arrays of an index file; None if there is no complete one with that key."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            begin = _aligned(file.tell())
        size = begin + header["bytes"]
        if header["key"] != key or path.stat().st_size != size:
            return None
        mapped = np.memmap(path, dtype=np.uint8, mode="r", shape=(size,)).view(np.ndarray)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    arrays = {}
    for name, (kind, shape, offset) in header["arrays"].items():
        dtype = np.dtype(kind)
        end = begin + offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        arrays[name] = mapped[begin + offset : end].view(dtype).reshape(shape)
    return arrays


def _write_index(path: Path, key: list[int], arrays: Arrays) -> None:
    """Write a line of JSON with the type, shape and offset of each array, then the arrays, atomically."""
    header: dict[str, Any] = {"key": key, "arrays": {}, "bytes": 0}
    for name, array in arrays.items():
        header["arrays"][name] = (array.dtype.str, array.shape, header["bytes"])
        header["bytes"] += _aligned(array.nbytes)
    line = json.dumps(header).encode() + b"\n"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(line.ljust(_aligned(len(line)), b"\0"))
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
            file.write(bytes(_aligned(array.nbytes) - array.nbytes))


def _aligned(count: int) -> int:
    return -(-count // 64) * 64


@contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    """Let one process at a time write a file if the file system supports locks, which end with a process.

    Raises:
        OSError: nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    with lock.open("wb") as file:
        with suppress(ImportError, OSError):  # Windows has no fcntl, some network file systems no locks
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def iterate_list_members(text: str) -> Iterator[tuple[str, Any]]:
    """Iterate over the members of all lists in a JSON object, with the list's name, one at a time.

    Python's parser would hold all members at once: 3.6 GB for the 0.5 GB of text of COCO's training set.

    Raises:
        json.JSONDecodeError: the text is not a JSON object.
    """
    decoder, space = json.JSONDecoder(), re.compile(r"[ \t\n\r]*")

    def skip_space(at: int) -> int:
        match = space.match(text, at)
        assert match is not None, "it also matches nothing"
        return match.end()

    def expect(at: int, allowed: str) -> tuple[str, int]:
        """Return the next character, which must be one of `allowed`, and the position of the next token."""
        at = skip_space(at)
        if at >= len(text) or text[at] not in allowed:
            raise json.JSONDecodeError(f"Expecting one of {allowed}", text, at)
        return text[at], skip_space(at + 1)

    _, at = expect(0, "{")
    has_more_keys = text[at : at + 1] != "}"
    while has_more_keys:
        name, at = decoder.raw_decode(text, at)
        _, at = expect(at, ":")
        if text[at : at + 1] != "[":
            _, at = decoder.raw_decode(text, at)
        else:
            _, at = expect(at, "[")
            has_more_members = text[at : at + 1] != "]"
            if not has_more_members:
                _, at = expect(at, "]")
            while has_more_members:
                member, at = decoder.raw_decode(text, at)
                yield name, member
                mark, at = expect(at, ",]")
                has_more_members = mark == ","
        mark, at = expect(at, ",}")
        has_more_keys = mark == ","
