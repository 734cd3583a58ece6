"""Figure 5: where in which memory frame did chosen pixels or an object look? Pictures and curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stm.analysis.figures import COLORS, DASHES, bare, style
from stm.analysis.frame_attention import FrameAttention
from stm.visualization import heat

WHERE = (
    "Where in memory the marked pixels of the frame on the left look (the paper's figure 5): the brighter, "
    "the more; with the share of all that is read. The line is the object as it was found, or memorized."
)
OVER_TIME = (
    "What is read over time, of the object as it is found in each frame: the shares of the first, of the "
    "previous and of all other memory frames; below, the share of each, drawn up to the next one."
)


def plot_attention_maps(looks: Sequence[FrameAttention], columns: int = 5) -> Figure:
    """A row a look: the frame that looks, then the memory frames that it reads most, in order of time."""
    with style():
        height, width = looks[0].region.shape
        size = (1.9 * (columns + 1), (1.9 * height / width + 0.25) * len(looks))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(looks), columns + 1, squeeze=False)
        for look, (left, *others) in zip(looks, grid, strict=True):
            video = look.video
            bare(left, video.frame(look.t))
            _outline(left, look.region)
            for row, column in look.pixels:
                left.plot(column, row, "o", color="white", markeredgecolor="black", markersize=6)
            left.set_title(f"frame {video.frame_names[look.t]} looks", fontsize=7, pad=2)
            left.set_ylabel(f"{video.name}\nobject {look.object}", fontsize=7)
            highest = _bright(look)
            chosen = most_read(look, columns)
            for axes, m in zip(others, chosen, strict=False):
                bare(axes, heat(video.frame(m), look.maps[m], highest))
                _outline(axes, look.masks[m])
                axes.set_title(f"{video.frame_names[m]}: {look.shares[m]:.1%}", fontsize=7, pad=2)
            for axes in others[len(chosen) :]:
                axes.set_axis_off()
        return figure


def _bright(look: FrameAttention) -> float:
    """The weight that glows most: few are above it, so that no single cell darkens all others."""
    weights = np.stack(list(look.maps.values()))
    return max(float(np.quantile(weights, 0.995)), float(weights.max()) / 10)


def most_read(look: FrameAttention, count: int) -> list[int]:
    """The memory frames with the largest shares, in order of time; the first and the last are among them."""
    frames = sorted(look.shares)
    ends = {frames[0], frames[-1]}
    others = sorted((m for m in frames if m not in ends), key=lambda m: (-look.shares[m], m))
    return sorted([*ends, *others][:count])


def plot_attention_over_time(looks: Sequence[FrameAttention]) -> Figure:
    """A column a look: the shares of the first, the previous and other frames, and of each, over time."""
    with style():
        figure = Figure(figsize=(1.6 + max(4, 2.6 * len(looks)), 4.6), layout="constrained")
        grid = figure.subplots(2, len(looks), squeeze=False, sharex="col", height_ratios=[1, 1.4])
        norm = PowerNorm(0.5, 0, 1)
        for look, above, below in zip(looks, *grid, strict=True):
            frames = plot_attended_frames(look)
            for (role, values), color, dash in zip(_roles(look).items(), COLORS, DASHES, strict=False):
                above.plot(frames, values, color=color, linestyle=dash, label=role)
            above.set(ylim=(-0.02, 1.02), title=f"{look.video.name}, object {look.object}")
            triangle = held(look)
            extent = (-0.5, look.t + 0.5, -0.5, look.t + 0.5)
            drawn = below.imshow(
                triangle, cmap="cividis", norm=norm, origin="lower", extent=extent, aspect="auto"
            )
            below.set(xlabel="frame that looks", xlim=(frames[0] - 0.5, look.t + 0.5))
            for axis in (below.xaxis, below.yaxis):
                axis.set_major_locator(MaxNLocator("auto", integer=True))
            below.grid(False)
        grid[0, 0].set_ylabel("share of the read")
        grid[1, 0].set_ylabel("memory frame")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.colorbar(drawn, ax=grid[1].tolist(), label="share of the read", ticks=[0.01, 0.1, 0.3, 0.6, 1])
        return figure


def _roles(look: FrameAttention) -> dict[str, list[float]]:
    """The shares by what a memory frame is to the one that looks; NaN where the object was not found."""
    told: dict[str, list[float]] = {"first frame": [], "previous frame": [], "others": []}
    for t in plot_attended_frames(look):
        shares = dict(look.over_time.get(t, {}))
        first, previous = shares.pop(look.video.first_frames[look.object], 0.0), shares.pop(t - 1, 0.0)
        values = (first, previous, 1 - first - previous) if t in look.over_time else (math.nan,) * 3
        for role, value in zip(told, values, strict=True):
            told[role].append(value)
    return told


def plot_attended_frames(look: FrameAttention) -> range:
    """The frames that may look: after the one in which the object enters, up to the one chosen."""
    return range(look.video.first_frames[look.object] + 1, look.t + 1)


def held(look: FrameAttention) -> np.ndarray:
    """(t + 1, t + 1): in column q the share of each memory frame that q read, up to the next; else NaN."""
    triangle = np.full((look.t + 1, look.t + 1), np.nan)
    for q, shares in look.over_time.items():
        frames = sorted(shares)
        for m, following in zip(frames, [*frames[1:], q], strict=True):
            triangle[m:following, q] = shares[m]
    return triangle


def _outline(axes: Axes, region: np.ndarray) -> None:
    """A white line around a region, on black, which stands out from any picture."""
    if region.any():
        edged = np.pad(region, 1).astype(float)
        places = [np.arange(-1, side + 1) for side in reversed(region.shape)]
        for color, width in (("black", 1.2), ("white", 0.6)):
            axes.contour(*places, edged, levels=[0.5], colors=color, linewidths=width)
