"""Exported programs, loaded from disk, against the network: single parts, and a video through all of them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_networks as small
from helpers.small_networks import save
from torch import Tensor

from stm.cli import main as cli
from stm.network import STM
from stm.network.export import export
from stm.network.published_names import PUBLISHED

PROGRAMS = ("query_encoder", "memory_encoder", "decoder")


class Exported:
    """The programs of a folder, with the memory read that export.json describes."""

    def __init__(self, folder: Path) -> None:
        self.description: dict[str, Any] = json.loads((folder / "export.json").read_text())
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            ["export.json", *(f"{name}.pt2" for name in PROGRAMS)]
        )
        self.programs = {name: torch.export.load(folder / f"{name}.pt2").module() for name in PROGRAMS}

    def run(self, name: str, **inputs: Tensor) -> dict[str, Tensor]:
        """Return a program's outputs by name, and check their shapes against export.json."""
        program = self.description["programs"][name]
        outputs = self.programs[name](*(inputs[key] for key in program["inputs"]))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        named = dict(zip(program["outputs"], outputs, strict=True))
        if "frame" in inputs:
            self.size = inputs["frame"].shape[-2:]
        objects = next((inputs[key].shape[1] for key in ("masks", "readout") if key in inputs), None)
        sizes = {"H": self.size[0], "W": self.size[1], "O": objects}
        for key, shape in program["outputs"].items():
            assert named[key].shape == tuple(eval(str(size), {}, dict(sizes)) for size in shape), key
        return named

    def memorize(self, frame: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        query = self.run("query_encoder", frame=frame)
        memory = self.run("memory_encoder", frame=frame, masks=masks, feature=query["feature"])
        return memory.get("key", query["query_key"][:, None]), memory["value"]

    def segment(self, frame: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Segment a frame by equation 1, one object at a time."""
        query = self.run("query_encoder", frame=frame)
        key = query["query_key"][0].flatten(1)
        readout = []
        for o in range(values.shape[1]):
            memory = keys[0, min(o, keys.shape[1] - 1)].flatten(1)
            if self.description["similarity"] == "dot":
                logits = memory.T @ key
            elif self.description["similarity"] == "scaled_dot":
                logits = memory.T @ key / math.sqrt(len(key))
            else:
                logits = -torch.cdist(memory.T, key.T).square() / math.sqrt(len(key))
            readout.append(values[0, o].flatten(1) @ logits.softmax(0))
        stacked = torch.stack(readout)[None].unflatten(-1, query["query_value"].shape[-2:])
        query_maps = {name: query[name] for name in ("query_value", "skip4", "skip8")}
        return self.run("decoder", readout=stacked, **query_maps)["logits"]


def compare(
    network: STM,
    exported: Exported,
    sizes: list[tuple[int, int]],
    objects: list[int],
    tolerance: float = 2e-5,
) -> None:
    """Memorize two frames and segment a third, by the network and by the programs."""
    for size, count in zip(sizes, objects, strict=True):
        frames = small.frames(3, size)[:, None] / 255
        masks = [small.channels(mask, count)[None] for mask in small.masks(2, count, size)]
        with torch.inference_mode():
            expected_memory = [network.memorize(f, m) for f, m in zip(frames, masks, strict=False)]
            memory = [exported.memorize(f, m) for f, m in zip(frames, masks, strict=False)]
            for tensors, expected_tensors in zip(memory, expected_memory, strict=True):
                torch.testing.assert_close(tensors, expected_tensors)
            keys, values = (torch.stack(part, dim=3) for part in zip(*expected_memory, strict=True))
            expected = network.segment(frames[2], (keys, values)).softmax(1)
            logits = exported.segment(
                frames[2], *(torch.stack(part, dim=3) for part in zip(*memory, strict=True))
            )
        torch.testing.assert_close(logits.softmax(1), expected, atol=tolerance, rtol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"key_input": "image", "similarity": "l2", "read_stride": 8}, marks=pytest.mark.slow),
        pytest.param(
            {"other_objects_channel": True, "similarity": "scaled_dot", "norm": "frozen"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["paper", "image keys at stride 8", "others"],
)
def test_programs_equal_the_network_at_any_size(changes: dict[str, Any], tmp_path: Path) -> None:
    network = small.network(**changes)
    export(network, tmp_path / "out")
    exported = Exported(tmp_path / "out")
    compare(network, exported, [(32, 48), (96, 64), (80, 112), (32, 32)], [1, 2, 3, 5])
    states = [program.state_dict() for program in exported.programs.values()]
    numbers = sum(tensor.numel() for state in states for tensor in state.values())
    constants = 2 * (network.mean.numel() + network.std.numel())
    assert numbers - constants == sum(t.numel() for t in network.state_dict().values()), (
        "each program must hold only its own weights"
    )


@pytest.mark.slow
@pytest.mark.parametrize("border", ["black", "mean"])
def test_frames_of_any_size_are_padded_with_the_border_s_color(border: str, tmp_path: Path) -> None:
    network, frame = small.network(border=border), small.frames(1, (37, 50))[:, None][0] / 255
    export(network, tmp_path / "out")
    exported = Exported(tmp_path / "out")
    padded = torch.tensor(exported.description["border"])[None, :, None, None].repeat(1, 1, 48, 64)
    padded[..., 5:42, 7:57] = frame
    with torch.inference_mode():
        expected = network.encode(frame).key
        torch.testing.assert_close(exported.run("query_encoder", frame=padded)["query_key"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "official"])
def test_real_backbones(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = (
        STM(backbone="resnet18").eval() if name == "resnet18" else STM(**PUBLISHED["stm"].arguments).eval()
    )
    export(network, tmp_path / "out")
    compare(network, Exported(tmp_path / "out"), [(64, 96), (112, 80)], [2, 1], 2e-4)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights, out = save(tmp_path / "w.ckpt"), tmp_path / "deep" / "out"
    assert cli.run(["export", str(weights), str(out)]) == 0
    assert capsys.readouterr().out.count(" MB\n") == 4
    assert [path.name for path in out.parent.iterdir()] == ["out"], "temporary files are left"
    assert json.loads((out / "export.json").read_text())["programs"].keys() == set(PROGRAMS)
    for path in out.glob("*.pt2"):
        assert b"/src/stm/" not in path.read_bytes(), "it contains a path of this machine"
    assert cli.run(["export", str(weights), str(out)]) == 2
    assert "must be a new or empty folder" in capsys.readouterr().err
    assert cli.run(["export", str(tmp_path / "none"), str(tmp_path / "new")]) == 2
    assert "does not exist" in capsys.readouterr().err and not (tmp_path / "new").exists()
