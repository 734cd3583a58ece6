"""Backbones: features at strides 4, 8 and 16, normalization, ImageNet weights."""

import http.client
import math
import urllib.request
from pathlib import Path

import pytest
import torch
from helpers import small_networks as small
from torch import nn
from torchvision.models import get_model, get_model_weights

from stm.network.backbones import BACKBONES, Trunk, build_trunk, find_layout
from stm.network.encoders import MemoryEncoder

WITH_BATCH_NORM = [name for name in BACKBONES if name not in ("convnext_tiny", "resnet101", "resnet34")]

ONE_OF_EACH = ["resnet18", "mobilenet_v3_large", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny"]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("read_stride", [16, 8])
def test_features_have_strides_4_8_16(name: str, read_stride: int) -> None:
    trunk = build_trunk(name, read_stride=read_stride).eval()
    with torch.no_grad():
        features = trunk(torch.rand(1, 3, 64, 96))
    assert [tuple(f.shape[-2:]) for f in features] == [
        (16, 24),
        (8, 12),
        (64 // read_stride, 96 // read_stride),
    ]
    assert tuple(f.shape[1] for f in features) == trunk.channels


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_features_are_those_of_the_full_network(name: str) -> None:
    """The features are maps of torchvision's network, and the last one is its last map at stride 16."""
    torch.manual_seed(0)
    net = get_model(name, weights=None).eval()
    image, maps = torch.rand(1, 3, 64, 64), []
    for module in net.modules():
        module.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.no_grad():
        net(image)
    maps = [m.clone() for m in maps if isinstance(m, torch.Tensor) and m.ndim == 4]
    torch.manual_seed(0)
    with torch.no_grad():
        features = build_trunk(name).eval()(image)
    for feature in features:
        assert any(m.shape == feature.shape and torch.equal(m, feature) for m in maps)
    stride_16 = [m for m in maps if m.shape == features[-1].shape]
    last = (
        stride_16[-2:] if name == "convnext_tiny" else stride_16[-1:]
    )  # ConvNeXt's next stage starts with a norm
    assert any(torch.equal(m, features[-1]) for m in last), "a layer at stride 16 is missing"


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_group_norm_replaces_every_batch_norm(name: str) -> None:
    def count(module: nn.Module, kind: type[nn.Module]) -> int:
        return sum(isinstance(layer, kind) for layer in module.modules())

    frozen, group = build_trunk(name), build_trunk(name, norm="group")
    assert count(frozen, nn.BatchNorm2d) == count(group, nn.GroupNorm) > 0
    assert count(frozen, nn.GroupNorm) == count(group, nn.BatchNorm2d) == 0
    for layer in group.modules():
        if isinstance(layer, nn.GroupNorm) and layer.num_channels >= 16:
            assert layer.num_channels / layer.num_groups <= 16


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "micro"])
def test_batch_norm_stays_frozen_in_training_mode(name: str) -> None:
    network = small.network(backbone=name, norm="frozen")
    network.train()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    assert network.training
    assert not any(layer.training for layer in norms)
    before = [(n.running_mean.clone(), n.running_var.clone(), int(n.num_batches_tracked)) for n in norms]
    optimizer = torch.optim.Adam(network.parameters())
    frame, masks = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32)
    network.segment(frame, network.memorize(frame, masks)).square().sum().backward()
    optimizer.step()
    for layer, (mean, variance, batches) in zip(norms, before, strict=True):
        assert torch.equal(layer.running_mean, mean)
        assert torch.equal(layer.running_var, variance)
        assert int(layer.num_batches_tracked) == batches
        assert (layer.weight != 1).any(), "the affine weights must train"


@pytest.mark.parametrize("name", ["convnext_tiny", "efficientnet_b0", "regnet_y_400mf", "resnet50"])
def test_training_mode_equals_evaluation_mode(name: str) -> None:
    """Training uses neither stochastic depth nor batch statistics: section 3.5 trains the network of 3.6."""
    trunk = build_trunk(name)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = trunk.eval()(image)
        exact = [feature.double() for feature in trunk.double()(image.double())]
        folded = trunk.train()(image.double())
        trunk.float().fold_norms(False)
        unfolded = trunk(image)
    for feature, reference in zip(unfolded, expected, strict=True):
        assert torch.equal(feature, reference)
    for feature, reference in zip(folded, exact, strict=True):
        torch.testing.assert_close(feature, reference, rtol=1e-12, atol=1e-12)
    trunk.train()
    sum(f.square().mean() for f in trunk(image)).backward()
    assert all(p.grad is not None for p in trunk.parameters())


