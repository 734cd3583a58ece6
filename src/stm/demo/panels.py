"""What the page shows: frames with masks, memory frames that glow, figures and tables."""

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

from stm.analysis.figures import COLORS, DASHES, figure_to_png, style
from stm.analysis.html import data_uri, table
from stm.atomic_io import write_atomically
from stm.demo.segmentation_run import SegmentationRun
from stm.demo.uploads import OBJECTS
from stm.evaluation.metrics import region_similarity
from stm.inference import Attention
from stm.inference.attention import upsample_map
from stm.masks import object_ids
from stm.visualization import heat, object_color, overlay

BRUSHES: dict[int, tuple[int, int, int]] = {label: object_color(label) for label in range(1, OBJECTS + 1)}
ERASED = 255
"""The label of strokes that make background; their color is white."""
_PALETTE = {**BRUSHES, ERASED: (255, 255, 255)}
SHORT_SIDE = 384
"""Frames are shown at least so high, in whole multiples of their pixels."""
MOST_CARDS, CARD_WIDTH = 12, 400


def scale(size: tuple[int, int]) -> int:
    """By how much frames of this (H, W) are enlarged."""
    return max(1, math.ceil(SHORT_SIDE / min(size)))


def picture(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A frame with its masks, enlarged by `scale`."""
    by = scale((mask.shape[0], mask.shape[1]))
    return overlay(_larger(frame, by, cv2.INTER_LINEAR), _larger(mask, by, cv2.INTER_NEAREST))


def picture_file(frame: np.ndarray, mask: np.ndarray, folder: Path) -> str:
    """`picture` as a JPEG file, under the name that its content gives it.

    Given pixels, Gradio writes a file anew each time, in its place, while browsers fetch it.
    """
    content = _jpeg(picture(frame, mask), 90)
    path = folder / f"{hashlib.sha256(content).hexdigest()}.jpg"
    try:
        os.utime(path)  # Gradio removes what is old
    except FileNotFoundError:
        write_atomically(path, content)
    return str(path)


def strokes(layers: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """What was painted, uint8 (H, W): objects, `ERASED`, or 0 for nothing.

    Args:
        layers: uint8 (H', W', 4) each, later ones above.
        size: (H, W).
    """
    found = np.zeros(size, np.uint8)
    labels, colors = np.array(list(_PALETTE), np.uint8), np.array(list(_PALETTE.values()), np.int64)
    for layer in layers:
        small = cv2.resize(layer, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
        painted = small[..., 3] >= 128
        apart = np.abs(small[painted][:, None, :3].astype(np.int64) - colors).sum(-1)
        found[painted] = labels[apart.argmin(1)]
    return found


def cards(run: SegmentationRun, t: int, at: tuple[int, int], label: int, attention: Attention) -> str:
    """Figure 5 as a page: the pixel that looks, and the memory frames that it looks at.

    All frames glow by one scale; the strongest cell is framed.
    """
    row, column = at
    by = scale((run.masks.shape[1], run.masks.shape[2]))
    asking = picture(run.frames[t], run.masks[t])
    center = (round((column + 0.5) * by), round((row + 0.5) * by))
    for color, width in (((0, 0, 0), 5), ((255, 255, 255), 2)):
        cv2.drawMarker(asking, center, color, cv2.MARKER_CROSS, 12 * by, width, cv2.LINE_AA)
    parts = [_card(asking, f"frame {t}", f"asks at ({column}, {row}), for object {label}", "asks")]
    shares = attention.shares
    chosen = sorted(sorted(shares, key=lambda f: -shares[f])[:MOST_CARDS])
    size = (run.masks.shape[1], run.masks.shape[2])
    weights = {f: upsample_map(attention.maps[f].float().cpu(), size).numpy() for f in chosen}
    glowing = heat(np.hstack([run.frames[f] for f in chosen]), np.hstack(list(weights.values())))
    strongest = max(chosen, key=lambda f: float(weights[f].max()))
    for number, f in enumerate(chosen):
        part = _larger(glowing[:, number * size[1] : (number + 1) * size[1]], by, cv2.INTER_LINEAR)
        if f == strongest:
            _frame_cell(part, weights[f], by)
        told = "given" if f in run.told else "previous" if f == t - 1 else "kept"
        kind = "most" if shares[f] == max(shares.values()) else ""
        parts.append(_card(part, f"frame {f}", f"{told} · {shares[f]:.0%}", kind, shares[f]))
    rest = []
    if len(shares) > len(chosen):
        left = sum(share for f, share in shares.items() if f not in chosen)
        rest.append(f"{len(shares) - len(chosen)} other frames: {left:.0%}.")
    if len(attention.prototypes):
        rest.append(f"Cells kept of frames that left: {float(attention.prototypes.sum()):.0%}.")
    return f'<div class="cards">{"".join(parts)}</div>{_glow_legend()}<p class="quiet">{" ".join(rest)}</p>'


def usage(runs: Mapping[str, SegmentationRun], label: int) -> str:
    """How much each memory frame is used over time for an object, and the masks' scores: an HTML image."""
    with style():
        rows = [_staying(run, label) for run in runs.values()]
        heights = [1.5, *(min(2.4, 0.8 + 0.17 * len(staying)) for staying in rows)]
        figure = Figure(figsize=(6.4, 0.4 + sum(heights)), layout="constrained")
        axes = figure.subplots(1 + len(runs), 1, sharex=True, height_ratios=heights)
        for place, (name, run) in enumerate(runs.items()):
            scores = [seen.scores.get(label, math.nan) for seen in run.seen]
            axes[0].plot(scores, color=COLORS[place + 1], linestyle=DASHES[place], label=name)
            _draw_shares(figure, axes[place + 1], run, label, rows[place])
            axes[place + 1].set_title(name, fontsize=9, loc="left")
        axes[0].set(ylim=(0, 1.03), ylabel="score", xlim=(-0.5, len(next(iter(runs.values())).frames) - 0.5))
        axes[0].set_title(f"Object {label}: how sure each mask is", fontsize=9, loc="left")
        if len(runs) > 1:
            axes[0].legend(fontsize=8, loc="lower left")
        axes[-1].set_xlabel("frame of the video")
    source = data_uri("image/svg+xml", figure_to_png(figure))
    return f'<img class="figure" alt="Share of each memory frame over time, object {label}" src="{source}">'


def told(runs: Mapping[str, SegmentationRun], truth: np.ndarray | None) -> str:
    """What each run took and gave, as a table."""
    heads = ["", "frames/s", "memory", "mean score"] + ["J"] * (truth is not None)
    rows = []
    for name, run in runs.items():
        scores = [score for seen in run.seen[1:] for score in seen.scores.values()]
        mean = f"{np.mean(scores):.2f}" if scores else "-"
        row = [name, f"{run.done / max(run.seconds, 1e-9):.1f}", f"{run.most_bytes / 2**20:.1f} MB", mean]
        rows.append(row + ([f"{_j(run, truth):.2f}"] if truth is not None else []))
    notes = []
    if len(runs) > 1:
        one, other = runs.values()
        done = min(one.done, other.done)
        same = float(np.mean(np.array(one.masks[:done]) == np.array(other.masks[:done])))
        notes.append(f"The masks agree on {same:.1%} of all pixels.")
    if truth is not None:
        notes.append("J: mean overlap with the true masks, which a procedural video has.")
    return table(heads, rows) + f'<p class="quiet">{" ".join(notes)}</p>'


def progress(runs: Mapping[str, SegmentationRun], ended: bool) -> str:
    """How far all runs are."""
    done, wanted = sum(run.done for run in runs.values()), sum(len(run.frames) for run in runs.values())
    seconds = sum(run.seconds for run in runs.values())
    state = "Done" if done == wanted else "Stopped" if ended else "Running"
    memory = max((run.most_bytes for run in runs.values()), default=0) / 2**20
    text = f"{state}: {done} of {wanted} frames · {done / max(seconds, 1e-9):.1f} a second · {memory:.1f} MB"
    return f'<progress max="{wanted}" value="{done}"></progress><p class="quiet">{text}</p>'


def legend() -> str:
    """Which color is which object."""
    swatches = [(color, f"object {label}") for label, color in BRUSHES.items()]
    swatches.append((_PALETTE[ERASED], "background"))
    items = "".join(f'<li><i style="background:rgb{color}"></i>{name}</li>' for color, name in swatches)
    return f'<ul class="legend">{items}</ul>'


def brushes() -> list[str]:
    """The colors to paint with, `#rrggbb`."""
    return ["#" + bytes(color).hex() for color in _PALETTE.values()]


def _glow_legend() -> str:
    """What brightness means."""
    colors = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, ::32, ::-1]
    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in colors.tolist())
    ramp = f'weight 0 <i style="background:linear-gradient(90deg, {stops})"></i> highest'
    return f'<p class="quiet glow">{ramp}; framed: the cell that counts most</p>'


