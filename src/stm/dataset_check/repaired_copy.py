"""Repaired copy of a data set: every file of the original folder, with some masks rewritten."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from stm.dataset_check.repair import Repair


def check_target(root: Path, target: Path) -> None:
    """Validate the folder of a repaired copy.

    Raises:
        ValueError: The folder is not empty, or lies inside the data set.
    """
    if target.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{target}: the repaired copy must be outside of the data set {root}")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(
            f"{target}: the repaired copy must be a new or empty folder; this path already holds something"
        )


def write_repaired_copy(
    root: Path, target: Path, repairs: Sequence[Repair], advance: Callable[[int], object] = lambda count: None
) -> tuple[int, list[str]]:
    """Write a copy of the data set with repaired masks, atomically.

    Unchanged files become hard links to the original ones, or copies on another disk.

    Args:
        root: Data set.
        target: Folder to create; see `check_target`.
        repairs: Repairs of masks below the root.
        advance: Called with the number of files that were finished since the last call.

    Returns:
        The number of unchanged files, and the paths that were skipped: broken and circular links, unreadable
        folders, and entries that are not files.
    """
    check_target(root, target)
    files, skipped = _list_files(root)
    repair_of = {repair.source.relative_to(root): repair for repair in repairs}
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        for path in files:
            copy = part / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path in repair_of:
                repair_of[path].write(copy)
            else:
                _link(root / path, copy)
            advance(1)
        if target.exists():
            target.rmdir()  # it is empty, see check_target
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return len(files) - len(repair_of), skipped


def _link(source: Path, copy: Path) -> None:
    source = source.resolve()  # a hard link must point to the file itself, not to a symbolic link
    try:
        copy.hardlink_to(source)
    except OSError:
        shutil.copy2(source, copy)


def _list_files(root: Path) -> tuple[list[Path], list[str]]:
    """Return the files below the root, following links to folders, and the skipped paths, both relative."""
    files: list[Path] = []
    skipped: list[str] = []
    pending = [(root, frozenset([root.resolve()]))]
    while pending:
        folder, ancestors = pending.pop()
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            skipped.append(folder.relative_to(root).as_posix())
            continue
        for path in entries:
            is_circular = path.is_dir() and path.is_symlink() and path.resolve() in ancestors
            if path.is_dir() and not is_circular:
                pending.append((path, ancestors | {path.resolve()}))
            elif path.is_file():
                files.append(path.relative_to(root))
            else:
                skipped.append(path.relative_to(root).as_posix())
    return files, skipped
