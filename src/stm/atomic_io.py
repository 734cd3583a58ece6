"""Files that appear whole or not at all: written beside, then renamed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A place beside to write a file to. It takes its name when all is written, and is removed if that fails.

    Threads, processes and nodes that write one name at once don't meet; the place's name is hidden.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a text or bytes."""
    with atomic_path(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