def _staying(run: SegmentationRun, label: int) -> list[int]:
    """The frames that were in memory other than as the previous one."""
    shares = (seen.shares.get(label, {}) for seen in run.seen)
    return sorted({f for t, of_frame in enumerate(shares) for f in of_frame if f < t - 1})


def _draw_shares(
    figure: Figure, axes: Axes, run: SegmentationRun, label: int, staying: Sequence[int]
) -> None:
    shares = [seen.shares.get(label, {}) for seen in run.seen]
    grid = np.full((len(staying) + 1, len(run.frames)), np.nan)
    for t, of_frame in enumerate(shares):
        for f, share in of_frame.items():
            grid[0 if f == t - 1 else 1 + staying.index(f), t] = share
    shown = axes.imshow(
        np.ma.masked_invalid(grid), aspect="auto", cmap="magma_r", vmin=0, vmax=1, interpolation="nearest"
    )
    every = max(1, math.ceil(len(staying) / 8))
    places = [0, *range(1, len(staying) + 1, every)]
    axes.set_yticks(places, ["previous", *[str(f) for f in staying[::every]]])
    axes.set(ylabel="memory frame", facecolor="#e8e8e8")
    axes.grid(False)
    figure.colorbar(shown, ax=axes, label="share", fraction=0.03, pad=0.01)


