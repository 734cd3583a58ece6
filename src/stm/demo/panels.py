"""Contents of the page: frames with masks, attention maps, figures and tables."""

from __future__ import annotations

import hashlib
import html
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from stm.analysis.figures import COLORS, DASHES, encode_figure, figure_style
from stm.analysis.html import data_uri, table
from stm.atomic_io import write_atomically
from stm.demo.segmentation_run import SegmentationRun
from stm.demo.uploads import MAX_OBJECTS
from stm.evaluation.metrics import region_similarity
from stm.inference import Attention
from stm.inference.attention import upsample_map
from stm.masks import object_ids
from stm.visualization import heat, object_color, overlay

BRUSHES: dict[int, tuple[int, int, int]] = {label: object_color(label) for label in range(1, MAX_OBJECTS + 1)}
ERASED = 255
"""Label of strokes that paint background, in white."""
_PALETTE = {**BRUSHES, ERASED: (255, 255, 255)}
MIN_SHORT_SIDE = 384
"""Displayed frames are enlarged by a whole factor to at least this short side, in pixels."""
MAX_CARDS, MAX_CARD_WIDTH = 12, 400


def display_scale(size: tuple[int, int]) -> int:
    """Return the factor by which frames of a size (H, W) are enlarged."""
    return max(1, math.ceil(MIN_SHORT_SIDE / min(size)))


