"""Atomic file writes: write to a temporary file in the same folder, then rename it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends, or is removed if the block raises.

    The temporary name is hidden and random, so several threads, processes or nodes may write the same path at
    once. Missing parent folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to a file atomically; after a power failure it has the content, too."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def has_content(path: Path) -> bool:
    """Return whether a file exists and is not empty, as a crash of the machine may leave it."""
    return path.is_file() and path.stat().st_size > 0
