"""Progress of an evaluation: a bar in a terminal, else a log line per video."""

from __future__ import annotations

import logging
from threading import Lock
from time import perf_counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stm.evaluation.scores import SequenceScores, overall, protocol_of
from stm.video import Video

log = logging.getLogger(__name__)


class VideoProgress:
    """Counts the finished videos of an evaluation.

    Args:
        name: the benchmark's.
        total: number of videos.
        is_shown: whether to show anything.
    """

    def __init__(self, name: str, total: int, is_shown: bool) -> None:
        console = Console()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._bar = Progress(*columns, console=console, disable=not (is_shown and console.is_terminal))
        self._task = self._bar.add_task(name, total=total)
        self._name, self._total, self._done = name, total, 0
        self._logs = is_shown and not console.is_terminal
        self._began, self._lock = perf_counter(), Lock()

    def __enter__(self) -> VideoProgress:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def begin(self, video: Video) -> None:
        """Show the video that is being segmented."""
        self._bar.update(self._task, description=f"{self._name}: {video.name} ({len(video)} frames)")

    def advance(self, sequence: SequenceScores) -> None:
        """Count a video as done."""
        self._bar.advance(self._task)
        if not self._logs:
            return
        with self._lock:
            self._done += 1
            left = (perf_counter() - self._began) / self._done * (self._total - self._done)
            protocol = protocol_of(next((row.protocol for row in sequence.objects), None))
            value = protocol.headline_value(overall(sequence.objects, is_part=True))
            score = "" if value is None else f"{protocol.headline_heading} {value:.3f}, "
            log.info(
                "%s: video %d/%d, %s: %s%d frames, %.0f s left",
                *(self._name, self._done, self._total, sequence.name, score, sequence.length, left),
            )