def draw_frame(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw a frame with its masks, enlarged by `display_scale`."""
    scale = display_scale((mask.shape[0], mask.shape[1]))
    return overlay(_enlarge(frame, scale, cv2.INTER_LINEAR), _enlarge(mask, scale, cv2.INTER_NEAREST))


def write_frame(frame: np.ndarray, mask: np.ndarray, folder: Path) -> str:
    """Write `draw_frame` to a JPEG file named by its content, and return the path.

    If a component gets pixels, Gradio rewrites a file in place while browsers may fetch it.
    """
    content = _encode_jpeg(draw_frame(frame, mask), 90)
    path = folder / f"{hashlib.sha256(content).hexdigest()}.jpg"
    try:
        os.utime(path)  # Gradio removes old files
    except FileNotFoundError:
        write_atomically(path, content)
    return str(path)


def read_strokes(layers: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Convert painted strokes to uint8 (H, W): object labels, `ERASED`, or 0 for no stroke.

    Args:
        layers: uint8 (H', W', 4) each, from bottom to top.
        size: Height and width of the result.
    """
    strokes = np.zeros(size, np.uint8)
    labels, colors = np.array(list(_PALETTE), np.uint8), np.array(list(_PALETTE.values()), np.int64)
    for layer in layers:
        small = cv2.resize(layer, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
        painted = small[..., 3] >= 128
        distances = np.abs(small[painted][:, None, :3].astype(np.int64) - colors).sum(-1)
        strokes[painted] = labels[distances.argmin(1)]
    return strokes


def attention_cards(
    run: SegmentationRun, t: int, pixel: tuple[int, int], label: int, attention: Attention
) -> str:
    """Return HTML like Figure 5: the query pixel, and the attention maps over the memory frames.

    All maps share one scale, and the strongest cell is framed.
    """
    row, column = pixel
    size = (run.masks.shape[1], run.masks.shape[2])
    scale = display_scale(size)
    query = draw_frame(run.frames[t], run.masks[t])
    center = (round((column + 0.5) * scale), round((row + 0.5) * scale))
    for color, width in (((0, 0, 0), 5), ((255, 255, 255), 2)):
        cv2.drawMarker(query, center, color, cv2.MARKER_CROSS, 12 * scale, width, cv2.LINE_AA)
    cards = [_card(query, f"frame {t}", f"query pixel ({column}, {row}), object {label}", "query")]
    shares = attention.shares
    frames = sorted(sorted(shares, key=lambda f: -shares[f])[:MAX_CARDS])
    weights = {f: upsample_map(attention.maps[f].float().cpu(), size).numpy() for f in frames}
    heatmaps = heat(np.hstack([run.frames[f] for f in frames]), np.hstack(list(weights.values())))
    strongest = max(frames, key=lambda f: float(weights[f].max()))
    for index, f in enumerate(frames):
        heatmap = heatmaps[:, index * size[1] : (index + 1) * size[1]]
        heatmap = _enlarge(heatmap, scale, cv2.INTER_LINEAR)
        if f == strongest:
            _draw_strongest_cell(heatmap, weights[f], scale)
        origin = "given" if f in run.corrections else "previous" if f == t - 1 else "stored"
        kind = "most" if shares[f] == max(shares.values()) else ""
        cards.append(_card(heatmap, f"frame {f}", f"{origin} · {shares[f]:.0%}", kind, shares[f]))
    notes = []
    if len(shares) > len(frames):
        rest = sum(share for f, share in shares.items() if f not in frames)
        notes.append(f"{len(shares) - len(frames)} other frames: {rest:.0%}.")
    if len(attention.prototypes):
        notes.append(f"Prototypes of evicted frames: {float(attention.prototypes.sum()):.0%}.")
    return f'<div class="cards">{"".join(cards)}</div>{_heat_legend()}<p class="quiet">{" ".join(notes)}</p>'


def usage_figure(runs: Mapping[str, SegmentationRun], label: int) -> str:
    """Return an HTML image of an object's confidence and of the share of each memory frame over time."""
    with figure_style():
        stored = [_stored_frames(run, label) for run in runs.values()]
        heights = [1.5, *(min(2.4, 0.8 + 0.17 * len(frames)) for frames in stored)]
        figure = Figure(figsize=(6.4, 0.4 + sum(heights)), layout="constrained")
        axes = figure.subplots(1 + len(runs), 1, sharex=True, height_ratios=heights)
        for index, (name, run) in enumerate(runs.items()):
            scores = [record.scores.get(label, math.nan) for record in run.records]
            axes[0].plot(scores, color=COLORS[index + 1], linestyle=DASHES[index], label=name)
            _plot_shares(figure, axes[index + 1], run, label, stored[index])
            axes[index + 1].set_title(name, fontsize=9, loc="left")
        num_frames = len(next(iter(runs.values())).frames)
        axes[0].set(ylim=(0, 1.03), ylabel="confidence", xlim=(-0.5, num_frames - 0.5))
        axes[0].set_title(f"Object {label}: confidence in its mask", fontsize=9, loc="left")
        if len(runs) > 1:
            axes[0].legend(fontsize=8, loc="lower left")
        axes[-1].set_xlabel("frame of the video")
    source = data_uri("image/svg+xml", encode_figure(figure))
    return f'<img class="figure" alt="Share of each memory frame over time, object {label}" src="{source}">'


def summary_table(runs: Mapping[str, SegmentationRun], true_masks: np.ndarray | None) -> str:
    """Return an HTML table of each run's speed, memory, confidence and, with true masks, J."""
    heads = ["", "frames/s", "memory", "mean confidence"] + ["J"] * (true_masks is not None)
    rows = []
    for name, run in runs.items():
        scores = [score for record in run.records[1:] for score in record.scores.values()]
        row = [
            name,
            f"{run.num_done / max(run.seconds, 1e-9):.1f}",
            f"{run.max_memory_bytes / 2**20:.1f} MB",
            f"{np.mean(scores):.2f}" if scores else "-",
        ]
        rows.append(row + ([f"{_mean_j(run, true_masks):.2f}"] if true_masks is not None else []))
    notes = []
    if len(runs) > 1:
        first, second = runs.values()
        done = min(first.num_done, second.num_done)
        agreement = float(np.mean(np.array(first.masks[:done]) == np.array(second.masks[:done])))
        notes.append(f"The masks agree on {agreement:.1%} of all pixels.")
    if true_masks is not None:
        notes.append("J: mean region similarity to the true masks of the example.")
    return table(heads, rows) + f'<p class="quiet">{" ".join(notes)}</p>'


def progress_bar(runs: Mapping[str, SegmentationRun], has_ended: bool) -> str:
    """Return HTML of the progress of all runs."""
    done, total = sum(run.num_done for run in runs.values()), sum(len(run.frames) for run in runs.values())
    seconds = sum(run.seconds for run in runs.values())
    state = "Done" if done == total else "Stopped" if has_ended else "Running"
    memory = max((run.max_memory_bytes for run in runs.values()), default=0) / 2**20
    text = f"{state}: {done} of {total} frames · {done / max(seconds, 1e-9):.1f} frames/s · {memory:.1f} MB"
    return f'<progress max="{total}" value="{done}"></progress><p class="quiet">{text}</p>'


def color_legend() -> str:
    """Return HTML that names the object of each color."""
    swatches = [(color, f"object {label}") for label, color in BRUSHES.items()]
    swatches.append((_PALETTE[ERASED], "background"))
    items = "".join(f'<li><i style="background:rgb{color}"></i>{name}</li>' for color, name in swatches)
    return f'<ul class="legend">{items}</ul>'


def brush_colors() -> list[str]:
    """Return the colors of the brush as `#rrggbb`."""
    return ["#" + bytes(color).hex() for color in _PALETTE.values()]


def _heat_legend() -> str:
    """Return HTML that explains the colors of the attention maps."""
    colors = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, ::32, ::-1]
    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in colors.tolist())
    ramp = f'weight 0 <i style="background:linear-gradient(90deg, {stops})"></i> maximum'
    return f'<p class="quiet heat">{ramp}; framed: the cell with the largest weight</p>'


