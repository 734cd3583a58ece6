"""Attention of an evaluation (Figure 5): values equal to those of a plain Segmenter, figures, command."""

import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from helpers.small_networks import network, save
from PIL import Image
from typer.testing import CliRunner

from stm.analysis import attention_figure
from stm.analysis.evaluation_results import EvaluationResults
from stm.analysis.figures import encode_figure
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
    """A static square of a unique color; the first two frames have no mask."""
    rng = np.random.default_rng(0)
    frames = rng.integers(90, 110, (9, 48, 64, 3)).astype(np.uint8)
    masks = np.zeros((9, 48, 64), dtype=np.uint8)
    masks[:, 16:32, 16:32] = 5
    frames[masks > 0] = (250, 20, 20)
    return ArrayVideo("square", frames, masks, {5: 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Folder of an evaluation of an untrained network."""
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


# --- values ---


def test_the_attention_of_a_pixel_equals_that_of_the_segmenter(video):
    """Frames are numbered as in the video, although its segmenter starts at the first mask."""
    net, policy = network(), MemoryPolicy(every=3)
    attention = attend_frame(net, policy, video, 5, 7, [(20, 40)])
    segmenter = Segmenter(net, policy)
    for t in range(2, 8):
        with torch.inference_mode():
            segmenter.step(video.frame(t), video.prompt_mask(t))
    expected = segmenter.attention(5, at=(20, 40))
    assert list(attention.maps) == [t + 2 for t in expected.maps] == [2, 5, 6]
    for t, weights in expected.maps.items():
        assert attention.shares[t + 2] == pytest.approx(float(weights.sum()))
        np.testing.assert_allclose(attention.maps[t + 2][::16, ::16], weights.numpy())
        assert (attention.maps[t + 2][:16, :16] == attention.maps[t + 2][0, 0]).all(), (
            "a pixel lacks the weight of its cell"
        )
    np.testing.assert_array_equal(attention.masks[2], video.mask(2) == 5)


def test_pixels_refer_to_the_frame_at_its_own_size(video):
    """The network sees the frame at half its size; a pixel belongs to the cell that covers it."""
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


def test_the_attention_of_several_pixels_is_their_mean(video):
    net, policy = network(), MemoryPolicy()
    both = attend_frame(net, policy, video, 5, 6, [(3, 3), (40, 60)])
    single = [attend_frame(net, policy, video, 5, 6, [pixel]) for pixel in both.pixels]
    for t in both.maps:
        np.testing.assert_allclose(both.maps[t], (single[0].maps[t] + single[1].maps[t]) / 2, atol=1e-6)


def test_the_shares_over_time_cover_each_frame_that_shows_the_object(folder):
    results = EvaluationResults(folder)
    (name,) = results.sequences
    attention = attend_frame_from_results(results, name)
    for t in range(1, attention.t + 1):
        found = (results.mask(attention.video, t) == attention.object).any()
        assert found == (t in attention.over_time)
    for t, shares in attention.over_time.items():
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert set(shares) == {m for m in range(t) if m % 3 == 0 or m == t - 1}
    assert attention.over_time[attention.t] == pytest.approx(attention.shares)
    np.testing.assert_array_equal(
        attention.region, results.mask(attention.video, attention.t) == attention.object
    )


# --- figures ---


def test_the_share_matrix(folder):
    attention = attend_frame_from_results(
        EvaluationResults(folder), next(iter(EvaluationResults(folder).sequences))
    )
    triangle, t = attention_figure.share_matrix(attention), attention.t
    assert np.isnan(triangle[t:, t]).all() and not np.isnan(triangle[:t, t]).any()
    assert (
        triangle[1, t] == triangle[2, t] == attention.shares[0]
        and triangle[t - 1, t] == attention.shares[t - 1]
    )


def test_the_most_read_frames_are_shown(folder):
    attention = attend_frame_from_results(
        EvaluationResults(folder), next(iter(EvaluationResults(folder).sequences))
    )
    few = attention_figure.most_read(attention, 3)
    assert few == sorted(few) and {min(attention.shares), max(attention.shares)} < set(few)
    omitted = set(attention.shares) - set(few)
    (between,) = set(few) - {min(attention.shares), max(attention.shares)}
    assert all(attention.shares[m] <= attention.shares[between] for m in omitted)
    figure = attention_figure.plot_attention_maps([attention], columns=3)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[1:] == [f"{attention.video.frame_names[m]}: {attention.shares[m]:.1%}" for m in few]


def test_lines_differ_without_color(video):
    attention = attend_frame(network(), MemoryPolicy(), video, 5, 7, [(1, 1)])
    figure = attention_figure.plot_attention_over_time([attention, attention])
    assert len({line.get_linestyle() for line in figure.axes[0].lines}) == 3
    assert encode_figure(figure, "png") == encode_figure(
        attention_figure.plot_attention_over_time([attention, attention]), "png"
    )


# --- command ---


def run_command(*words) -> str:
    done = CliRunner().invoke(app, ["attention", *map(str, words)], standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.output


def test_the_command(folder, tmp_path):
    (name,) = EvaluationResults(folder).sequences
    output = run_command(
        folder, "--sequence", name, "--frame", "00006", "--object", 1, "--at", "5,7", "--output", tmp_path
    )
    attention = attend_frame_from_results(EvaluationResults(folder), name, 1, "00006", [(5, 7)])
    assert output.startswith(f"{name}, frame 00006, object 1 reads 00000 {attention.shares[0]:.1%}, 00003 ")
    for stem in ("attention", "attention_over_time"):
        assert np.asarray(Image.open(tmp_path / f"{stem}.png").convert("L")).std() > 5
        assert "<svg" in (tmp_path / f"{stem}.svg").read_text()[:1000]


def test_a_video_that_is_worst_median_and_best_is_drawn_once(folder, tmp_path):
    assert run_command(folder, "--output", tmp_path).count(" reads ") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sequence", "swan"], "sequence=swan: must be one of plain-test-0-0000"),
        (["--frame", "7"], "frame=7: must be in 00000 ... 00008"),
        (["--object", "9", "--frame", "00004"], "object=9: must be one of 1"),
        (["--object", "1", "--frame", "00000"], "frame=0: must be in 1..8"),
        (["--at", "5"], "--at 5: must be a pixel ROW,COLUMN such as 120,200"),
        (["--at", "48,0"], "pixel=48,0: must be ROW,COLUMN within 48,48"),
    ],
)
def test_user_errors(folder, words, message):
    with pytest.raises(ValueError) as caught:
        run_command(folder, *words)
    assert message in str(caught.value)


def test_without_the_data_the_error_names_folder_and_source(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / ".hydra" / "config.yaml").write_text(
        f"benchmark:\n  _target_: stm.evaluation.benchmarks.davis\n  root: {tmp_path / 'gone'}\n"
    )
    with pytest.raises(ValueError, match=rf"^{copy}: must be .* \(48 pixels\) can be read$"):
        run_command(copy)


def test_a_checkpoint_at_an_address(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config, address = copy / ".hydra" / "config.yaml", "memory://attention/weights.ckpt"
    config.write_text(config.read_text().replace(str(folder / "weights.ckpt"), address))
    with pytest.raises(FileNotFoundError, match=f"{address} no longer exists"):
        run_command(copy)
    fsspec.filesystem("memory").put_file(str(folder / "weights.ckpt"), "/attention/weights.ckpt")
    ours, theirs = EvaluationResults(copy).network, EvaluationResults(folder).network
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_a_replaced_checkpoint_is_an_error(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = copy / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace(str(folder), str(copy)))
    (copy / "weights.ckpt").write_bytes(b"another")
    with pytest.raises(
        ValueError, match="must be the evaluated weights.ckpt sha256:.*; got weights.ckpt sha256:"
    ):
        run_command(copy)
    (copy / "weights.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="the checkpoint .*weights.ckpt no longer exists"):
        run_command(copy)
    with pytest.raises(FileNotFoundError, match="no scores.json"):
        run_command(tmp_path)
