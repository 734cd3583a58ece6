"""Figure 5: attention of chosen pixels or an object to the memory frames, as maps and over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stm.analysis.figures import COLORS, DASHES, figure_style, show_image
from stm.analysis.frame_attention import FrameAttention
from stm.visualization import heat

MAPS_CAPTION = (
    "Attention of the marked pixels of the query frame on the left to the memory frames (Figure 5 of the "
    "paper): brighter is more, with each frame's share of the read. The line is the predicted or memorized "
    "mask of the object."
)
OVER_TIME_CAPTION = (
    "Attention of the object over time, over its predicted mask in each frame. Top: shares of the first, the "
    "previous and all other memory frames. Bottom: share of each memory frame, drawn up to the next one."
)


def plot_attention_maps(attentions: Sequence[FrameAttention], columns: int = 5) -> Figure:
    """Plot one row per attention: the query frame, and the most read memory frames in order of time."""
    with figure_style():
        height, width = attentions[0].region.shape
        size = (1.9 * (columns + 1), (1.9 * height / width + 0.25) * len(attentions))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(attentions), columns + 1, squeeze=False)
        for attention, (query_axes, *memory_axes) in zip(attentions, grid, strict=True):
            video, t = attention.video, attention.t
            show_image(query_axes, video.frame(t))
            _outline(query_axes, attention.region)
            for row, column in attention.pixels:
                query_axes.plot(column, row, "o", color="white", markeredgecolor="black", markersize=6)
            query_axes.set_title(f"query frame {video.frame_names[t]}", fontsize=7, pad=2)
            query_axes.set_ylabel(f"{video.name}\nobject {attention.object}", fontsize=7)
            maximum = _color_maximum(attention)
            frames = most_read(attention, columns)
            for axes, m in zip(memory_axes, frames, strict=False):
                show_image(axes, heat(video.frame(m), attention.maps[m], maximum))
                _outline(axes, attention.masks[m])
                axes.set_title(f"{video.frame_names[m]}: {attention.shares[m]:.1%}", fontsize=7, pad=2)
            for axes in memory_axes[len(frames) :]:
                axes.set_axis_off()
        return figure


def _color_maximum(attention: FrameAttention) -> float:
    """Return the weight of the brightest color: a high quantile, so that no single cell darkens the rest."""
    weights = np.stack(list(attention.maps.values()))
    return max(float(np.quantile(weights, 0.995)), float(weights.max()) / 10)


def most_read(attention: FrameAttention, count: int) -> list[int]:
    """Return the first, the last and the memory frames with the largest shares, in order of time."""
    frames = sorted(attention.shares)
    ends = {frames[0], frames[-1]}
    others = sorted((m for m in frames if m not in ends), key=lambda m: (-attention.shares[m], m))
    return sorted([*ends, *others][:count])


def plot_attention_over_time(attentions: Sequence[FrameAttention]) -> Figure:
    """Plot one column per attention: the shares of the first, the previous and each frame over time."""
    with figure_style():
        figure = Figure(figsize=(1.6 + max(4, 2.6 * len(attentions)), 4.6), layout="constrained")
        grid = figure.subplots(2, len(attentions), squeeze=False, sharex="col", height_ratios=[1, 1.4])
        norm = PowerNorm(0.5, 0, 1)
        for attention, top, bottom in zip(attentions, *grid, strict=True):
            t, frames = attention.t, query_frames(attention)
            for (role, shares), color, dash in zip(
                _shares_by_role(attention).items(), COLORS, DASHES, strict=False
            ):
                top.plot(frames, shares, color=color, linestyle=dash, label=role)
            top.set(ylim=(-0.02, 1.02), title=f"{attention.video.name}, object {attention.object}")
            image = bottom.imshow(
                share_matrix(attention),
                cmap="cividis",
                norm=norm,
                origin="lower",
                extent=(-0.5, t + 0.5, -0.5, t + 0.5),
                aspect="auto",
            )
            bottom.set(xlabel="query frame", xlim=(frames[0] - 0.5, t + 0.5))
            for axis in (bottom.xaxis, bottom.yaxis):
                axis.set_major_locator(MaxNLocator("auto", integer=True))
            bottom.grid(False)
        grid[0, 0].set_ylabel("share of the read")
        grid[1, 0].set_ylabel("memory frame")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.colorbar(image, ax=grid[1].tolist(), label="share of the read", ticks=[0.01, 0.1, 0.3, 0.6, 1])
        return figure


def _shares_by_role(attention: FrameAttention) -> dict[str, list[float]]:
    """Return the shares of the first, previous and other frames; NaN where the object was not found."""
    roles: dict[str, list[float]] = {"first frame": [], "previous frame": [], "others": []}
    for t in query_frames(attention):
        shares = dict(attention.over_time.get(t, {}))
        first = shares.pop(attention.video.first_frames[attention.object], 0.0)
        previous = shares.pop(t - 1, 0.0)
        is_found = t in attention.over_time
        values = (first, previous, 1 - first - previous) if is_found else (math.nan,) * 3
        for role, value in zip(roles, values, strict=True):
            roles[role].append(value)
    return roles


def query_frames(attention: FrameAttention) -> range:
    """Return the frames that read the memory: after the object's first frame, up to the chosen one."""
    return range(attention.video.first_frames[attention.object] + 1, attention.t + 1)


def share_matrix(attention: FrameAttention) -> np.ndarray:
    """Return a (t + 1, t + 1) matrix of shares: memory frames in rows, query frames in columns, else NaN.

    The share of a memory frame fills the rows up to the next memory frame.
    """
    matrix = np.full((attention.t + 1, attention.t + 1), np.nan)
    for q, shares in attention.over_time.items():
        frames = sorted(shares)
        for m, following in zip(frames, [*frames[1:], q], strict=True):
            matrix[m:following, q] = shares[m]
    return matrix


def _outline(axes: Axes, region: np.ndarray) -> None:
    """Draw a white line on a black one around a region, which is visible on any image."""
    if region.any():
        padded = np.pad(region, 1).astype(float)
        coordinates = [np.arange(-1, side + 1) for side in reversed(region.shape)]
        for color, width in (("black", 1.2), ("white", 0.6)):
            axes.contour(*coordinates, padded, levels=[0.5], colors=color, linewidths=width)
