"""Pool of the sessions of all visitors."""

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

MAX_IDLE_SECONDS = 600
"""Idle time after which a session may be closed to make room for a new one."""


class SessionPool:
    """The sessions of all visitors, by session name.

    Args:
        network: Network in eval mode.
        folder: Folder for the files of the sessions, removed by `close`; a new temporary one by default.
        limits: Limits of each session.
    """

    def __init__(self, network: STM, folder: Path | None = None, limits: Limits | None = None) -> None:
        self.network, self.limits = network, limits or Limits()
        self.folder = folder or Path(tempfile.mkdtemp(prefix="stm-explore-"))
        self.served_folder = self.folder / "served"
        """Folder of the files that Gradio serves."""
        self._lock = RLock()
        self._sessions: dict[str, Session] = {}
        self._numbers = count()

    def get(self, name: str) -> Session:
        """Return the session with a name; a new one starts with an example.

        Raises:
            ValueError: The pool is full and no session is idle.
        """
        with self._lock:
            if name not in self._sessions:
                self._make_room()
                # The name comes from the browser, so it is never used as a path.
                folder = self.folder / f"session-{next(self._numbers)}"
                folder.mkdir(parents=True)
                self._sessions[name] = Session(self.network, folder, self.limits)
            session = self._sessions[name]
            session.last_used = monotonic()
            return session

    def end(self, name: str) -> None:
        """Close a session and remove its files."""
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """Close all sessions and remove the folder."""
        for name in list(self._sessions):
            self.end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_room(self) -> None:
        if len(self._sessions) < self.limits.max_sessions:
            return
        oldest = min(self._sessions, key=lambda name: self._sessions[name].last_used)
        if monotonic() - self._sessions[oldest].last_used < MAX_IDLE_SECONDS:
            raise ValueError(f"all {len(self._sessions)} sessions are in use: try again later")
        self.end(oldest)
