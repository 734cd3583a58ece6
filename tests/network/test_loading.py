"""The network that ships with the package against its model card, and `stm strip`, which made its file."""

import json
import pickletools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import fsspec
import numpy as np
import pytest
import torch
from helpers import small_networks as small
from helpers.commands import ROOT
from helpers.data_trees import boxes, smooth_image
from PIL import Image

import stm
from stm.cli import main as cli
from stm.evaluation.benchmarks import davis
from stm.evaluation.evaluate import validate
from stm.evaluation.metrics import region_similarity
from stm.masks import write_mask
from stm.memory import MemoryPolicy
from stm.network import BUNDLED_CHECKPOINT, fingerprint, load, strip
from stm.training.resume import find_resume_checkpoint

CARD = BUNDLED_CHECKPOINT.with_suffix(".md").read_text()
SCORES = {
    name: (float(j), float(f))
    for name, j, f in re.findall(r"^\| ([\w-]+) \| (\.\d+) \| (\.\d+) \|$", CARD, re.MULTILINE)
}
"""Clip -> J and F at 320 rows."""


def paths(file: Path) -> list[str]:
    """Return every text in a file of weights that may be a path or the name of a machine."""
    with ZipFile(file) as archive:
        assert all(name.startswith("archive/") for name in archive.namelist())
        operations = pickletools.genops(archive.read("archive/data.pkl"))
    texts = {text for _, text, _ in operations if isinstance(text, str)}
    assert "network.memory_encoder.mask_stem.weight" in texts
    return [text for text in texts if re.search(r"[/\\@:]", text)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_real_clip_is_tracked(dtype: torch.dtype, shared_data: Path) -> None:
    (video,) = davis(shared_data / "DAVIS", only=["blackswan"]).videos
    segmenter = stm.Segmenter(stm.load(BUNDLED_CHECKPOINT), size=160)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        segmenter.step(video.frame(0), video.mask(0))
        masks = [segmenter.labels(segmenter.step(video.frame(t))) for t in range(1, 6)]
    truth = np.stack([video.mask(t) for t in range(1, 6)])
    assert region_similarity(truth == 1, np.stack(masks) == 1).mean() > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORES)
def test_the_scores_of_the_card_are_those_of_the_file(name: str, shared_data: Path) -> None:
    benchmark = davis(shared_data / "DAVIS", size=320, only=[name])
    scores = validate(stm.load(BUNDLED_CHECKPOINT), MemoryPolicy(), benchmark).overall
    assert (scores["J-Mean"], scores["F-Mean"]) == pytest.approx(SCORES[name], abs=3e-3)


def test_the_card_describes_the_file() -> None:
    network = stm.load(BUNDLED_CHECKPOINT)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert f"{count:,} parameters" in CARD
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert BUNDLED_CHECKPOINT.stat().st_size < 8e6
    for file in re.findall(r"`(conf/[\w/]+\.yaml)`", CARD):
        assert (ROOT / file).exists(), file
    state = torch.load(BUNDLED_CHECKPOINT, weights_only=True)
    assert state.keys() == {"config", "state_dict"} and state["config"].keys() == {"network"}
    assert not paths(BUNDLED_CHECKPOINT)


def test_load_without_a_path_warns() -> None:
    with pytest.warns(UserWarning, match="network that ships with stm.*STM_weights.pth.*train"):
        network = stm.load()
    explicit = stm.load(BUNDLED_CHECKPOINT)
    for name, tensor in explicit.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_the_warning_is_shown_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            stm.load()
        stm.load()
    assert len(caught) == 1


def test_load_with_a_path_does_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    stm.load(BUNDLED_CHECKPOINT)
    assert not recwarn.list


def checkpoint(path: Path, **changes: object) -> Path:
    """Write a checkpoint as in training, with the optimizer's state and settings that contain paths."""
    network = small.network(**changes)
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    config = {
        "network": {"_target_": "stm.network.STM", **small.NETWORK, **changes, "pretrained": True},
        "output_root": "/home/someone/runs",
    }
    optimizer = [{"state": {n: torch.zeros_like(t) for n, t in weights.items()}}]
    torch.save({"config": config, "state_dict": weights, "optimizer_states": optimizer}, path)
    return path


