"""The paired bootstrap, against a plain loop and where the answer is known."""

import numpy as np
import pytest

from stm.sweeps.bootstrap import paired_bootstrap


def scores(rng, videos=12, effect=0.0, noise=0.1):
    """Return the scores of two sides on the same videos, some of which have several objects."""
    ours, theirs = {}, {}
    for video in range(videos):
        level = rng.uniform(0.2, 0.9)
        for label in range(1, 1 + video % 3 + 1):
            theirs[f"v{video}", label] = level
            ours[f"v{video}", label] = level + effect + rng.normal(0, noise)
    return ours, theirs


def test_agrees_with_a_plain_loop():
    ours, theirs = scores(np.random.default_rng(3), effect=0.05)
    difference = paired_bootstrap(ours, theirs, draws=4000)
    videos = sorted({video for video, _ in ours})
    rng, means = np.random.default_rng(77), []
    for _ in range(4000):
        differences = []
        for video in rng.choice(videos, len(videos)):
            differences += [ours[key] - theirs[key] for key in ours if key[0] == video]
        means.append(np.mean(differences))
    assert difference.mean == pytest.approx(np.mean([ours[key] - theirs[key] for key in ours]))
    assert difference.low == pytest.approx(np.quantile(means, 0.025), abs=0.004)
    assert difference.high == pytest.approx(np.quantile(means, 0.975), abs=0.004)
    assert difference.videos == 12


def test_variation_between_videos_does_not_widen_the_interval():
    """Videos differ far more than the sides do: an unpaired interval would include 0."""
    ours, theirs = scores(np.random.default_rng(0), videos=40, effect=0.03, noise=0.02)
    difference = paired_bootstrap(ours, theirs)
    assert 0.02 < difference.low < difference.mean < difference.high < 0.04


def test_equal_sides_have_no_difference():
    ours, _ = scores(np.random.default_rng(1))
    assert paired_bootstrap(ours, ours)[:3] == (0, 0, 0)


def test_interval_covers_the_true_difference_as_often_as_promised():
    rng, covered = np.random.default_rng(5), 0
    for _ in range(200):
        difference = paired_bootstrap(*scores(rng, videos=30, effect=0.1), draws=500)
        covered += difference.low <= 0.1 <= difference.high
    assert 0.88 <= covered / 200 <= 0.99


def test_objects_of_one_side_are_ignored():
    ours = {("a", 1): 0.5, ("b", 1): 0.7, ("c", 1): 0.0}
    theirs = {("a", 1): 0.4, ("b", 1): 0.6, ("d", 1): 1.0}
    difference = paired_bootstrap(ours, theirs)
    assert difference.mean == pytest.approx(0.1) and difference.videos == 2
    assert paired_bootstrap({("a", 1): 1.0}, {("a", 1): 0.5}) is None, "one video has no spread"
