"""Figure 5 from an evaluation: the same numbers as a segmenter of its own gives, drawn and commanded."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_networks import network, save
from PIL import Image
from typer.testing import CliRunner

from stm.analysis import attention_figure
from stm.analysis.evaluation_results import EvaluationResults
from stm.analysis.figures import figure_to_png
from stm.analysis.frame_attention import attend_frame, attend_frame_from_results
from stm.cli.main import app
from stm.evaluation.benchmarks import synthetic
from stm.evaluation.evaluate import evaluate
from stm.inference import Segmenter
from stm.memory import MemoryPolicy
from stm.network import fingerprint
from stm.video import ArrayVideo

BENCHMARK = {"count": 1, "kind": "plain", "pixels": 48, "frames": 9, "split": "test"}


@pytest.fixture(scope="module")
def video() -> ArrayVideo:
    """A square that stays; its color is its own. The first two frames show nothing."""
    rng = np.random.default_rng(0)
    frames = rng.integers(90, 110, (9, 48, 64, 3)).astype(np.uint8)
    masks = np.zeros((9, 48, 64), dtype=np.uint8)
    masks[:, 16:32, 16:32] = 5
    frames[masks > 0] = (250, 20, 20)
    return ArrayVideo("square", frames, masks, {5: 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What `evaluate.py` leaves, of an untrained network."""
    job = tmp_path_factory.mktemp("evaluation")
    net, path = network(), save(job / "weights.ckpt")
    evaluate(
        net, MemoryPolicy(every=3), synthetic(**BENCHMARK), job, checkpoint=fingerprint(path), progress=False
    )
    (job / ".hydra").mkdir()
    values = "".join(f"  {key}: {value}\n" for key, value in BENCHMARK.items())
    config = f"checkpoint: {path}\nbenchmark:\n  _target_: stm.evaluation.benchmarks.synthetic\n{values}"
    (job / ".hydra" / "config.yaml").write_text(config)
    return job


# --- what is looked at ---


def test_a_pixel_looks_as_the_segmenter_tells(video):
    """Frames are numbered as in the video, though its segmenter begins at the first mask."""
    net, policy = network(), MemoryPolicy(every=3)
    seen = attend_frame(net, policy, video, 5, 7, [(20, 40)])
    segmenter = Segmenter(net, policy)
    for t in range(2, 8):
        with torch.inference_mode():
            segmenter.step(video.frame(t), video.prompt_mask(t))
    expected = segmenter.attention(5, at=(20, 40))
    assert list(seen.maps) == [t + 2 for t in expected.maps] == [2, 5, 6]
    for t, weights in expected.maps.items():
        assert seen.shares[t + 2] == pytest.approx(float(weights.sum()))
        np.testing.assert_allclose(seen.maps[t + 2][::16, ::16], weights.numpy())
        assert (seen.maps[t + 2][:16, :16] == seen.maps[t + 2][0, 0]).all(), (
            "each pixel has its cell's weight"
        )
    np.testing.assert_array_equal(seen.masks[2], video.mask(2) == 5)


def test_at_another_size_pixels_are_those_of_the_frame(video):
    """The network sees half of the size; a pixel is in the cell that covers it."""
    net = network()
    near = attend_frame(net, MemoryPolicy(), video, 5, 5, [(33, 63)], size=24)
    same = attend_frame(
        net, MemoryPolicy(), video, 5, 5, [(47, 60)], size=24
    )  # rows 16.. of 24 are one row of cells
    other = attend_frame(net, MemoryPolicy(), video, 5, 5, [(10, 63)], size=24)
    assert near.maps[2].shape == (48, 64)
    for t in near.maps:
        np.testing.assert_array_equal(near.maps[t], same.maps[t])
    assert any((near.maps[t] != other.maps[t]).any() for t in near.maps)


def test_several_pixels_are_their_mean(video):
    net, policy = network(), MemoryPolicy()
    both = attend_frame(net, policy, video, 5, 6, [(3, 3), (40, 60)])
    ones = [attend_frame(net, policy, video, 5, 6, [pixel]) for pixel in both.pixels]
    for t in both.maps:
        np.testing.assert_allclose(both.maps[t], (ones[0].maps[t] + ones[1].maps[t]) / 2, atol=1e-6)


