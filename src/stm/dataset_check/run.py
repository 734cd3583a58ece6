"""The examination: every file of a data set is opened once, several at a time, and judged."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from stm.config.environment import cpus
from stm.data.file_inspection import FileInfo, inspect_frame, inspect_mask
from stm.dataset_check.dataset_files import DatasetFiles, StillFiles, Unit
from stm.dataset_check.issues import SEVERITIES, Issue
from stm.dataset_check.rules import Look, apply_rules

_AHEAD = 64
"""Files in work for each worker, so that none waits at a video's end."""


@dataclass
class DatasetReport:
    """What was found in a data set.

    Attributes:
        tree: where it was looked for.
        findings: worst first, then by path.
        looks: of each video or still with a finding, what its files hold, where `keep` asked for it.
    """

    tree: DatasetFiles
    findings: list[Issue] = field(default_factory=list)
    looks: list[tuple[Unit, Look]] = field(default_factory=list)

    @property
    def files(self) -> int:
        """How many files were opened."""
        return sum(len(files(unit)) for unit in self.tree.units)

    @property
    def has_errors(self) -> bool:
        """Is something so wrong that it cannot be used as it is?"""
        return any(finding.severity == "error" for finding in self.findings)


def files(unit: Unit) -> Sequence[tuple[Path, Callable[[Path], FileInfo]]]:
    """The files of a video or still, each with the function that looks at it."""
    if isinstance(unit, StillFiles):
        return [(unit.frame, inspect_frame), (unit.mask, inspect_mask)]
    frames, masks = unit.frames.values(), unit.masks.values()
    return [(path, inspect_frame) for path in frames] + [(path, inspect_mask) for path in masks]


def check_dataset(
    tree: DatasetFiles,
    workers: int | None = None,
    advance: Callable[[int], object] = lambda done: None,
    keep: bool = False,
) -> DatasetReport:
    """Open every file of a data set and judge what it holds.

    Args:
        tree: the data set.
        workers: threads; decoding lets them run side by side. As many as there are cores if None.
        advance: called with the number of files done since it was called last.
        keep: also return what the files of each video with a finding hold.
    """
    result = DatasetReport(tree, list(tree.findings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's about large pictures and odd tags: ours say it with a path
        for unit, look in _looks(tree.units, workers or cpus()):
            found = apply_rules(unit, look, tree.relative)
            result.findings += found
            if found and keep:
                result.looks.append((unit, look))
            advance(len(look))
    result.findings.sort(key=lambda one: (SEVERITIES.index(one.severity), one.code, one.path))
    return result


def _looks(units: Sequence[Unit], workers: int) -> Iterator[tuple[Unit, Look]]:
    """Each unit with what its files hold, in order."""
    waiting: deque[tuple[Unit, dict[Path, Future[FileInfo]]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for unit in units:
            waiting.append((unit, {path: pool.submit(look, path) for path, look in files(unit)}))
            while sum(len(futures) for _, futures in waiting) > _AHEAD * workers:
                yield _done(*waiting.popleft())
        while waiting:
            yield _done(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption ends after the files in work


def _done(unit: Unit, futures: dict[Path, Future[FileInfo]]) -> tuple[Unit, Look]:
    return unit, {path: future.result() for path, future in futures.items()}
