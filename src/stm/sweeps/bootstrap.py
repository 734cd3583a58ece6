"""How sure is a difference? Videos drawn again and again, both sides on the same ones."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """A mean difference and the interval that holds it with the confidence asked for."""

    mean: float
    low: float
    high: float
    videos: int


def paired_bootstrap(
    ours: Mapping[tuple[str, Hashable], float],
    theirs: Mapping[tuple[str, Hashable], float],
    draws: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference | None:
    """The difference ours - theirs, its mean over objects, with a percentile interval over videos.

    Objects of one video stand or fall together, so whole videos are drawn, with replacement.

    Args:
        ours: (video, object) -> a score, such as J. Where there are several training seeds, their mean.
        theirs: the same; what only one side has is left out.
        draws: how often videos are drawn.
        confidence: share of the draws inside the interval, 0..1.
        seed: of the draws.

    Returns:
        None where fewer than two videos have both.
    """
    both = sorted((key for key in ours if key in theirs), key=str)
    videos = sorted({video for video, _ in both})
    if len(videos) < 2:
        return None
    place = {video: number for number, video in enumerate(videos)}
    sums, counts = np.zeros(len(videos)), np.zeros(len(videos))
    for key in both:
        sums[place[key[0]]] += ours[key] - theirs[key]
        counts[place[key[0]]] += 1
    drawn = np.random.default_rng(seed).integers(len(videos), size=(draws, len(videos)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(float(sums.sum() / counts.sum()), float(low), float(high), len(videos))
