"""Figures of the speed benchmark, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLORS = ("#8c8c8c", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colors of the plain reference and of ours, distinguishable for color-blind readers."""
STYLES = ("-", "--", ":")
COLUMNS = 4


def plot_comparison(rows: list[dict[str, Any]], folder: Path) -> None:
    """Plot seconds per frame and peak memory per setting, and below, seconds over the memory frames."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = list(dict.fromkeys(row["case"] for row in rows))
    forms = list(dict.fromkeys(row["form"] for row in rows))
    names = ["plain reference", *(f"ours, {form}" for form in forms)]
    grid_rows = -(-len(cases) // COLUMNS)
    top = 1.2 + 0.24 * len(cases) * len(names)
    figure = pyplot.figure(figsize=(13, top + 3.2 * grid_rows), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[top, 3.2 * grid_rows])
    time, memory = upper.subplots(1, 2, sharey=True)
    for axes, key, unit, label in (
        (time, "seconds_per_frame", 1, "seconds per frame (median)"),
        (memory, "extra_peak_bytes", 2**20, "peak memory beyond the loaded network, MB"),
    ):
        bars = []
        for row in rows:
            position = cases.index(row["case"])
            if row["form"] == forms[0]:
                bars.append((position, 0, row[key]["plain"] / unit))
            bars.append((position, 1 + forms.index(row["form"]), row[key]["ours"] / unit))
        _bars(axes, bars, len(names))
        axes.set(xlabel=label, yticks=range(len(cases)), yticklabels=cases)
    time.invert_yaxis()
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLORS[i]) for i in range(len(names))]
    upper.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    grid = lower.subplots(grid_rows, min(COLUMNS, len(cases)), squeeze=False)
    for axes, case in zip(grid.flat, cases, strict=False):
        _growth(axes, [row for row in rows if row["case"] == case])
    for axes in grid.flat[len(cases) :]:
        axes.set_axis_off()
    _write(figure, folder / "comparison")


def _bars(axes: Any, bars: list[tuple[int, int, float]], sides: int) -> None:
    """Plot horizontal bars (setting, side, length), each with its value."""
    height = 0.8 / sides
    longest = max(length for _, _, length in bars)
    for position, side, length in bars:
        y = position + (side - (sides - 1) / 2) * height
        axes.barh(y, length, height * 0.92, color=COLORS[side])
        axes.text(length + 0.01 * longest, y, f"{length:.3g}", va="center", fontsize=8)
    axes.set_xlim(0, 1.12 * longest)
    axes.spines[["top", "right"]].set_visible(False)


def _growth(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Plot the median seconds per number of memory frames, for the reference and each form of ours."""
    import numpy as np

    for i, row in enumerate(rows):
        lengths = np.array(row["memory_frames"])
        present = np.unique(lengths)
        for side, color in (("plain", COLORS[0]), ("ours", COLORS[i + 1])):
            if side == "ours" or (i == 0 and row["parity"]):  # else its memory is another
                seconds = np.array(row["seconds"][side])
                medians = np.array([np.median(seconds[lengths == length]) for length in present])
                axes.plot(present, medians, "o-", color=color, markersize=4)
    axes.set_title(rows[0]["case"], fontsize=9)
    axes.set(xlabel="frames in memory", ylabel="seconds per frame")
    axes.set_ylim(0, 1.08 * max(line.get_ydata().max() for line in axes.lines))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)


def plot_long(rows: list[dict[str, Any]], folder: Path) -> None:
    """Plot time, peak memory and memory size over the frames, with a line for each setting."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    is_single_setting = len({row["case"].replace(row["policy"], "") + row["form"] for row in rows}) == 1
    part = max(1, len(rows[0]["seconds"]) // 100)
    labels = (
        "milliseconds per frame" + (f" (median of {part} frames)" if part > 1 else ""),
        "peak memory beyond the loaded network, MB",
        "keys and values held, MB",
    )
    measures = ("seconds", 1e-3, np.median), ("peak_bytes", 2**20, np.max), ("memory_bytes", 2**20, np.max)
    for axes, label, (measure, unit, pick) in zip(panels, labels, measures, strict=True):
        for i, row in enumerate(rows):
            values = np.array(row[measure]) / unit
            parts = values[: len(values) // part * part].reshape(-1, part)
            middles = part * (np.arange(len(parts)) + 0.5)
            name = row["policy"] if is_single_setting else f"{row['case']}, {row['form']}"
            ours = COLORS[1:]
            color, dashes = ours[i % len(ours)], STYLES[i // len(ours) % len(STYLES)]
            axes.plot(middles, pick(parts, axis=1), color=color, linestyle=dashes, label=name)
        axes.set(xlabel="frame", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(7 if is_single_setting else 3, len(rows)),
        frameon=False,
    )
    if is_single_setting:
        setting = rows[0]["case"].replace(f", {rows[0]['policy']}", "")
        figure.suptitle(f"{setting}, network {rows[0]['network']}, {rows[0]['form']}")
    _write(figure, folder / "long_video")


def _write(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    for ending in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{ending}"), dpi=120)
    pyplot.close(figure)
