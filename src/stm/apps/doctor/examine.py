"""The examination: every file of a data set is opened once, several at a time, and judged."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from stm.apps.doctor.facts import Facts, look_at_frame, look_at_mask
from stm.apps.doctor.findings import SEVERITIES, Finding
from stm.apps.doctor.rules import Look, judge
from stm.apps.doctor.trees import StillFiles, Tree, Unit
from stm.config import cpus

_AHEAD = 64
"""Files in work for each worker, so that none waits at a video's end."""


@dataclass
class Examination:
    """What was found in a data set.

    Attributes:
        tree: where it was looked for.
        findings: worst first, then by path.
        looks: of each video or still with a finding, what its files hold, where `keep` asked for it.
    """

    tree: Tree
    findings: list[Finding] = field(default_factory=list)
    looks: list[tuple[Unit, Look]] = field(default_factory=list)

    @property
    def files(self) -> int:
        """How many files were opened."""
        return sum(len(files(unit)) for unit in self.tree.units)

    @property
    def has_errors(self) -> bool:
        """Is something so wrong that it cannot be used as it is?"""
        return any(finding.severity == "error" for finding in self.findings)


def files(unit: Unit) -> Sequence[tuple[Path, Callable[[Path], Facts]]]:
    """The files of a video or still, each with the function that looks at it."""
    if isinstance(unit, StillFiles):
        return [(unit.frame, look_at_frame), (unit.mask, look_at_mask)]
    frames, masks = unit.frames.values(), unit.masks.values()
    return [(path, look_at_frame) for path in frames] + [(path, look_at_mask) for path in masks]


def examine(
    tree: Tree,
    workers: int | None = None,
    advance: Callable[[int], object] = lambda done: None,
    keep: bool = False,
) -> Examination:
    """Open every file of a data set and judge what it holds.

    Args:
        tree: the data set.
        workers: threads; decoding lets them run side by side. As many as there are cores if None.
        advance: called with the number of files done since it was called last.
        keep: also return what the files of each video with a finding hold.
    """
    result = Examination(tree, list(tree.findings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's about large pictures and odd tags: ours say it with a path
        for unit, look in _looks(tree.units, workers or cpus()):
            found = judge(unit, look, tree.relative)
            result.findings += found
            if found and keep:
                result.looks.append((unit, look))
            advance(len(look))
    result.findings.sort(key=lambda one: (SEVERITIES.index(one.severity), one.code, one.path))
    return result


def _looks(units: Sequence[Unit], workers: int) -> Iterator[tuple[Unit, Look]]:
    """Each unit with what its files hold, in order."""
    waiting: deque[tuple[Unit, dict[Path, Future[Facts]]]] = deque()
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


def _done(unit: Unit, futures: dict[Path, Future[Facts]]) -> tuple[Unit, Look]:
    return unit, {path: future.result() for path, future in futures.items()}