def _stored_frames(run: SegmentationRun, label: int) -> list[int]:
    """Return the frames that were in memory other than as the previous frame."""
    shares = (record.shares.get(label, {}) for record in run.records)
    return sorted({f for t, shares_of_t in enumerate(shares) for f in shares_of_t if f < t - 1})


def _plot_shares(figure: Figure, axes: Axes, run: SegmentationRun, label: int, stored: Sequence[int]) -> None:
    grid = np.full((len(stored) + 1, len(run.frames)), np.nan)
    for t, record in enumerate(run.records):
        for f, share in record.shares.get(label, {}).items():
            grid[0 if f == t - 1 else 1 + stored.index(f), t] = share
    image = axes.imshow(
        np.ma.masked_invalid(grid), aspect="auto", cmap="magma_r", vmin=0, vmax=1, interpolation="nearest"
    )
    step = max(1, math.ceil(len(stored) / 8))
    ticks = [0, *range(1, len(stored) + 1, step)]
    axes.set_yticks(ticks, ["previous", *[str(f) for f in stored[::step]]])
    axes.set(ylabel="memory frame", facecolor="#e8e8e8")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="share", fraction=0.03, pad=0.01)


def _mean_j(run: SegmentationRun, true_masks: np.ndarray) -> float:
    """Return the mean J of the objects in the true masks over all frames but the first."""
    labels, done = object_ids(true_masks[0]), run.num_done
    values = [region_similarity(true_masks[1:done] == o, np.array(run.masks[1:done]) == o) for o in labels]
    return float(np.mean(values)) if done > 1 else math.nan


def _card(pixels: np.ndarray, title: str, text: str, kind: str = "", share: float | None = None) -> str:
    if pixels.shape[1] > MAX_CARD_WIDTH:
        height = round(pixels.shape[0] * MAX_CARD_WIDTH / pixels.shape[1])
        pixels = cv2.resize(pixels, (MAX_CARD_WIDTH, height), interpolation=cv2.INTER_AREA)
    source = data_uri("image/jpeg", _encode_jpeg(pixels, 85))
    bar = "" if share is None else f'<b class="share" style="width:{share:.1%}"></b>'
    caption = f"<strong>{html.escape(title)}</strong> {html.escape(text)}"
    image = f'<img alt="{html.escape(title)}" src="{source}">'
    return f'<figure class="{kind}">{image}{bar}<figcaption>{caption}</figcaption></figure>'


def _encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality)
    return content.getvalue()


def _draw_strongest_cell(heatmap: np.ndarray, weights: np.ndarray, scale: int) -> None:
    rows, columns = np.nonzero(weights == weights.max())
    top_left = (columns[0] * scale, rows[0] * scale)
    bottom_right = ((columns[-1] + 1) * scale - 1, (rows[-1] + 1) * scale - 1)
    cv2.rectangle(heatmap, top_left, bottom_right, (0, 255, 255), max(2, scale // 2))


def _enlarge(pixels: np.ndarray, scale: int, interpolation: int) -> np.ndarray:
    pixels = np.ascontiguousarray(pixels)
    return pixels if scale == 1 else cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=interpolation)
