"""Event handlers of the page."""

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
from stm.demo.page_layout import ATTENTION_HINT, NO_POLICY, USAGE_HINT, PageComponents, mask_title
from stm.demo.session import NOT_STARTED, Session
from stm.demo.session_pool import SessionPool

UPDATE_SECONDS = 0.3
"""Interval between two updates of the page during a run."""
Updates = dict[Any, Any]
"""Component -> its new value or properties."""


class EventHandlers:
    """Handlers that connect the components of the page with the sessions.

    Args:
        pool: Sessions of all visitors.
        components: Components of the page.
    """

    def __init__(self, pool: SessionPool, components: PageComponents) -> None:
        self.pool, self.components = pool, components

    def connect(self, page: gr.Blocks) -> None:
        """Register the handlers; must be called inside of `gr.Blocks`."""
        c = self.components
        mask_parts = [c.mask_title, c.editor, c.first_frame, c.run]
        attention_parts = [c.query, c.label, c.attention, c.usage]
        all_parts = [*mask_parts, c.video, c.progress, c.time, *c.frames, c.correct, c.masks, c.overlay]
        all_parts += [c.summary, *attention_parts]
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        page.load(self.load_page, None, all_parts, **quiet)
        page.unload(self.unload_page)
        c.next_video.click(self.next_video, None, all_parts, **quiet)
        c.files.upload(self.upload, c.files, all_parts)
        c.mask.upload(self.load_mask, c.mask, mask_parts)
        c.clear.click(self.clear_mask, None, mask_parts, **quiet)
        c.first_frame.click(self.edit_first_frame, None, mask_parts, **quiet)
        c.correct.click(self.edit_frame, c.time, mask_parts, **quiet)
        running = c.run.click(self.run, [c.editor, *c.policies], all_parts, concurrency_limit=4, **quiet)
        running.then(self.write_downloads, None, [c.masks, c.overlay], **quiet)
        c.stop.click(self.stop, None, None, **quiet)
        c.time.input(self.show_frame, c.time, [*c.frames], trigger_mode="always_last", **quiet)
        for frame, click in zip(c.frames, (self.click_first, self.click_second), strict=True):
            frame.select(click, [c.time, c.label], attention_parts, trigger_mode="always_last", **quiet)
        c.label.input(self.choose_object, [c.query, c.label], attention_parts, **quiet)

    @show_errors
    def load_page(self, request: gr.Request) -> Updates:
        """Show the session's video."""
        return self._show_video(self._session(request))

    def unload_page(self, request: gr.Request) -> None:
        """End the session when the page is left."""
        self.pool.end(request.session_hash or "")

    @show_errors
    def next_video(self, request: gr.Request) -> Updates:
        """Load the next example."""
        session = self._session(request)
        session.load_next_example()
        return self._show_video(session)

    @show_errors
    def upload(self, files: list[str] | None, request: gr.Request) -> Updates:
        """Load an uploaded video or images."""
        session = self._session(request)
        session.load_upload([Path(file) for file in files or []])
        return self._show_video(session)

    @show_errors
    def load_mask(self, file: str, request: gr.Request) -> Updates:
        """Load an uploaded mask of the edited frame."""
        session = self._session(request)
        session.load_mask(Path(file))
        return self._show_mask(session)

    @show_errors
    def clear_mask(self, request: gr.Request) -> Updates:
        """Clear the mask of the edited frame."""
        session = self._session(request)
        session.clear_mask()
        return self._show_mask(session)

    @show_errors
    def edit_first_frame(self, request: gr.Request) -> Updates:
        """Edit the mask of the first frame again."""
        return self._edit(self._session(request), 0)

    @show_errors
    def edit_frame(self, time: float, request: gr.Request) -> Updates:
        """Edit the mask of the displayed frame."""
        return self._edit(self._session(request), int(time))

    @show_errors
    def run(
        self, edited: dict[str, Any] | None, first: str, second: str, request: gr.Request
    ) -> Iterator[Updates]:
        """Segment the video, or continue from the corrected frame, and update the page while running."""
        c, session = self.components, self._session(request)
        session.draw(panels.read_strokes((edited or {}).get("layers", []), session.video.size))
        steps = session.start([name for name in (first, second) if name != NO_POLICY])
        disabled = {part: gr.update(interactive=False) for part in (c.masks, c.overlay)}
        yield {**self._show_mask(session), **disabled, c.query: None, c.attention: ATTENTION_HINT}
        last = 0.0
        for _ in steps:
            if monotonic() - last > UPDATE_SECONDS:
                yield self._show_progress(session, False)
                last = monotonic()
        if not _has_results(session):  # stopped at once, or another video was loaded
            yield {c.progress: panels.progress_bar(session.runs, True) if session.runs else ""}
            return
        labels = sorted({label for run in session.runs.values() for label in run.records[-1].scores})
        choices = [(str(label), label) for label in labels]
        yield {
            **self._show_progress(session, True),
            c.correct: gr.update(interactive=True),
            c.summary: panels.summary_table(session.runs, session.video.true_masks),
            c.label: gr.update(choices=choices, value=labels[0], visible=len(labels) > 1),
            c.usage: panels.usage_figure(session.runs, labels[0]),
        }

    @show_errors
    def stop(self, request: gr.Request) -> None:
        """Stop the runs."""
        self._session(request).stop()

    @show_errors
    def write_downloads(self, request: gr.Request) -> Updates:
        """Write the files to download."""
        session = self._session(request)
        if not _has_results(session):
            return {}
        masks, overlay = str(session.write_masks()), str(session.write_overlay())
        return {
            self.components.masks: gr.update(value=masks, interactive=True),
            self.components.overlay: gr.update(value=overlay, interactive=True),
        }

    @show_errors
    def show_frame(self, time: float, request: gr.Request) -> Updates:
        """Show a frame with the masks of all runs."""
        return self._show_results(self._session(request), int(time))

    @show_errors
    def click_first(
        self, time: float, label: int | None, event: gr.SelectData, request: gr.Request
    ) -> Updates:
        """Show the attention of a pixel in the first run."""
        return self._click(0, time, label, event, request)

    @show_errors
    def click_second(
        self, time: float, label: int | None, event: gr.SelectData, request: gr.Request
    ) -> Updates:
        """Show the attention of a pixel in the second run."""
        return self._click(1, time, label, event, request)

    @show_errors
    def choose_object(self, query: list[int] | None, label: int, request: gr.Request) -> Updates:
        """Show the attention of the same pixel for another object."""
        session = self._session(request)
        session.get_run(0)  # raises before the first run
        updates: Updates = {self.components.usage: panels.usage_figure(session.runs, label)}
        if query is not None:
            index, t, row, column = query
            updates |= self._show_attention(session, index, t, (row, column), label)
        return updates

    def _click(
        self, index: int, time: float, label: int | None, event: gr.SelectData, request: gr.Request
    ) -> Updates:
        session = self._session(request)
        run, t = session.get_run(index), session.last_done(int(time))
        scale, (height, width) = panels.display_scale(session.video.size), session.video.size
        column = min(max(int(event.index[0] / scale), 0), width - 1)
        row = min(max(int(event.index[1] / scale), 0), height - 1)
        chosen = int(run.masks[t, row, column]) or label or min(run.records[t].scores)
        updates = self._show_attention(session, index, t, (row, column), chosen)
        if chosen != label:
            updates[self.components.usage] = panels.usage_figure(session.runs, chosen)
        return updates

    def _show_attention(
        self, session: Session, index: int, t: int, pixel: tuple[int, int], label: int
    ) -> Updates:
        run = session.get_run(index)
        if label not in run.records[t].shares:
            raise ValueError(
                f"object {label} was given in frame {t}, so its memory was not read; choose a later frame"
            )
        with session.lock:
            attention = run.attention(t, label, pixel)
        return {
            self.components.query: [index, t, *pixel],
            self.components.label: gr.update(value=label),
            self.components.attention: panels.attention_cards(run, t, pixel, label, attention),
        }

    def _session(self, request: gr.Request) -> Session:
        if not request.session_hash:
            raise ValueError("the request must name its session")
        return self.pool.get(request.session_hash)

    def _edit(self, session: Session, t: int) -> Updates:
        session.edit_frame(t)
        return self._show_mask(session)

    def _show_video(self, session: Session) -> Updates:
        """Return the updates of the whole page for a video that was just loaded."""
        c, video = self.components, session.video
        (height, width), num_frames = video.size, len(video.frames)
        text = f"<strong>{html.escape(video.title)}</strong> · {num_frames} frames · {width}x{height}"
        if video.num_dropped:
            text += f" · {video.num_dropped} further frames were dropped"
        return {
            **self._show_mask(session),
            c.video: f"<p>{text}</p>",
            c.progress: "",
            c.time: gr.update(value=0, interactive=False, maximum=max(1, num_frames - 1)),
            c.frames[0]: self._frame_update(session, 0, session.edited_mask, "Frame 0"),
            c.frames[1]: gr.update(value=None, visible=False),
            **{part: gr.update(interactive=False) for part in (c.correct, c.masks, c.overlay)},
            c.summary: "",
            c.label: gr.update(choices=[], visible=False),
            c.query: None,
            c.attention: ATTENTION_HINT,
            c.usage: USAGE_HINT,
        }

    def _show_mask(self, session: Session) -> Updates:
        """Return the updates of step 2."""
        c, t = self.components, session.edited_frame
        return {
            c.mask_title: mask_title(t),
            c.editor: self._frame_file(session, t, session.edited_mask),
            c.first_frame: gr.update(visible=t > 0),
            c.run: gr.update(value=f"Continue from frame {t}" if t else "Run"),
        }

    def _show_progress(self, session: Session, has_ended: bool) -> Updates:
        """Return the updates for the last segmented frame."""
        t = session.last_done(len(session.video.frames))
        return {
            **self._show_results(session, t),
            self.components.progress: panels.progress_bar(session.runs, has_ended),
            self.components.time: gr.update(value=t, interactive=True),
        }

    def _show_results(self, session: Session, t: int) -> Updates:
        t, runs = session.last_done(t), list(session.runs.items())
        if not runs:
            raise ValueError(NOT_STARTED)
        updates: Updates = dict.fromkeys(self.components.frames, gr.update(value=None, visible=False))
        for component, (name, run) in zip(self.components.frames, runs, strict=False):
            updates[component] = self._frame_update(session, t, run.masks[t], f"Frame {t} · {name}")
        return updates

    def _frame_update(self, session: Session, t: int, mask: np.ndarray, label: str) -> Any:
        return gr.update(value=self._frame_file(session, t, mask), label=label, visible=True)

    def _frame_file(self, session: Session, t: int, mask: np.ndarray) -> str:
        """Write a frame with a mask to the folder that Gradio serves."""
        return panels.write_frame(session.video.frames[t], mask, self.pool.served_folder)


def _has_results(session: Session) -> bool:
    """Return whether every run has segmented its first frame."""
    return bool(session.runs) and all(run.num_done for run in session.runs.values())
