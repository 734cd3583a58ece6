"""Figures of evaluations and sweeps in one style, as PNG and SVG.

Lines differ in dashes and markers as well as in color, so that they can be distinguished in gray and with
color vision deficiency. The colors are those of Okabe and Ito.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stm.analysis.evaluation_results import EvaluationResults
from stm.atomic_io import write_atomically
from stm.evaluation.overlays import overlay_sheet
from stm.video import Video

COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", "-.", ":", (0, (7, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX*<>hp"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.hashsalt": "stm",  # so that equal figures have equal files
    "svg.fonttype": "path",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the common style to the figures drawn in this context."""
    with matplotlib.rc_context(STYLE):
        yield


def encode_figure(figure: Figure, file_format: str = "svg") -> bytes:
    """Return the content of a figure's file in the format `svg` or `png`."""
    content = io.BytesIO()
    metadata = {"Date": None} if file_format == "svg" else None
    with figure_style():
        figure.savefig(content, format=file_format, dpi=160, bbox_inches="tight", metadata=metadata)
    return content.getvalue()


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure to `path` with the suffixes .png and .svg, each atomically."""
    for file_format in ("png", "svg"):
        write_atomically(path.with_name(f"{path.name}.{file_format}"), encode_figure(figure, file_format))


def plot_sorted_j(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Plot Figure 7: the sorted J of all objects in all frames over the percentile, one curve per policy.

    Args:
        curves: Label -> J of every object in every scored frame, 0..1, in any order.
    """
    with figure_style():
        figure, axes = _new_figure(5.2, 3.6)
        for (label, values), line_style in zip(curves.items(), line_styles(), strict=False):
            ordered = np.sort(np.asarray(values, dtype=float))
            percentiles = (np.arange(len(ordered)) + 0.5) / len(ordered) * 100
            axes.plot(percentiles, ordered, label=f"{label} ({ordered.mean():.3f})", **line_style)
        axes.set(
            xlim=(0, 100), ylim=(-0.01, 1.01), xlabel="percentile of all objects in all frames", ylabel="J"
        )
        inside, outside = {"loc": "lower right"}, {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
        axes.legend(title="(mean of the curve)", **(inside if len(curves) < 8 else outside))
        return figure


def plot_j_over_time(results: EvaluationResults, num_worst: int = 3) -> Figure:
    """Plot J over the relative time of the videos: quartiles, mean, and the worst videos with frames."""
    names = results.ranked()
    worst = names[:num_worst]
    tracks = {name: results.mean_j(name) for name in names}
    times = np.linspace(0, 1, 21)
    j_VT = np.array([_resample(tracks[name], results.sequences[name].length, times) for name in names])
    with_frames = [name for name in worst if name in results.videos]
    with figure_style():
        figure = Figure(figsize=(7.2, 3.1 + 1.35 * len(with_frames)), layout="constrained")
        grid = figure.add_gridspec(1 + len(with_frames), 5, height_ratios=[2.6] + [1] * len(with_frames))
        axes = figure.add_subplot(grid[0, :])
        low, high = np.nanquantile(j_VT, (0.25, 0.75), axis=0)
        axes.fill_between(times, low, high, color="#bbbbbb", alpha=0.6, linewidth=0, label="middle half")
        axes.plot(times, np.nanmean(j_VT, axis=0), color="#000000", linewidth=2.4, label="mean of all")
        for name, line_style in zip(worst, line_styles(1), strict=False):
            track = tracks[name]
            track_times = np.array(list(track)) / max(1, results.sequences[name].length - 1)
            label = f"{name} ({np.mean(list(track.values())):.2f})"
            axes.plot(track_times, list(track.values()), linewidth=1.2, label=label, **line_style)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="relative time in the video", ylabel="J")
        axes.legend(title="worst videos (mean J)", loc="center left", bbox_to_anchor=(1.01, 0.5))
        for row, name in enumerate(with_frames, start=1):
            row_axes = [figure.add_subplot(grid[row, column]) for column in range(5)]
            _show_frames(row_axes, results, results.videos[name], tracks[name])
        return figure


def _resample(track: Mapping[int, float], length: int, times: np.ndarray) -> np.ndarray:
    """Interpolate J at relative times 0..1 of a video, constant outside of its scored frames."""
    track_times = np.array(list(track)) / max(1, length - 1)
    return np.interp(times, track_times, list(track.values()))


def _show_frames(
    row: Sequence[Axes], results: EvaluationResults, video: Video, track: Mapping[int, float]
) -> None:
    """Show evenly spaced scored frames of a video with their masks and J."""
    frames = list(track)
    for axes, position in zip(row, np.linspace(0, len(frames) - 1, len(row)), strict=True):
        t = frames[round(position)]
        show_image(axes, overlay_sheet(video.frame(t), results.mask(video, t), video.mask(t)))
        axes.set_title(f"{video.frame_names[t]}  J {track[t]:.2f}", fontsize=7, pad=2)
    row[0].set_ylabel(video.name, fontsize=7)


