"""Confidence intervals of score differences by a paired bootstrap over videos."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """A mean difference with its confidence interval, and the number of videos behind it."""

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
    """Compute the mean difference ours - theirs over objects, with a percentile interval over videos.

    The scores of one video's objects are correlated, so each draw resamples videos with replacement.

    Args:
        ours: (video, object) -> score, such as J; the mean over training seeds where there are several.
        theirs: The scores to compare with; objects that only one side has are ignored.
        draws: Number of bootstrap draws.
        confidence: Fraction of the draws inside the interval, 0..1.
        seed: Seed of the draws.

    Returns:
        The difference; None where the two sides share fewer than two videos.
    """
    shared = sorted((key for key in ours if key in theirs), key=str)
    videos = sorted({video for video, _ in shared})
    if len(videos) < 2:
        return None
    index = {video: number for number, video in enumerate(videos)}
    sums, counts = np.zeros(len(videos)), np.zeros(len(videos))
    for key in shared:
        sums[index[key[0]]] += ours[key] - theirs[key]
        counts[index[key[0]]] += 1
    drawn = np.random.default_rng(seed).integers(len(videos), size=(draws, len(videos)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(float(sums.sum() / counts.sum()), float(low), float(high), len(videos))
