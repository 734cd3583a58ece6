"""Layout of the page: three input steps on the left, three results on the right."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from stm.demo import panels
from stm.demo.session import PAPER, POLICIES
from stm.demo.uploads import Limits

TITLE = "Explore space-time memory"
NO_POLICY = "None"
ATTENTION_HINT = '<p class="quiet">Run, then click a pixel of a frame above.</p>'
USAGE_HINT = '<p class="quiet">Shown after a run.</p>'


@dataclass(frozen=True)
class PageComponents:
    """The components of the page that change or that the visitor uses."""

    video: gr.HTML
    next_video: gr.Button
    files: gr.UploadButton
    mask_title: gr.HTML
    editor: gr.ImageEditor
    mask: gr.UploadButton
    clear: gr.Button
    first_frame: gr.Button
    policies: tuple[gr.Dropdown, gr.Dropdown]
    run: gr.Button
    stop: gr.Button
    progress: gr.HTML
    time: gr.Slider
    frames: tuple[gr.Image, gr.Image]
    correct: gr.Button
    masks: gr.DownloadButton
    overlay: gr.DownloadButton
    summary: gr.HTML
    label: gr.Radio
    query: gr.State
    attention: gr.HTML
    usage: gr.HTML


def add_header(notice: str) -> None:
    """Add the title of the page and a notice about the network."""
    gr.HTML(
        f"<h1>{TITLE}</h1><p>Mark objects in one frame, track them through the video, and see which memory "
        "frames each pixel reads.</p>"
        + (f'<p class="notice">{_format_notice(notice)}</p>' if notice else ""),
        elem_id="header",
    )


def _format_notice(notice: str) -> str:
    """Return HTML of a sentence, with `code` as code."""
    parts = html.escape(notice[:1].upper() + notice[1:] + ".").split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def add_components(limits: Limits) -> PageComponents:
    """Add all components; must be called inside of `gr.Blocks`."""
    with gr.Row(elem_id="columns"):
        with gr.Column(scale=6, min_width=320):
            inputs = {**_add_video(limits), **_add_mask_editor(), **_add_policies()}
        with gr.Column(scale=8, min_width=320):
            results = _add_results()
    return PageComponents(**inputs, **results)


def step_title(number: int, title: str, text: str = "") -> str:
    """Return HTML of the title of a step."""
    return f'<h2><span class="number">{number}</span>{title}</h2>' + (f"<p>{text}</p>" if text else "")


def mask_title(t: int) -> str:
    """Return HTML of the title of step 2, which names the edited frame."""
    if t == 0:
        return step_title(2, "Objects", "Paint each object in its own color. White erases.")
    return step_title(2, f"Correct frame {t}", "Paint what is missing. White erases.")


def _add_video(limits: Limits) -> dict[str, Any]:
    with gr.Column(elem_classes="step"):
        gr.HTML(step_title(1, "Video"))
        video = gr.HTML(elem_id="video")
        with gr.Row():
            next_video = gr.Button("Next example", size="sm", min_width=120, elem_id="next-video")
            files = gr.UploadButton(
                "Upload video or images",
                file_count="multiple",
                file_types=["video", ".jpg", ".jpeg", ".png"],
                size="sm",
                min_width=120,
                elem_id="files",
            )
        gr.HTML(
            f'<p class="quiet">mp4, mov, webm, avi, JPEG or PNG; at most {limits.upload_mb} MB; '
            f"the first {limits.max_frames} frames; resized to a short side of {limits.size} pixels.</p>"
        )
    return {"video": video, "next_video": next_video, "files": files}


def _add_mask_editor() -> dict[str, Any]:
    with gr.Column(elem_classes="step"):
        title = gr.HTML(mask_title(0))
        editor = gr.ImageEditor(
            sources=[],
            transforms=[],
            layers=False,
            brush=gr.Brush(default_size=18, colors=list(panels.brush_colors()), color_mode="fixed"),
            eraser=gr.Eraser(default_size=18),
            show_label=False,
            buttons=[],
            height=300,
            elem_id="editor",
        )
        gr.HTML(panels.color_legend())
        with gr.Row():
            mask = gr.UploadButton(
                "Upload mask (PNG)", file_types=[".png"], size="sm", min_width=100, elem_id="mask"
            )
            clear = gr.Button("Clear mask", size="sm", min_width=100, elem_id="clear")
            first_frame = gr.Button(
                "Back to frame 0", size="sm", min_width=100, visible=False, elem_id="first-frame"
            )
    return {"mask_title": title, "editor": editor, "mask": mask, "clear": clear, "first_frame": first_frame}


def _add_policies() -> dict[str, Any]:
    with gr.Column(elem_classes="step"):
        gr.HTML(step_title(3, "Memory", "Choose which past frames are stored."))
        with gr.Row():
            first = gr.Dropdown(
                list(POLICIES), value=PAPER, label="Policy", min_width=180, elem_id="first-policy"
            )
            second = gr.Dropdown(
                [NO_POLICY, *POLICIES],
                value=NO_POLICY,
                label="Compare with",
                min_width=180,
                elem_id="second-policy",
            )
        with gr.Row():
            run = gr.Button("Run", variant="primary", elem_id="run", scale=3)
            stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
        progress = gr.HTML(elem_id="progress")
    return {"policies": (first, second), "run": run, "stop": stop, "progress": progress}


def _add_results() -> dict[str, Any]:
    with gr.Column(elem_classes="step"):
        gr.HTML(step_title(4, "Result", "Drag through the frames. Click a pixel to see what it reads."))
        time = gr.Slider(0, 1, value=0, step=1, label="Frame", interactive=False, buttons=[], elem_id="time")
        with gr.Row():
            frames = (_add_frame("first-result", True), _add_frame("second-result", False))
        with gr.Row():
            correct = gr.Button("Correct this frame", size="sm", interactive=False, elem_id="correct")
            masks = gr.DownloadButton("Masks (zip)", size="sm", interactive=False, elem_id="masks")
            overlay = gr.DownloadButton("Overlay (mp4)", size="sm", interactive=False, elem_id="overlay")
        summary = gr.HTML(elem_id="summary")
    with gr.Column(elem_classes="step"):
        gr.HTML(step_title(5, "Attention to the memory"))
        label = gr.Radio([], label="Object", elem_id="label", visible=False)
        query = gr.State(None)
        attention = gr.HTML(ATTENTION_HINT, elem_id="attention")
    with gr.Column(elem_classes="step"):
        gr.HTML(step_title(6, "Use of the memory frames over time"))
        usage = gr.HTML(USAGE_HINT, elem_id="usage")
    return {
        "time": time,
        "frames": frames,
        "correct": correct,
        "masks": masks,
        "overlay": overlay,
        "summary": summary,
        "label": label,
        "query": query,
        "attention": attention,
        "usage": usage,
    }


def _add_frame(elem_id: str, visible: bool) -> gr.Image:
    return gr.Image(
        interactive=False,
        visible=visible,
        show_label=True,
        label="Frame",
        format="jpeg",
        buttons=[],
        min_width=240,
        elem_id=elem_id,
        alt_text="Frame with its masks",
    )
