"""`stm calibrate`: the fitted exponent, and what the written network does with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_networks as small
from hypothesis import given
from hypothesis import strategies as st

import stm
from stm.cli import main as cli
from stm.evaluation.benchmarks import synthetic
from stm.evaluation.calibration import fit_exponent
from stm.evaluation.evaluate import evaluate
from stm.masks import read_mask
from stm.network import fingerprint

BENCHMARK = synthetic(count=2, pixels=48, frames=8, kind="plain")


def scored(checkpoint: Path, folder: Path) -> list[tuple[float, float]]:
    scores = evaluate(
        stm.load(checkpoint),
        None,
        BENCHMARK,
        folder,
        checkpoint=fingerprint(checkpoint),
        overlays=False,
        progress=False,
    )
    return [pair for sequence in scores.sequences for pair in sequence.confidence_and_j("score")]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.pth"
    state = {f"network.{name}": value for name, value in small.network().state_dict().items()}
    torch.save({"config": {"network": small.NETWORK}, "state_dict": state}, path)
    return path


def test_the_network_keeps_its_masks_and_gets_the_exponent(weights: Path, tmp_path: Path, capsys) -> None:
    before = scored(weights, tmp_path / "a")
    assert cli.run(["calibrate", str(tmp_path / "a"), str(weights), str(tmp_path / "new.pth")]) == 0
    exponent = stm.load(tmp_path / "new.pth").score_exponent
    assert exponent != 1 and f"score_exponent={exponent}" in capsys.readouterr().out
    after = scored(tmp_path / "new.pth", tmp_path / "b")
    assert np.allclose([s**exponent for s, _ in before], [s for s, _ in after], atol=2e-5)
    assert [j for _, j in before] == [j for _, j in after]
    for mask in sorted((tmp_path / "a" / "masks").rglob("*.png")):
        other = tmp_path / "b" / mask.relative_to(tmp_path / "a")
        assert np.array_equal(read_mask(mask), read_mask(other))


def test_strip_takes_the_exponent_of_another_training(weights: Path, tmp_path: Path, capsys) -> None:
    words = ["strip", str(weights), str(tmp_path / "new.pth"), "--score-exponent"]
    assert cli.run([*words, "0"]) == 2 and "--score-exponent" in capsys.readouterr().err
    assert cli.run([*words, "3.5"]) == 0
    before, after = stm.load(weights), stm.load(tmp_path / "new.pth")
    assert (before.score_exponent, after.score_exponent) == (1, 3.5)
    assert all(torch.equal(w, after.state_dict()[name]) for name, w in before.state_dict().items())


def test_an_evaluation_of_another_checkpoint_is_refused(weights: Path, tmp_path: Path, capsys) -> None:
    scored(weights, tmp_path / "a")
    other = tmp_path / "other.pth"
    other.write_bytes(stm.network.BUNDLED_CHECKPOINT.read_bytes())
    assert cli.run(["calibrate", str(tmp_path / "a"), str(other), str(tmp_path / "new.pth")]) == 2
    message = capsys.readouterr().err
    assert "must be an evaluation of other.pth" in message and "it is one of w.pth" in message
    assert cli.run(["calibrate", str(tmp_path), str(weights), str(tmp_path / "new.pth")]) == 2
    assert "must be the folder of a finished evaluation" in capsys.readouterr().err
    assert not (tmp_path / "new.pth").exists()


@given(st.floats(0.2, 8), st.lists(st.floats(0.05, 0.95), min_size=2, max_size=20))
def test_a_known_exponent_is_found(exponent: float, confidence: list[float]) -> None:
    found = fit_exponent(confidence, [value**exponent for value in confidence])
    assert abs(found / exponent - 1) < 0.007  # half a step of the grid


@pytest.mark.parametrize("exponent", [0, -1.0, float("nan"), float("inf")])
def test_invalid_exponents_are_refused(exponent: float) -> None:
    with pytest.raises(ValueError, match=r"score_exponent=.*: must be above 0"):
        small.network(score_exponent=exponent)
