"""Check of a data set: every file is opened once, several in parallel, and the rules are applied."""

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
from stm.dataset_check.rules import FileInfos, apply_rules

_QUEUED_FILES = 64
"""Queued files per worker, so that no worker idles at the end of a video."""


@dataclass
class DatasetReport:
    """The issues of a data set.

    Attributes:
        dataset: Data set.
        issues: Issues, the most severe first, then by code and path.
        infos: Each video or still with an issue and the contents of its files, if `keep_infos` was set.
    """

    dataset: DatasetFiles
    issues: list[Issue] = field(default_factory=list)
    infos: list[tuple[Unit, FileInfos]] = field(default_factory=list)

    @property
    def num_files(self) -> int:
        """Number of files that were opened."""
        return sum(len(list_inspections(unit)) for unit in self.dataset.units)

    @property
    def has_errors(self) -> bool:
        """Whether some of the data cannot be used as it is."""
        return any(issue.severity == "error" for issue in self.issues)

    def count(self, severity: str) -> int:
        """Return the number of issues of a severity."""
        return sum(issue.severity == severity for issue in self.issues)


def list_inspections(unit: Unit) -> Sequence[tuple[Path, Callable[[Path], FileInfo]]]:
    """Return the files of a video or still, each with the function that inspects it."""
    if isinstance(unit, StillFiles):
        return [(unit.frame, inspect_frame), (unit.mask, inspect_mask)]
    frames, masks = unit.frames.values(), unit.masks.values()
    return [(path, inspect_frame) for path in frames] + [(path, inspect_mask) for path in masks]


def check_dataset(
    dataset: DatasetFiles,
    workers: int | None = None,
    advance: Callable[[int], object] = lambda count: None,
    keep_infos: bool = False,
) -> DatasetReport:
    """Open every file of a data set and apply the rules to its contents.

    Args:
        dataset: Data set.
        workers: Number of threads, which run in parallel while decoding; None for the number of cores.
        advance: Called with the number of files that were finished since the last call.
        keep_infos: Whether to also return the contents of the files of each video or still with an issue.
    """
    report = DatasetReport(dataset, list(dataset.issues))
    with warnings.catch_warnings():
        # PIL warns about large images and odd tags without their path; the issues name it.
        warnings.simplefilter("ignore")
        for unit, infos in _inspect(dataset.units, workers or cpus()):
            issues = apply_rules(unit, infos, dataset.relative)
            report.issues += issues
            if issues and keep_infos:
                report.infos.append((unit, infos))
            advance(len(infos))
    report.issues.sort(key=lambda issue: (SEVERITIES.index(issue.severity), issue.code, issue.path))
    return report


def _inspect(units: Sequence[Unit], workers: int) -> Iterator[tuple[Unit, FileInfos]]:
    """Yield each unit with the contents of its files, in order."""
    pending: deque[tuple[Unit, dict[Path, Future[FileInfo]]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for unit in units:
            pending.append((unit, {path: pool.submit(run, path) for path, run in list_inspections(unit)}))
            while sum(len(futures) for _, futures in pending) > _QUEUED_FILES * workers:
                yield _await(*pending.popleft())
        while pending:
            yield _await(*pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption waits only for the files that are open


def _await(unit: Unit, futures: dict[Path, Future[FileInfo]]) -> tuple[Unit, FileInfos]:
    return unit, {path: future.result() for path, future in futures.items()}
