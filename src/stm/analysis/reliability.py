"""Reliability diagram: confidence against the J that is reached."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from stm.analysis.figures import COLORS, figure_style
from stm.evaluation.calibration import BINS, Calibration

CAPTION = (
    "Confidence against J, for every object in every scored frame. A bar is the mean J of the frames whose "
    "confidence is in that range, a dot their mean confidence; the dashed line is perfect calibration. The "
    "lower plot shows the number of frames."
)
HEADS = ("confidence", "frames", "expected calibration error", "confidence - J", "AUROC of lost objects")
NAMES = {"inside": "mean probability inside the mask", "score": "expected overlap (score)"}


def plot_reliability(calibrations: Mapping[str, Calibration]) -> Figure:
    """Plot the reliability diagram of each confidence, `inside` and `score`."""
    with figure_style():
        figure = Figure(figsize=(3.5 * len(calibrations), 4.0), layout="constrained")
        grid = figure.subplots(
            2, len(calibrations), squeeze=False, sharex="col", sharey="row", height_ratios=[3, 1]
        )
        for (kind, calibration), top, bottom in zip(calibrations.items(), *grid, strict=True):
            bins = [(index / BINS, bin_) for index, bin_ in enumerate(calibration.bins) if bin_]
            left = np.array([start for start, _ in bins])
            j, confidence, counts = zip(*((b.j, b.confidence, b.count) for _, b in bins), strict=True)
            top.bar(left, j, 1 / BINS, align="edge", color=COLORS[5], edgecolor="black")
            top.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1)
            top.plot(confidence, j, "o", color=COLORS[1], markeredgecolor="black")
            top.set(xlim=(0, 1), ylim=(0, 1.02), title=f"{NAMES[kind]}\n{describe_calibration(calibration)}")
            top.title.set_fontsize(8)
            bottom.bar(left, counts, 1 / BINS, align="edge", color="#bbbbbb", edgecolor="black")
            bottom.set(xlabel="confidence", yscale="log", ylim=(0.5, None))
        grid[0, 0].set_ylabel("J")
        grid[1, 0].set_ylabel("frames")
        return figure


def describe_calibration(calibration: Calibration) -> str:
    """Return the numbers in a line, such as `ECE 0.041, bias +0.020, AUROC of lost objects 0.97`."""
    lost = "" if calibration.lost is None else f", AUROC of lost objects {calibration.lost:.2f}"
    return f"ECE {calibration.ece:.3f}, bias {calibration.bias:+.3f}{lost}"


def calibration_cells(calibration: Calibration) -> list[str]:
    """Return the numbers for the columns of `HEADS`, except the first one."""
    lost = "-" if calibration.lost is None else f"{calibration.lost:.3f}"
    return [str(calibration.count), f"{calibration.ece:.3f}", f"{calibration.bias:+.3f}", lost]