@pytest.mark.parametrize("changes", [{}, {"backbone": "tiny", "key_input": "image", "similarity": "l2"}])
def test_strip_keeps_only_the_network(changes: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    full, stripped = checkpoint(tmp_path / "best.ckpt", **changes), tmp_path / "new" / "w.pth"
    assert "/home/someone/runs" in torch.load(full, weights_only=True)["config"].values()
    assert cli.run(["strip", str(full), str(stripped)]) == 0
    assert "MB" in capsys.readouterr().out
    assert [path.name for path in stripped.parent.iterdir()] == ["w.pth"]
    assert not paths(stripped)
    frame, mask = small.frames(1)[0] / 255, small.channels(small.masks(1, 2)[0], 2)
    with torch.inference_mode():
        logits, expected = (
            network.segment(frame, [part[:, :, None] for part in network.memorize(frame, mask)])
            for network in (stm.load(stripped), stm.load(full))
        )
    assert torch.equal(logits, expected)


def test_strip_writes_the_same_bytes_in_float32(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    strip(path, tmp_path / "1.pth")
    strip(path, tmp_path / "2.pth")
    assert (tmp_path / "1.pth").read_bytes() == (tmp_path / "2.pth").read_bytes()
    state = torch.load(path, weights_only=True)
    state["state_dict"] = {name: tensor.half() for name, tensor in state["state_dict"].items()}
    torch.save(state, path)
    strip(path, tmp_path / "3.pth")
    stripped = torch.load(tmp_path / "3.pth", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in stripped.values()} == {torch.float32}


def test_strip_rejects_other_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    torch.save({"Encoder_M.conv1.weight": torch.zeros(1)}, tmp_path / "official.pth")
    torch.save({"config": {"network": [1]}, "state_dict": {}}, tmp_path / "odd.pth")
    torch.save({"config": {"network": {"backbone": "nosuch"}}, "state_dict": {}}, tmp_path / "timm.pth")
    (tmp_path / "existing.pth").write_bytes(b"mine")
    for words, message in [
        (["odd.pth", "new.pth"], "odd.pth: its weights do not fit its configuration"),
        (["timm.pth", "new.pth"], "timm.pth: its weights do not fit its configuration: backbone=nosuch"),
        (["none.ckpt", "new.pth"], "none.ckpt does not exist"),
        (["official.pth", "new.pth"], "is not of this project"),
        (["existing.pth", "new.pth"], "cannot be read"),
        ([path.name, "existing.pth"], "must be a new file; it already exists"),
        ([path.name, "."], "must be a file such as"),
    ]:
        assert cli.run(["strip", *(str(tmp_path / word) for word in words)]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "existing.pth").read_bytes() == b"mine" and not list(tmp_path.glob(".*"))


def test_segment_and_track_name_the_network_of_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "frames").mkdir()
    for t in range(3):
        Image.fromarray(smooth_image(t, (40, 60))).save(tmp_path / "frames" / f"{t}.png")
    write_mask(tmp_path / "m.png", boxes({1: (5, 5, 20, 25)}))
    first, last = tmp_path / "frames" / "0.png", tmp_path / "frames" / "2.png"
    mask, out = tmp_path / "m.png", tmp_path / "out"
    for words, file in [
        (
            [
                "segment",
                "--ref-img",
                first,
                "--ref-mask",
                mask,
                "--query-img",
                last,
                "--output",
                out / "p.json",
            ],
            out / "p.json",
        ),
        (
            ["track", "--video", tmp_path / "frames", "--mask", mask, "--output", out / "t"],
            out / "t/track.json",
        ),
    ]:
        assert cli.run(list(map(str, words))) == 0
        errors = capsys.readouterr().err
        assert (
            "network that ships with stm" in errors
            and "STM_weights.pth" in errors
            and errors.count("\n") == 1
        )
        assert "network that ships with stm" in json.loads(file.read_text())["notice"]
    assert np.asarray(Image.open(out / "p_mask.png")).shape == (40, 60)
    settings = json.loads((out / "t/track.json").read_text())["settings"]
    assert settings["size"] == 320 and settings["weights"].startswith("mobile.pth sha256:")


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("network.", "network._orig_mod."),
        lambda name: name.replace("network.", "network.module."),
    ],
    ids=["module", "compiled", "both", "compiled network", "network in DDP"],
)
def test_own_weights_with_the_prefixes_of_wrappers_are_loaded(
    tmp_path: Path, rename: Callable[[str], str]
) -> None:
    path = small.save(tmp_path / "own.ckpt", seed=4)
    contents = torch.load(path, weights_only=True)
    contents["state_dict"] = {rename(name): tensor for name, tensor in contents["state_dict"].items()}
    torch.save(contents, path)
    weights = stm.load(path).state_dict()
    expected = small.network(4).state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


NOT_WEIGHTS = {
    "html": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page, not weights"),
    "html after a mark": (b"\xef\xbb\xbf<html></html>", "is a web page, not weights"),
    "LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 157\n",
        "is a Git LFS pointer, not the weights; `git lfs pull` downloads them",
    ),
    "empty": (b"", "cannot be read: it must be an intact file of weights only"),
}


@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_files_that_stand_for_weights_are_named(tmp_path: Path, kind: str) -> None:
    content, message = NOT_WEIGHTS[kind]
    path = tmp_path / "STM_weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^checkpoint {path} {message}") as error:
        stm.load(path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=rf"resume={path}: must be a complete checkpoint") as error:
        find_resume_checkpoint(str(path), tmp_path / "new")
    assert "\n" not in str(error.value) and (kind == "empty" or message in str(error.value))


def test_checkpoints_at_an_address(tmp_path: Path) -> None:
    path = small.save(tmp_path / "last.ckpt")
    files = fsspec.filesystem("memory")
    files.put_file(str(path), "/runs/last.ckpt")
    ours, theirs = load(path).state_dict(), load("memory://runs/last.ckpt").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert fingerprint("memory://runs/last.ckpt") == fingerprint(path)
    with pytest.raises(FileNotFoundError):
        load("memory://runs/other.ckpt")
    with pytest.raises(ValueError, match="nosuch://x.ckpt: must be an address that fsspec can read"):
        load("nosuch://x.ckpt")
