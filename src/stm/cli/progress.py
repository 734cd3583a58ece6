"""A progress bar with frames a second, on stderr where that is a terminal."""

from __future__ import annotations

from time import perf_counter
from types import TracebackType

import rich.progress as rich_progress
from rich.console import Console


class Progress:
    """Shows how far a video is.

    Args:
        what: is being done.
        frames: how many there are.
        done: how many of them were done before.
    """

    def __init__(self, what: str, frames: int, done: int = 0) -> None:
        console = Console(stderr=True)
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[told]}", markup=False),
            rich_progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=frames, completed=done, told="")
        self._began, self._done = perf_counter(), 0

    def __enter__(self) -> Progress:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def advance(self, told: str) -> None:
        """A frame is done; what to tell beside."""
        self._done += 1
        rate = self._done / max(perf_counter() - self._began, 1e-9)
        self._bar.update(self._task, advance=1, told=f"{rate:.1f} frames/s {told}")
