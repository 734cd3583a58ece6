"""What was read from a large file once, kept as flat arrays that processes map instead of reading it."""

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
"""Goes up when the arrays that are kept change; older indexes are then made anew."""


def cached_arrays(source: str | Path, build: Callable[[], Arrays]) -> tuple[Arrays, bool]:
    """The arrays that `build` makes of a file, from its index where there is one; else it is made now.

    The index lies beside the file as `<file>.index`, or in the user's cache where that folder cannot be
    written. It holds for the file's size and time. Processes that need it at once wait for the first to make
    it, each finds a whole one or none, and all map the same memory.

    Returns:
        The arrays, read-only; and whether they are mapped from an index, False where none could be written.
    """
    source = Path(source)
    state = source.stat()
    key = [VERSION, state.st_size, state.st_mtime_ns]
    places = (source.with_name(f"{source.name}.index"), _cache() / _unique_name(source))
    if (found := _first_valid(places, key)) is not None:
        return found, True
    for place in places:
        try:
            with _alone(place):
                if (found := _mapped(place, key)) is not None:
                    return found, True  # another process has made it meanwhile
                arrays = build()
                log.info("%s: read; its index is %s", source, place)
                _write(place, key, arrays)
        except OSError as error:
            log.debug("%s cannot be written: %s", place, error)
            continue
        found = _mapped(place, key)
        assert found is not None, place
        return found, True
    log.warning("%s: no index can be written, beside it or in %s", source, places[1].parent)
    return build(), False


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stm"


def _unique_name(source: Path) -> str:
    return f"{hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]}_{source.name}.index"


def _first_valid(places: tuple[Path, ...], key: list[int]) -> Arrays | None:
    return next((found for place in places if (found := _mapped(place, key)) is not None), None)


def _mapped(place: Path, key: list[int]) -> Arrays | None:
    """The arrays of an index, mapped; None where there is none of that key, or not a whole one."""
    try:
        with place.open("rb") as file:
            head = json.loads(file.readline())
            begin = _aligned(file.tell())
        size = begin + head["bytes"]
        if head["key"] != key or place.stat().st_size != size:
            return None
        mapped = np.memmap(place, dtype=np.uint8, mode="r", shape=(size,)).view(np.ndarray)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    arrays = {}
    for name, (kind, shape, offset) in head["arrays"].items():
        dtype = np.dtype(kind)
        end = begin + offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        arrays[name] = mapped[begin + offset : end].view(dtype).reshape(shape)
    return arrays


def _write(place: Path, key: list[int], arrays: Arrays) -> None:
    """A line of JSON that tells what lies where, then the arrays; written beside, then renamed."""
    told: dict[str, Any] = {"key": key, "arrays": {}, "bytes": 0}
    for name, array in arrays.items():
        told["arrays"][name] = (array.dtype.str, array.shape, told["bytes"])
        told["bytes"] += _aligned(array.nbytes)
    head = json.dumps(told).encode() + b"\n"
    with atomic_path(place) as beside, beside.open("wb") as file:
        file.write(head.ljust(_aligned(len(head)), b"\0"))
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
            file.write(bytes(_aligned(array.nbytes) - array.nbytes))


def _aligned(count: int) -> int:
    return -(-count // 64) * 64


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process at a time makes an index, where the file system can lock; the lock ends with its process.

    Raises:
        OSError: the index cannot be written there.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = place.with_name(f"{place.name}.lock")
    with lock.open("wb") as file:
        with suppress(ImportError, OSError):  # Windows has no fcntl, some network file systems no locks
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def members(text: str) -> Iterator[tuple[str, Any]]:
    """The members of the lists in a JSON object, under the lists' names, one at a time.

    Python's parser would hold all of them: 3.6 GB for COCO's training part, whose text is 0.5 GB.

    Raises:
        json.JSONDecodeError: the text is no JSON object.
    """
    decoder, space = json.JSONDecoder(), re.compile(r"[ \t\n\r]*")

    def passed(at: int, one_of: str) -> tuple[str, int]:
        """The next character, which must be one of these, and the place of what follows."""
        at = space.match(text, at).end()  # type: ignore[union-attr]
        if at >= len(text) or text[at] not in one_of:
            raise json.JSONDecodeError(f"Expecting one of {one_of}", text, at)
        return text[at], space.match(text, at + 1).end()  # type: ignore[union-attr]

    _, at = passed(0, "{")
    more = text[at : at + 1] != "}"
    while more:
        name, at = decoder.raw_decode(text, at)
        _, at = passed(at, ":")
        if text[at : at + 1] != "[":
            _, at = decoder.raw_decode(text, at)
        else:
            _, at = passed(at, "[")
            inside = text[at : at + 1] != "]"
            if not inside:
                _, at = passed(at, "]")
            while inside:
                member, at = decoder.raw_decode(text, at)
                yield name, member
                mark, at = passed(at, ",]")
                inside = mark == ","
        mark, at = passed(at, ",}")
        more = mark == ","