@pytest.mark.parametrize("name", ["resnet50", "regnet_y_400mf", "efficientnet_lite0", "micro"])
def test_folded_norms_have_the_gradients_of_unfolded_ones(name: str) -> None:
    """In double precision. The state dict has the names that it would have without folding."""
    torch.manual_seed(0)
    layout = find_layout(name)
    stem, stages = layout.split(layout.build(weights=None))
    names = {f"stages.{key}" for key in nn.ModuleList(stages).state_dict()}
    trunk = Trunk(stem, stages).double().train()
    assert {key for key in trunk.state_dict() if key.startswith("stages")} == names
    for layer in trunk.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low in ((layer.weight, 0.5), (layer.bias, -0.5), (layer.running_mean, -0.5)):
                nn.init.uniform_(values, low, low + 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    image, gradients, sizes = torch.rand(1, 3, 64, 64, dtype=torch.double), [], []
    for is_folded in (True, False):
        trunk.fold_norms(is_folded)
        trunk.zero_grad()
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: kept.append(tensor) or tensor, lambda tensor: tensor
        ):
            features = trunk(image)
        maps = {tensor.data_ptr(): tensor.nbytes for tensor in kept if tensor.shape[:1] == (1,)}
        sizes.append(sum(maps.values()))
        sum(f.square().mean() for f in features).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() < 1e-10 * gradients[1].norm()
    assert sizes[0] < 0.8 * sizes[1], "fewer bytes of maps are kept for the gradient"


def test_folding_continues_after_a_validation() -> None:
    """Lightning restores the flags `training` of all modules, without calling `train()`."""
    network = small.network(backbone="resnet18", norm="frozen").train()
    trunk, image = network.query_encoder.trunk, torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before, modes = trunk(image), [(module, module.training) for module in network.modules()]
        network.eval()
        evaluated = trunk(image)
        for module, is_training in modes:
            module.training = is_training
        after = trunk(image)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(before, evaluated, strict=True)), "the ways differ"


def test_mask_channels_equal_a_first_convolution_over_frame_and_masks() -> None:
    """Section 3.1: frame and masks are concatenated, and the first convolution has further input channels."""
    torch.manual_seed(0)
    encoder = MemoryEncoder(
        build_trunk("resnet18"), 8, 16, query_channels=256, other_objects_channel=True
    ).eval()
    frame, masks = torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48) / 3
    key, value = encoder(frame, masks, None)
    trunk, stem = encoder.trunk, encoder.trunk.stem
    weight = torch.cat([stem.weight, encoder.mask_stem.weight, encoder.others_stem.weight], dim=1)
    for o in range(3):
        others = (masks.sum(1) - masks[:, o]).clamp(0, 1)
        x = torch.cat([frame, masks[:, o, None], others[:, None]], dim=1)
        x = nn.functional.conv2d(x, weight, stride=stem.stride, padding=stem.padding)
        for stage in trunk.stages:
            x = stage(x)
        torch.testing.assert_close(key[:, o], encoder.key(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(value[:, o], encoder.value(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet51"}, "backbone=resnet51: .*resnet50"),
        ({"name": "micro", "norm": "batch"}, "norm=batch: must be one of frozen, group"),
        ({"name": "micro", "read_stride": 32}, "read_stride=32: must be 8 or 16"),
        ({"name": "tiny", "pretrained": True}, "pretrained=true: must be false for backbone=tiny"),
        ({"name": "resnet18", "pretrained": True, "norm": "group"}, "norm=group: must be frozen"),
    ],
)
def test_invalid_settings_raise(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_trunk(**settings)


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty download folder, with a proxy that refuses every connection."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)
    return tmp_path


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "mobilenet_v3_large"])
def test_without_network_access_the_error_names_the_setting(torch_home: Path, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"backbone\.pretrained=false") as error:
        small.network(backbone=name, norm="frozen", pretrained=True)
    assert name in str(error.value)
    assert str(torch_home) in str(error.value)


@pytest.mark.parametrize("broken", [http.client.IncompleteRead(b""), TimeoutError(), ConnectionResetError()])
def test_a_broken_download_names_the_setting(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch, broken: Exception
) -> None:
    def urlopen(*_args: object, **_kwargs: object) -> None:
        raise broken

    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    with pytest.raises(RuntimeError, match=r"backbone\.pretrained=false"):
        build_trunk("resnet18", pretrained=True)


def test_a_read_only_folder_names_the_setting(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (torch_home / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(torch_home / "file"))
    with pytest.raises(RuntimeError, match=r"backbone\.pretrained=false"):
        build_trunk("resnet18", pretrained=True)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
def test_pretrained_loads_the_file_of_torchvision(torch_home: Path, name: str) -> None:
    """Random weights under the name of the ImageNet file are read by torchvision's own loading code."""
    url = get_model_weights(name).DEFAULT.url
    path = torch_home / "hub" / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.manual_seed(7)
    file = get_model(name, weights=None)
    torch.save(file.state_dict(), path)
    network = small.network(seed=1, backbone=name, norm="frozen", pretrained=True, other_objects_channel=True)
    expected = list(file.state_dict().values())
    for encoder in (network.query_encoder, network.memory_encoder):
        for loaded in encoder.trunk.state_dict().values():
            assert any(loaded.shape == value.shape and torch.equal(loaded, value) for value in expected)
    rgb = next(iter(file.state_dict().values()))
    assert torch.equal(network.memory_encoder.trunk.stem.weight, rgb)
    for stem in (network.memory_encoder.mask_stem, network.memory_encoder.others_stem):
        assert stem.weight.shape == (len(rgb), 1, *rgb.shape[2:])
        assert not torch.equal(stem.weight, rgb[:, :1])
        fan_out = stem.weight[0].numel() * len(rgb)
        assert stem.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
    other = small.network(seed=2, backbone=name, norm="frozen", pretrained=True)
    assert not torch.equal(other.memory_encoder.mask_stem.weight, network.memory_encoder.mask_stem.weight)
