"""Where everything stands on the page: what to do in three steps, and beside it what came of it in three."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from stm.demo import panels
from stm.demo.session import PAPER, POLICIES
from stm.demo.uploads import Limits

NONE = "No second one"


@dataclass(frozen=True)
class Parts:
    """What on the page changes or is used."""

    video: gr.HTML
    another: gr.Button
    files: gr.UploadButton
    frame_title: gr.HTML
    editor: gr.ImageEditor
    mask: gr.UploadButton
    clear: gr.Button
    back: gr.Button
    first_policy: gr.Dropdown
    second_policy: gr.Dropdown
    run: gr.Button
    stop: gr.Button
    progress: gr.HTML
    time: gr.Slider
    pictures: tuple[gr.Image, gr.Image]
    correct: gr.Button
    masks: gr.DownloadButton
    film: gr.DownloadButton
    table: gr.HTML
    label: gr.Radio
    asked: gr.State
    cards: gr.HTML
    usage: gr.HTML


def head(notice: str) -> None:
    """The page's title; what its network is."""
    gr.HTML(
        "<h1>A look into space-time memory</h1><p>Mark objects in one frame and watch a network follow them. "
        "Then ask any pixel where in the past it looks.</p>"
        + (f'<p class="notice">{_told(notice)}</p>' if notice else ""),
        elem_id="head",
    )


def _told(notice: str) -> str:
    """A sentence, its `code` as code."""
    parts = html.escape(notice[:1].upper() + notice[1:] + ".").split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def place(limits: Limits) -> Parts:
    """Lay the page out, inside of `gr.Blocks`."""
    with gr.Row(elem_id="columns"):
        with gr.Column(scale=6, min_width=320):
            steps = {**_video(limits), **_objects(), **_memory()}
        with gr.Column(scale=8, min_width=320):
            result = _result()
    return Parts(**steps, **result)


def step(number: int, title: str, text: str = "") -> str:
    """A step's title."""
    return f'<h2><span class="number">{number}</span>{title}</h2>' + (f"<p>{text}</p>" if text else "")


def frame_title(t: int) -> str:
    """Step 2's title: which frame is painted."""
    if t == 0:
        return step(2, "Objects", "Paint each in its own color. White takes away.")
    return step(2, f"Correct frame {t}", "Paint what is missing; white takes away.")


def _video(limits: Limits) -> dict[str, Any]:
    with gr.Column(elem_classes="step"):
        gr.HTML(step(1, "Video"))
        video = gr.HTML(elem_id="video")
        with gr.Row():
            another = gr.Button("Another procedural one", size="sm", min_width=120, elem_id="another")
            files = gr.UploadButton(
                "Your film or pictures",
                file_count="multiple",
                file_types=["video", ".jpg", ".jpeg", ".png"],
                size="sm",
                min_width=120,
                elem_id="files",
            )
        gr.HTML(
            f'<p class="quiet">mp4, mov, webm, avi, JPEG, PNG; at most {limits.upload_mb} MB, '
            f"the first {limits.frames} frames; shrunk to {limits.size} pixels.</p>"
        )
    return {"video": video, "another": another, "files": files}


def _objects() -> dict[str, Any]:
    with gr.Column(elem_classes="step"):
        title = gr.HTML(frame_title(0))
        editor = gr.ImageEditor(
            sources=[],
            transforms=[],
            layers=False,
            brush=gr.Brush(default_size=18, colors=list(panels.brushes()), color_mode="fixed"),
            eraser=gr.Eraser(default_size=18),
            show_label=False,
            buttons=[],
            height=300,
            elem_id="editor",
        )
        gr.HTML(panels.legend())
        with gr.Row():
            mask = gr.UploadButton(
                "Load a mask (PNG)", file_types=[".png"], size="sm", min_width=100, elem_id="mask"
            )
            clear = gr.Button("Empty mask", size="sm", min_width=100, elem_id="clear")
            back = gr.Button("Back to frame 0", size="sm", min_width=100, visible=False, elem_id="back")
    return {"frame_title": title, "editor": editor, "mask": mask, "clear": clear, "back": back}


def _memory() -> dict[str, Any]:
    with gr.Column(elem_classes="step"):
        gr.HTML(step(3, "Memory", "Which past frames are remembered?"))
        with gr.Row():
            first = gr.Dropdown(list(POLICIES), value=PAPER, label="Policy", min_width=180, elem_id="first")
            second = gr.Dropdown(
                [NONE, *POLICIES], value=NONE, label="Beside it", min_width=180, elem_id="second"
            )
        with gr.Row():
            run = gr.Button("Run", variant="primary", elem_id="run", scale=3)
            stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
        progress = gr.HTML(elem_id="progress")
    return {"first_policy": first, "second_policy": second, "run": run, "stop": stop, "progress": progress}


def _result() -> dict[str, Any]:
    with gr.Column(elem_classes="step"):
        gr.HTML(step(4, "Result", "Drag through the frames; click a pixel to see where it looks."))
        time = gr.Slider(0, 1, value=0, step=1, label="Frame", interactive=False, buttons=[], elem_id="time")
        with gr.Row():
            pictures = (_picture("first-picture", True), _picture("second-picture", False))
        with gr.Row():
            correct = gr.Button("Correct this frame", size="sm", interactive=False, elem_id="correct")
            masks = gr.DownloadButton("Masks (zip)", size="sm", interactive=False, elem_id="masks")
            film = gr.DownloadButton("Film (mp4)", size="sm", interactive=False, elem_id="film")
        table = gr.HTML(elem_id="table")
    with gr.Column(elem_classes="step"):
        gr.HTML(step(5, "Where it looks"))
        label = gr.Radio([], label="Object", elem_id="label", visible=False)
        asked = gr.State(None)
        cards = gr.HTML(WAITING, elem_id="cards")
    with gr.Column(elem_classes="step"):
        gr.HTML(step(6, "How much each memory frame is used"))
        usage = gr.HTML('<p class="quiet">Shown when a run is done.</p>', elem_id="usage")
    return {
        "time": time,
        "pictures": pictures,
        "correct": correct,
        "masks": masks,
        "film": film,
        "table": table,
        "label": label,
        "asked": asked,
        "cards": cards,
        "usage": usage,
    }


WAITING = '<p class="quiet">Run, then click a pixel of a frame above.</p>'


def _picture(name: str, visible: bool) -> gr.Image:
    return gr.Image(
        interactive=False,
        visible=visible,
        show_label=True,
        label="Frame",
        format="jpeg",
        buttons=[],
        min_width=240,
        elem_id=name,
        alt_text="A frame with its masks",
    )
