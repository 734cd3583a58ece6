"""A mended copy of a data set: every file of the old folder, with some masks written anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from stm.dataset_check.repair import Repair


def check_target(root: Path, new: Path) -> None:
    """Refuse a folder that holds something, or lies in the data set.

    Raises:
        ValueError: with the reason.
    """
    if new.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{new}: the mended copy must not lie in {root} itself")
    if new.exists() and not (new.is_dir() and not any(new.iterdir())):
        raise ValueError(f"{new}: the mended copy needs a new folder, this one holds something already")


def write_repaired_copy(
    root: Path, new: Path, mends: Sequence[Repair], advance: Callable[[int], object] = lambda done: None
) -> tuple[int, list[str]]:
    """Write a copy of the data set with mended masks; it appears whole or not at all.

    Files that stay as they are become hard links to the old ones, or copies on another disk.

    Args:
        root: the data set.
        new: the folder to make; see `check_target`.
        mends: the masks to write anew, below root.
        advance: called with the number of files done since it was called last.

    Returns:
        How many files stay as they are, and what was left out: links that lead nowhere or in a circle,
        folders that cannot be read, what is no file.
    """
    check_target(root, new)
    found, left_out = _files(root)
    mended = {mend.source.relative_to(root): mend for mend in mends}
    beside = new.with_name(f".{new.name}.{os.getpid()}.part")
    try:
        for path in found:
            target = beside / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if path in mended:
                mended[path].write(target)
            else:
                _link(root / path, target)
            advance(1)
        if new.exists():
            new.rmdir()  # empty: see check_target
        beside.rename(new)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return len(found) - len(mended), left_out


def _link(source: Path, target: Path) -> None:
    source = source.resolve()  # of a link, the file that it leads to
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _files(root: Path) -> tuple[list[Path], list[str]]:
    """Every file below root, through links to folders, too, and what is none; relative to root."""
    found: list[Path] = []
    left_out: list[str] = []
    todo = [(root, frozenset([root.resolve()]))]
    while todo:
        folder, above = todo.pop()
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            left_out.append(folder.relative_to(root).as_posix())
            continue
        for path in entries:
            is_circle = path.is_dir() and path.is_symlink() and path.resolve() in above
            if path.is_dir() and not is_circle:
                todo.append((path, above | {path.resolve()}))
            elif path.is_file():
                found.append(path.relative_to(root))
            else:
                left_out.append(path.relative_to(root).as_posix())
    return found, left_out
