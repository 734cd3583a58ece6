"""What happens when something on the page is used."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import gradio as gr
import numpy as np

from stm.demo import panels
from stm.demo.errors import show_errors
from stm.demo.page_layout import NONE, WAITING, Parts, frame_title
from stm.demo.session import Session
from stm.demo.sessions import Sessions

PAUSE = 0.3
"""Seconds between two pictures of a run."""
Changes = dict[Any, Any]


def _begun(session: Session) -> bool:
    """Is there a first frame of every run?"""
    return bool(session.runs) and all(run.done for run in session.runs.values())


class EventHandlers:
    """Connects the page with the visitors' sessions.

    Args:
        sessions: of all visitors.
        parts: the page.
    """

    def __init__(self, sessions: Sessions, parts: Parts) -> None:
        self.sessions, self.parts = sessions, parts

    def connect(self, page: gr.Blocks) -> None:
        """Say what happens when; inside of `gr.Blocks`."""
        p = self.parts
        steps = [p.video, p.frame_title, p.editor, p.back, p.run, p.progress, p.time, *p.pictures]
        steps += [p.correct, p.masks, p.film, p.table, p.label, p.asked, p.cards, p.usage]
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        page.load(self.begin, None, steps, **quiet)
        page.unload(self.end)
        p.another.click(self.another, None, steps, **quiet)
        p.files.upload(self.upload, p.files, steps)
        drawing = [p.frame_title, p.editor, p.back, p.run]
        p.mask.upload(self.load_mask, p.mask, drawing)
        p.clear.click(self.clear, None, drawing, **quiet)
        p.back.click(self.back, None, drawing, **quiet)
        p.correct.click(self.correct, p.time, drawing, **quiet)
        inputs = [p.editor, p.first_policy, p.second_policy]
        ran = p.run.click(self.run, inputs, steps, concurrency_limit=4, **quiet)
        ran.then(self.downloads, None, [p.masks, p.film], **quiet)
        p.stop.click(self.stop, None, None, **quiet)
        p.time.input(self.scrub, p.time, [*p.pictures], trigger_mode="always_last", **quiet)
        looking = [p.asked, p.label, p.cards, p.usage]
        for place, picture in enumerate(p.pictures):
            click = (self.click_first, self.click_second)[place]
            picture.select(click, [p.time, p.label], looking, trigger_mode="always_last", **quiet)
        p.label.input(self.choose, [p.asked, p.label], looking, **quiet)

    @show_errors
    def begin(self, request: gr.Request) -> Changes:
        return self._fresh(self._of(request))

    def end(self, request: gr.Request) -> None:
        self.sessions.end(request.session_hash or "")

    @show_errors
    def another(self, request: gr.Request) -> Changes:
        session = self._of(request)
        session.next_procedural()
        return self._fresh(session)

    @show_errors
    def upload(self, files: list[str] | None, request: gr.Request) -> Changes:
        session = self._of(request)
        session.upload([Path(file) for file in files or []])
        return self._fresh(session)

    @show_errors
    def load_mask(self, file: str, request: gr.Request) -> Changes:
        session = self._of(request)
        session.upload_mask(Path(file))
        return self._drawing(session)

    @show_errors
    def clear(self, request: gr.Request) -> Changes:
        session = self._of(request)
        session.clear()
        return self._drawing(session)

    @show_errors
    def back(self, request: gr.Request) -> Changes:
        session = self._of(request)
        session.edit(0)
        return self._drawing(session)

    @show_errors
    def correct(self, time: float, request: gr.Request) -> Changes:
        session = self._of(request)
        session.edit(int(time))
        return self._drawing(session)

    @show_errors
    def run(
        self, edited: dict[str, Any] | None, first: str, second: str, request: gr.Request
    ) -> Iterator[Changes]:
        p, session = self.parts, self._of(request)
        session.draw(panels.strokes((edited or {}).get("layers", []), session.footage.size))
        steps = session.start([name for name in (first, second) if name != NONE])
        waiting = {p.masks: gr.update(interactive=False), p.film: gr.update(interactive=False)}
        yield {**self._drawing(session), **waiting, p.asked: None, p.cards: WAITING}
        last = 0.0
        for _ in steps:
            if monotonic() - last > PAUSE:
                yield self._live(session, False)
                last = monotonic()
        if not _begun(session):  # stopped at once, or another video was taken
            yield {p.progress: panels.progress(session.runs, True) if session.runs else ""}
            return
        labels = sorted({label for run in session.runs.values() for label in run.seen[-1].scores})
        yield {
            **self._live(session, True),
            p.correct: gr.update(interactive=True),
            p.table: panels.told(session.runs, session.footage.truth),
            p.label: gr.update(
                choices=[(str(label), label) for label in labels], value=labels[0], visible=len(labels) > 1
            ),
            p.usage: panels.usage(session.runs, labels[0]),
        }

    @show_errors
    def stop(self, request: gr.Request) -> None:
        self._of(request).stop()

    @show_errors
    def downloads(self, request: gr.Request) -> Changes:
        session = self._of(request)
        if not _begun(session):
            return {}
        masks, film = str(session.write_masks()), str(session.write_film())
        return {
            self.parts.masks: gr.update(value=masks, interactive=True),
            self.parts.film: gr.update(value=film, interactive=True),
        }

    @show_errors
    def scrub(self, time: float, request: gr.Request) -> Changes:
        return self._pictures(self._of(request), int(time))

    @show_errors
    def click_first(
        self, time: float, label: int | None, event: gr.SelectData, request: gr.Request
    ) -> Changes:
        return self._click(0, time, label, event, request)

    @show_errors
    def click_second(
        self, time: float, label: int | None, event: gr.SelectData, request: gr.Request
    ) -> Changes:
        return self._click(1, time, label, event, request)

    @show_errors
    def choose(self, asked: list[int] | None, label: int, request: gr.Request) -> Changes:
        session = self._of(request)
        session.run(0)  # or nothing is there to choose from
        changes: Changes = {self.parts.usage: panels.usage(session.runs, label)}
        if asked is not None:
            place, t, row, column = asked
            changes |= self._look(session, place, t, (row, column), label)
        return changes

    def _click(
        self, place: int, time: float, label: int | None, event: gr.SelectData, request: gr.Request
    ) -> Changes:
        session = self._of(request)
        run, t = session.run(place), session.place(int(time))
        by, (height, width) = panels.scale(session.footage.size), session.footage.size
        column = min(max(int(event.index[0] / by), 0), width - 1)
        row = min(max(int(event.index[1] / by), 0), height - 1)
        there = int(run.masks[t, row, column])
        chosen = there or label or min(run.seen[t].scores)
        changes = self._look(session, place, t, (row, column), chosen)
        if chosen != label:
            changes[self.parts.usage] = panels.usage(session.runs, chosen)
        return changes

    def _look(self, session: Session, place: int, t: int, at: tuple[int, int], label: int) -> Changes:
        run = session.run(place)
        if label not in run.seen[t].shares:
            raise ValueError(
                f"object {label} was given in frame {t}: nothing was looked up. Try a later frame"
            )
        with session.lock:
            attention = run.attention(t, label, at)
        return {
            self.parts.asked: [place, t, *at],
            self.parts.label: gr.update(value=label),
            self.parts.cards: panels.cards(run, t, at, label, attention),
        }

    def _of(self, request: gr.Request) -> Session:
        if not request.session_hash:
            raise ValueError("a call without a session's name has no session")
        return self.sessions.of(request.session_hash)

    def _fresh(self, session: Session) -> Changes:
        """All of the page for a video that was just taken."""
        p, footage = self.parts, session.footage
        height, width = footage.size
        text = (
            f"<strong>{html.escape(footage.title)}</strong> · {len(footage.frames)} frames · {width}x{height}"
        )
        if footage.left_out:
            text += f" · {footage.left_out} further frames are left out"
        return {
            **self._drawing(session),
            p.video: f"<p>{text}</p>",
            p.progress: "",
            p.time: gr.update(value=0, interactive=False, maximum=max(1, len(footage.frames) - 1)),
            p.pictures[0]: self._picture(session, 0, session.drawn, "Frame 0"),
            p.pictures[1]: gr.update(value=None, visible=False),
            **{part: gr.update(interactive=False) for part in (p.correct, p.masks, p.film)},
            p.table: "",
            p.label: gr.update(choices=[], visible=False),
            p.asked: None,
            p.cards: WAITING,
            p.usage: '<p class="quiet">Shown when a run is done.</p>',
        }

    def _file(self, session: Session, t: int, mask: np.ndarray) -> str:
        """A frame with a mask, where Gradio serves files from."""
        return panels.picture_file(session.footage.frames[t], mask, self.sessions.shown)

    def _picture(self, session: Session, t: int, mask: np.ndarray, label: str) -> Any:
        return gr.update(value=self._file(session, t, mask), label=label, visible=True)

    def _drawing(self, session: Session) -> Changes:
        """The frame that is painted."""
        p, t = self.parts, session.editing
        return {
            p.frame_title: frame_title(t),
            p.editor: self._file(session, t, session.drawn),
            p.back: gr.update(visible=t > 0),
            p.run: gr.update(value=f"Go on from frame {t}" if t else "Run"),
        }

    def _live(self, session: Session, ended: bool) -> Changes:
        """A run as far as it is."""
        t = session.place(len(session.footage.frames))
        return {
            **self._pictures(session, t),
            self.parts.progress: panels.progress(session.runs, ended),
            self.parts.time: gr.update(value=t, interactive=True),
        }

    def _pictures(self, session: Session, t: int) -> Changes:
        t, runs = session.place(t), list(session.runs.items())
        if not runs:
            raise ValueError("nothing is segmented yet: press Run (a page left alone for long begins anew)")
        changes: Changes = {}
        for place, part in enumerate(self.parts.pictures):
            if place < len(runs):
                name, run = runs[place]
                changes[part] = self._picture(session, t, run.masks[t], f"Frame {t} · {name}")
            else:
                changes[part] = gr.update(value=None, visible=False)
        return changes
