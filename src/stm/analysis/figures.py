"""Figures of evaluations and sweeps, from their files: PNG and SVG in one style.

Lines differ by dashes and markers as well as by hue, so that they can be told apart in gray and by the
color-blind; the colors are Okabe and Ito's.
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
    "svg.hashsalt": "stm",  # equal figures give equal files
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """All figures are drawn inside of this."""
    with matplotlib.rc_context(STYLE):
        yield


def figure_to_png(figure: Figure, kind: str = "svg") -> bytes:
    """A figure as a file's content, `svg` or `png`."""
    content = io.BytesIO()
    with style():
        figure.savefig(
            content,
            format=kind,
            dpi=160,
            bbox_inches="tight",
            metadata={"Date": None} if kind == "svg" else None,
        )
    return content.getvalue()


def write_figure(figure: Figure, path: Path) -> None:
    """Write `path` with the suffixes .png and .svg; each appears whole or not at all."""
    for kind in ("png", "svg"):
        write_atomically(path.with_name(f"{path.name}.{kind}"), figure_to_png(figure, kind))


def sorted_j(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Figure 7: J of all objects on all frames, sorted, over the percentile; a curve a policy.

    Args:
        curves: label -> J of every object on every frame that counts, 0..1, in any order.
    """
    with style():
        figure, axes = _axes(5.2, 3.6)
        for (label, values), look in zip(curves.items(), _looks(), strict=False):
            ordered = np.sort(np.asarray(values, dtype=float))
            percentiles = (np.arange(len(ordered)) + 0.5) / len(ordered) * 100
            name = f"{label} ({ordered.mean():.3f})"
            axes.plot(percentiles, ordered, label=name, **look)
        axes.set(
            xlim=(0, 100), ylim=(-0.01, 1.01), xlabel="percentile of all objects on all frames", ylabel="J"
        )
        few = {"loc": "lower right"}
        many = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
        axes.legend(title="(mean of the curve)", **(few if len(curves) < 8 else many))
        return figure


def j_over_time(opened: EvaluationResults, worst: int = 3) -> Figure:
    """J over the videos' course: the middle half of all, their mean, the worst as lines and as pictures."""
    names = opened.ranked()
    chosen = names[:worst]
    tracks = {name: opened.mean_j(name) for name in names}
    places = np.linspace(0, 1, 21)
    courses = np.array([_course(tracks[name], opened.sequences[name].length, places) for name in names])
    rows = sum(name in opened.videos for name in chosen)
    with style():
        figure = Figure(figsize=(7.2, 3.1 + 1.35 * rows), layout="constrained")
        grid = figure.add_gridspec(1 + rows, 5, height_ratios=[2.6] + [1] * rows)
        axes = figure.add_subplot(grid[0, :])
        low, high = np.nanquantile(courses, (0.25, 0.75), axis=0)
        axes.fill_between(places, low, high, color="#bbbbbb", alpha=0.6, linewidth=0, label="middle half")
        axes.plot(places, np.nanmean(courses, axis=0), color="#000000", linewidth=2.4, label="mean of all")
        for name, look in zip(chosen, _looks(1), strict=False):
            track = tracks[name]
            at = np.array(list(track)) / max(1, opened.sequences[name].length - 1)
            label = f"{name} ({np.mean(list(track.values())):.2f})"
            axes.plot(at, list(track.values()), linewidth=1.2, label=label, **look)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="place in the video", ylabel="J")
        axes.legend(title="worst videos (mean J)", loc="center left", bbox_to_anchor=(1.01, 0.5))
        row = 0
        for name in chosen:
            if name in opened.videos:
                row += 1
                _strip(figure, grid, row, opened, opened.videos[name], tracks[name])
        return figure


def _course(track: Mapping[int, float], length: int, places: np.ndarray) -> np.ndarray:
    """J at places 0..1 of a video; beyond its scored frames the nearest one."""
    at = np.array(list(track)) / max(1, length - 1)
    return np.interp(places, at, list(track.values()))


def _strip(
    figure: Figure,
    grid: object,
    row: int,
    opened: EvaluationResults,
    video: Video,
    track: Mapping[int, float],
) -> None:
    frames = list(track)
    for column, t in enumerate(frames[round(p)] for p in np.linspace(0, len(frames) - 1, 5)):
        axes = figure.add_subplot(grid[row, column])  # type: ignore[index]
        bare(axes, overlay_sheet(video.frame(t), opened.mask(video, t), video.mask(t)))
        axes.set_title(f"{video.frame_names[t]}  J {track[t]:.2f}", fontsize=7, pad=2)
        if column == 0:
            axes.set_ylabel(video.name, fontsize=7)


