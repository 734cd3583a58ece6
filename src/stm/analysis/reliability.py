"""The reliability diagram: what does J come to be where the network is so sure?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from stm.analysis.figures import COLORS, style
from stm.evaluation.calibration import BINS, Calibration

CAPTION = (
    "Confidence against J, of every object on every frame that counts. A bar is the mean J of the frames "
    "whose confidence lies there, a dot their mean confidence: on the dashed line where they are the same. "
    "Below, how many of the frames these are."
)
HEADS = ("confidence", "frames", "expected calibration error", "confidence - J", "lost objects told apart")
NAMES = {"inside": "mean probability inside the mask", "score": "expected overlap (score)"}


def reliability(calibrations: Mapping[str, Calibration]) -> Figure:
    """The diagram of each confidence, `inside` and `score`."""
    with style():
        figure = Figure(figsize=(3.5 * len(calibrations), 4.0), layout="constrained")
        grid = figure.subplots(
            2, len(calibrations), squeeze=False, sharex="col", sharey="row", height_ratios=[3, 1]
        )
        left = np.arange(BINS) / BINS
        for (kind, told), above, below in zip(calibrations.items(), *grid, strict=True):
            there = [number for number, one in enumerate(told.bins) if one]
            bins = [one for one in told.bins if one]
            above.bar(
                left[there],
                [one.j for one in bins],
                1 / BINS,
                align="edge",
                color=COLORS[5],
                edgecolor="black",
            )
            above.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1)
            above.plot(
                [one.confidence for one in bins],
                [one.j for one in bins],
                "o",
                color=COLORS[1],
                markeredgecolor="black",
            )
            above.set(xlim=(0, 1), ylim=(0, 1.02), title=f"{NAMES[kind]}\n{describe_calibration(told)}")
            above.title.set_fontsize(8)
            counts = [one.count for one in bins]
            below.bar(left[there], counts, 1 / BINS, align="edge", color="#bbbbbb", edgecolor="black")
            below.set(xlabel="confidence", yscale="log", ylim=(0.5, None))
        grid[0, 0].set_ylabel("J")
        grid[1, 0].set_ylabel("frames")
        return figure


def describe_calibration(told: Calibration) -> str:
    """Its numbers, such as `ECE 0.041, bias +0.020, lost told apart 0.97`."""
    lost = "" if told.lost is None else f", lost told apart {told.lost:.2f}"
    return f"ECE {told.ece:.3f}, bias {told.bias:+.3f}{lost}"


def row_of(told: Calibration) -> list[str]:
    """The same for a table below `HEADS`, its first cell left out."""
    lost = "-" if told.lost is None else f"{told.lost:.3f}"
    return [str(told.count), f"{told.ece:.3f}", f"{told.bias:+.3f}", lost]
