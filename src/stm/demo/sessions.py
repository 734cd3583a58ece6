"""Who the visitors are."""

from __future__ import annotations

import shutil
import tempfile
from itertools import count
from pathlib import Path
from threading import RLock
from time import monotonic

from stm.demo.session import Session
from stm.demo.uploads import Limits
from stm.network import STM

IDLE = 600
"""Seconds after which a visitor who does nothing makes room for another."""


class Sessions:
    """The visitors, by the name that the page gives them.

    Args:
        network: in eval mode.
        folder: for their files; `close` removes it. A new temporary one by default.
        limits: of each.
    """

    def __init__(self, network: STM, folder: Path | None = None, limits: Limits | None = None) -> None:
        self.network, self.limits = network, limits or Limits()
        self.folder = folder or Path(tempfile.mkdtemp(prefix="stm-explore-"))
        self.shown = self.folder / "shown"
        """Where Gradio keeps what it serves."""
        self._lock = RLock()
        self._of: dict[str, Session] = {}
        self._numbers = count()

    def of(self, name: str) -> Session:
        """A visitor's session; a new one begins with a procedural video.

        Raises:
            ValueError: there are too many visitors, and none who left.
        """
        with self._lock:
            if name not in self._of:
                self._make_room()
                folder = self.folder / f"session-{next(self._numbers)}"  # a visitor's name is never a path
                folder.mkdir(parents=True)
                self._of[name] = Session(self.network, folder, self.limits)
            session = self._of[name]
            session.last_used = monotonic()
            return session

    def end(self, name: str) -> None:
        """A visitor left: the session's files go."""
        with self._lock:
            session = self._of.pop(name, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """All end."""
        for name in list(self._of):
            self.end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_room(self) -> None:
        if len(self._of) < self.limits.sessions:
            return
        oldest = min(self._of, key=lambda name: self._of[name].last_used)
        if monotonic() - self._of[oldest].last_used < IDLE:
            raise ValueError(f"{len(self._of)} visitors are here, no more fit: come back later")
        self.end(oldest)