def pareto(points: Mapping[str, tuple[float, float, float]]) -> Figure:
    """Accuracy against speed against memory, a point a policy; the line joins those that none beats in both.

    Args:
        points: label -> (J in percent, seconds a frame, MB).
    """
    with style():
        figure, axes = _axes(6.4, 4.0)
        j, seconds, mb = (np.array(values) for values in zip(*points.values(), strict=True))
        sizes = 40 + 200 * np.clip(np.log(mb / mb.min()) / np.log(4), 0, 1)  # four times as much: the largest
        for number, (label, (color, marker)) in enumerate(
            zip(points, zip(cycle(COLORS), cycle(MARKERS), strict=False), strict=False)
        ):
            axes.scatter(
                seconds[number] * 1000,
                j[number],
                sizes[number],
                color=color,
                marker=marker,
                edgecolor="white",
                linewidth=0.6,
                label=f"{label} ({mb[number]:.0f} MB)",
                zorder=3,
            )
        front = best_front(seconds, j)
        axes.plot(seconds[front] * 1000, j[front], color="#888888", linewidth=1, zorder=2)
        axes.set(xlabel="milliseconds a frame", ylabel="J in percent")
        axes.margins(0.12)
        axes.legend(
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            markerscale=0.7,
            title="area: memory in use at most",
        )
        return figure


def best_front(cost: np.ndarray, gain: np.ndarray) -> list[int]:
    """Places of the points that no other one beats in both, by growing cost."""
    front: list[int] = []
    for place in sorted(range(len(cost)), key=lambda p: (cost[p], -gain[p])):
        if not front or gain[place] > gain[front[-1]]:
            front.append(place)
    return front


def side_by_side(policies: Mapping[str, EvaluationResults], count: int = 4) -> Figure | None:
    """Figure 6: the policies' masks at the frames where they differ most, one frame a video.

    Args:
        policies: label -> evaluation of the same videos.
        count: frames, a row each.

    Returns:
        None where the videos are no longer there.
    """
    chosen = differing(list(policies.values()), count)
    if not chosen:
        return None
    videos = next(iter(policies.values())).videos
    with style():
        columns = len(policies) + 1
        figure = Figure(figsize=(1.7 * columns, 1.75 * len(chosen)), layout="constrained")
        grid = figure.subplots(len(chosen), columns, squeeze=False)
        for row, (name, t) in enumerate(chosen):
            video, truth = videos[name], videos[name].mask(t)
            assert truth is not None
            bare(grid[row, 0], overlay_sheet(video.frame(t), truth, None))
            grid[row, 0].set_ylabel(f"{name}\nframe {video.frame_names[t]}", fontsize=7)
            for column, (label, opened) in enumerate(policies.items(), start=1):
                axes = grid[row, column]
                bare(axes, overlay_sheet(video.frame(t), opened.mask(video, t), truth))
                j = opened.mean_j(name)[t]
                axes.set_title(f"{label}  J {j:.2f}" if row == 0 else f"J {j:.2f}", fontsize=8, pad=2)
        grid[0, 0].set_title("truth", fontsize=8, pad=2)
        return figure


def differing(evaluations: Sequence[EvaluationResults], count: int) -> list[tuple[str, int]]:
    """(video, frame) where J differs most between evaluations, one a video, the largest first.

    Frames that show no object are left out: there a single pixel decides between 0 and 1.
    """
    there = set.intersection(*(set(opened.videos) for opened in evaluations)) if evaluations else set()
    found = []
    for name in sorted(there):
        tracks, video = [opened.mean_j(name) for opened in evaluations], evaluations[0].videos[name]
        frames = set.intersection(*map(set, tracks))
        gaps = {t: max(track[t] for track in tracks) - min(track[t] for track in tracks) for t in frames}
        showing = (t for t in sorted(gaps, key=lambda t: (-gaps[t], t)) if _shows(video, t))
        if (t := next(showing, None)) is not None:
            found.append((gaps[t], name, t))
    return [(name, t) for _, name, t in sorted(found, key=lambda one: (-one[0], one[1]))[:count]]


def _shows(video: Video, t: int) -> bool:
    truth = video.mask(t)
    return truth is not None and bool(np.isin(truth, list(video.first_frames)).any())


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _looks(first: int = 0) -> Iterator[dict[str, Any]]:
    """How curves differ: by color and dashes; when the dashes begin again, by a marker as well."""
    for number in count(first):
        again, place = divmod(number, len(DASHES))
        yield {
            "color": COLORS[number % len(COLORS)],
            "linestyle": DASHES[place],
            "marker": ("", *MARKERS)[again % (1 + len(MARKERS))],
            "markersize": 4,
            "markevery": 0.1,  # of the diagonal
        }


def bare(axes: Axes, pixels: np.ndarray) -> None:
    """A picture, with nothing around it."""
    axes.imshow(pixels, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