def _j(run: SegmentationRun, truth: np.ndarray) -> float:
    """J of the true objects on all frames but the first."""
    labels, done = object_ids(truth[0]), run.done
    values = [region_similarity(truth[1:done] == o, np.array(run.masks[1:done]) == o) for o in labels]
    return float(np.mean(values)) if done > 1 else math.nan


def _card(pixels: np.ndarray, head: str, text: str, kind: str = "", share: float | None = None) -> str:
    if pixels.shape[1] > CARD_WIDTH:
        height = round(pixels.shape[0] * CARD_WIDTH / pixels.shape[1])
        pixels = cv2.resize(pixels, (CARD_WIDTH, height), interpolation=cv2.INTER_AREA)
    source = data_uri("image/jpeg", _jpeg(pixels, 85))
    bar = "" if share is None else f'<b class="share" style="width:{share:.1%}"></b>'
    words = f"<strong>{html.escape(head)}</strong> {html.escape(text)}"
    image = f'<img alt="{html.escape(head)}" src="{source}">'
    return f'<figure class="{kind}">{image}{bar}<figcaption>{words}</figcaption></figure>'


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality)
    return content.getvalue()


def _frame_cell(part: np.ndarray, weights: np.ndarray, by: int) -> None:
    rows, columns = np.nonzero(weights == weights.max())
    corner, opposite = (columns[0] * by, rows[0] * by), ((columns[-1] + 1) * by - 1, (rows[-1] + 1) * by - 1)
    cv2.rectangle(part, corner, opposite, (0, 255, 255), max(2, by // 2))


def _larger(pixels: np.ndarray, by: int, how: int) -> np.ndarray:
    pixels = np.ascontiguousarray(pixels)
    return pixels if by == 1 else cv2.resize(pixels, None, fx=by, fy=by, interpolation=how)