def plot_pareto(points: Mapping[str, tuple[float, float, float]]) -> Figure:
    """Plot accuracy against speed and memory, one point per policy, and connect the Pareto front.

    Args:
        points: Label -> (J in percent, seconds per frame, MB).
    """
    with figure_style():
        figure, axes = _new_figure(6.4, 4.0)
        j, seconds, mb = (np.array(values) for values in zip(*points.values(), strict=True))
        sizes = 40 + 200 * np.clip(np.log(mb / mb.min()) / np.log(4), 0, 1)  # largest at 4 times the minimum
        for index, (label, color, marker) in enumerate(
            zip(points, cycle(COLORS), cycle(MARKERS), strict=False)
        ):
            axes.scatter(
                seconds[index] * 1000,
                j[index],
                sizes[index],
                color=color,
                marker=marker,
                edgecolor="white",
                linewidth=0.6,
                label=f"{label} ({mb[index]:.0f} MB)",
                zorder=3,
            )
        front = pareto_front(seconds, j)
        axes.plot(seconds[front] * 1000, j[front], color="#888888", linewidth=1, zorder=2)
        axes.set(xlabel="milliseconds per frame", ylabel="J in percent")
        axes.margins(0.12)
        axes.legend(
            loc="center left", bbox_to_anchor=(1.02, 0.5), markerscale=0.7, title="area: peak memory in use"
        )
        return figure


def pareto_front(cost: np.ndarray, gain: np.ndarray) -> list[int]:
    """Return the indices of the points that no other point beats in both, by increasing cost."""
    front: list[int] = []
    for index in sorted(range(len(cost)), key=lambda i: (cost[i], -gain[i])):
        if not front or gain[index] > gain[front[-1]]:
            front.append(index)
    return front


def plot_side_by_side(policies: Mapping[str, EvaluationResults], num_frames: int = 4) -> Figure | None:
    """Plot Figure 6: the masks of several policies in the frames where J differs most, one per video.

    Args:
        policies: Label -> results on the same videos.
        num_frames: Number of frames, one row each.

    Returns:
        The figure, or None if the videos no longer exist.
    """
    frames = most_different_frames(list(policies.values()), num_frames)
    if not frames:
        return None
    videos = next(iter(policies.values())).videos
    with figure_style():
        columns = len(policies) + 1
        figure = Figure(figsize=(1.7 * columns, 1.75 * len(frames)), layout="constrained")
        grid = figure.subplots(len(frames), columns, squeeze=False)
        for row, (name, t) in enumerate(frames):
            video, truth = videos[name], videos[name].mask(t)
            assert truth is not None
            show_image(grid[row, 0], overlay_sheet(video.frame(t), truth, None))
            grid[row, 0].set_ylabel(f"{name}\nframe {video.frame_names[t]}", fontsize=7)
            for column, (label, results) in enumerate(policies.items(), start=1):
                axes = grid[row, column]
                show_image(axes, overlay_sheet(video.frame(t), results.mask(video, t), truth))
                j = results.mean_j(name)[t]
                axes.set_title(f"{label}  J {j:.2f}" if row == 0 else f"J {j:.2f}", fontsize=8, pad=2)
        grid[0, 0].set_title("ground truth", fontsize=8, pad=2)
        return figure


def most_different_frames(evaluations: Sequence[EvaluationResults], count: int) -> list[tuple[str, int]]:
    """Return the (video, frame) pairs where J differs most, one per video, by decreasing difference.

    Frames without an object are skipped, because a single pixel decides there between 0 and 1.
    """
    names = set.intersection(*(set(results.videos) for results in evaluations)) if evaluations else set()
    candidates = []
    for name in sorted(names):
        tracks, video = [results.mean_j(name) for results in evaluations], evaluations[0].videos[name]
        frames = set.intersection(*map(set, tracks))
        gaps = {t: max(track[t] for track in tracks) - min(track[t] for track in tracks) for t in frames}
        ordered = sorted(gaps, key=lambda t: (-gaps[t], t))
        if (t := next((t for t in ordered if _shows_object(video, t)), None)) is not None:
            candidates.append((-gaps[t], name, t))
    return [(name, t) for _, name, t in sorted(candidates)[:count]]


def _shows_object(video: Video, t: int) -> bool:
    truth = video.mask(t)
    return truth is not None and bool(np.isin(truth, list(video.first_frames)).any())


def _new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def line_styles(first: int = 0) -> Iterator[dict[str, Any]]:
    """Yield distinct line styles: colors and dashes, and markers once the dashes repeat."""
    for index in count(first):
        repetition, dash = divmod(index, len(DASHES))
        yield {
            "color": COLORS[index % len(COLORS)],
            "linestyle": DASHES[dash],
            "marker": ("", *MARKERS)[repetition % (1 + len(MARKERS))],
            "markersize": 4,
            "markevery": 0.1,  # of the diagonal of the axes
        }


def show_image(axes: Axes, pixels: np.ndarray) -> None:
    """Show an image without ticks, grid and frame."""
    axes.imshow(pixels, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
