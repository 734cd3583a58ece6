"""Progress of a video: a bar in a terminal, else a line now and then, on stderr."""

from __future__ import annotations

import sys
from time import perf_counter
from types import TracebackType

import rich.progress as rich_progress
from rich.console import Console

SECONDS = 60.0
"""Time between two lines where stderr is not a terminal."""


class FrameProgress:
    """Shows how many frames of a video are done, and how fast.

    Args:
        task: what is being done, such as the video's name.
        frames: number of frames.
        done: number of frames that were done before.
    """

    def __init__(self, task: str, frames: int, done: int = 0) -> None:
        console = Console(stderr=True)
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[note]}", markup=False),
            rich_progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task_id = self._bar.add_task(task, total=frames, completed=done, note="")
        self._task, self._frames, self._before, self._done = task, frames, done, 0
        self._began = self._last_line = perf_counter()

    def __enter__(self) -> FrameProgress:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def advance(self, note: str = "") -> None:
        """Count a frame as done; `note` is shown beside the rate."""
        self._done += 1
        now = perf_counter()
        rate = self._done / max(now - self._began, 1e-9)
        self._bar.update(self._task_id, advance=1, note=f"{rate:.1f} frames/s {note}")
        if self._bar.disable and now - self._last_line >= SECONDS:
            self._last_line, done = now, self._before + self._done
            left = (self._frames - done) / rate
            line = (
                f"{self._task}: {done}/{self._frames} frames, {rate:.1f} frames/s, {left:.0f} s left {note}"
            )
            print(line.rstrip(), file=sys.stderr, flush=True)