def test_over_time(folder):
    """Of each frame in which the object is found: what all of it reads; it is all that is read."""
    opened = EvaluationResults(folder)
    (name,) = opened.sequences
    seen = attend_frame_from_results(opened, name)
    for t in range(1, seen.t + 1):
        found = (opened.mask(seen.video, t) == seen.object).any()
        assert found == (t in seen.over_time)
    for t, shares in seen.over_time.items():
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert set(shares) == {m for m in range(t) if m % 3 == 0 or m == t - 1}
    assert seen.over_time[seen.t] == pytest.approx(seen.shares)
    np.testing.assert_array_equal(seen.region, opened.mask(seen.video, seen.t) == seen.object)


# --- drawn ---


def test_the_triangle(folder):
    seen = attend_frame_from_results(
        EvaluationResults(folder), next(iter(EvaluationResults(folder).sequences))
    )
    triangle, t = attention_figure.held(seen), seen.t
    assert np.isnan(triangle[t:, t]).all() and not np.isnan(triangle[:t, t]).any()
    assert triangle[1, t] == triangle[2, t] == seen.shares[0] and triangle[t - 1, t] == seen.shares[t - 1]


def test_frames_that_are_read_most_are_shown(folder):
    seen = attend_frame_from_results(
        EvaluationResults(folder), next(iter(EvaluationResults(folder).sequences))
    )
    few = attention_figure.most_read(seen, 3)
    assert few == sorted(few) and {min(seen.shares), max(seen.shares)} < set(few)
    left_out = set(seen.shares) - set(few)
    (between,) = set(few) - {min(seen.shares), max(seen.shares)}
    assert all(seen.shares[m] <= seen.shares[between] for m in left_out)
    figure = attention_figure.plot_attention_maps([seen], columns=3)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[1:] == [f"{seen.video.frame_names[m]}: {seen.shares[m]:.1%}" for m in few]


def test_the_lines_are_told_apart_without_color(video):
    seen = attend_frame(network(), MemoryPolicy(), video, 5, 7, [(1, 1)])
    figure = attention_figure.plot_attention_over_time([seen, seen])
    assert len({line.get_linestyle() for line in figure.axes[0].lines}) == 3
    assert figure_to_png(figure, "png") == figure_to_png(
        attention_figure.plot_attention_over_time([seen, seen]), "png"
    )


# --- commanded ---


def commanded(*words) -> str:
    done = CliRunner().invoke(app, ["attention", *map(str, words)], standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.output


def test_the_command(folder, tmp_path):
    (name,) = EvaluationResults(folder).sequences
    output = commanded(
        folder, "--sequence", name, "--frame", "00006", "--object", 1, "--at", "5,7", "--output", tmp_path
    )
    seen = attend_frame_from_results(EvaluationResults(folder), name, 1, "00006", [(5, 7)])
    assert output.startswith(f"{name}, frame 00006, object 1 reads 00000 {seen.shares[0]:.1%}, 00003 ")
    for stem in ("attention", "attention_over_time"):
        assert np.asarray(Image.open(tmp_path / f"{stem}.png").convert("L")).std() > 5
        assert "<svg" in (tmp_path / f"{stem}.svg").read_text()[:1000]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sequence", "swan"], "there is no video 'swan'; there are plain-test-0-0000"),
        (["--frame", "7"], "there is no frame '7'; there are 00000 ... 00008"),
        (["--object", "9", "--frame", "00004"], "there is no object 9; there are [1"),
        (["--object", "1", "--frame", "00000"], "object 1 is looked up in frames 1..8, not in 0"),
        (["--at", "5"], "--at 5: a pixel is ROW,COLUMN, such as 120,200"),
        (["--at", "48,0"], "pixel 48,0: a pixel is ROW,COLUMN within 48,48"),
    ],
)
def test_mistakes(folder, words, told):
    with pytest.raises(ValueError) as caught:
        commanded(folder, *words)
    assert told in str(caught.value)


def test_another_checkpoint_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = copy / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace(str(folder), str(copy)))
    (copy / "weights.ckpt").write_bytes(b"another")
    with pytest.raises(ValueError, match="was evaluated, .* is weights.ckpt sha256:.* now"):
        commanded(copy)
    (copy / "weights.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="its checkpoint .*weights.ckpt is no longer there"):
        commanded(copy)
    with pytest.raises(FileNotFoundError, match="no scores.json"):
        commanded(tmp_path)
