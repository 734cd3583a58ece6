"""Models of timm as backbones: the split is the model, whatever its family."""

import pytest
import torch
from helpers import small_networks as small
from helpers.small_networks import NETWORK

from stm import Segmenter
from stm.network import STM, for_inference
from stm.network.backbones import build_trunk

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'stm-vos[timm]'")
FAMILIES = ("convnextv2_atto", "tf_efficientnet_lite0", "mobilenetv4_conv_small", "regnetx_002", "resnet18d")


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_those_of_timm(name: str) -> None:
    frame = torch.rand(2, 3, 64, 96)
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True).eval()
    torch.manual_seed(0)
    trunk = build_trunk(name).eval()
    maps = dict(zip(model.feature_info.reduction(), model(frame), strict=True))
    for feature, stride in zip(trunk(frame), (4, 8, 16), strict=True):
        torch.testing.assert_close(feature, maps[stride], rtol=1e-4, atol=1e-4)
    assert [f.shape[-1] for f in build_trunk(name, read_stride=8)(frame)] == [24, 12, 12]


@pytest.mark.parametrize("name", ["convnextv2_atto", "tf_efficientnet_lite0"])
def test_a_network_trains_and_segments(name: str) -> None:
    changes = {"backbone": name, "norm": "frozen", "other_objects_channel": True}
    network = STM(**(NETWORK | changes)).train()
    frames, masks = small.frames(3, (48, 64)), small.masks(3, 2, (48, 64))
    segmenter = Segmenter(network)
    for t in range(3):
        segmenter.step(frames[t], masks[t].numpy() if t == 0 else None)
    segmenter.logits[:, 1:].sum().backward()
    assert network.query_encoder.trunk.stem.weight.grad is not None
    frozen = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(norm.training for norm in frozen)
    plain, ready = network.eval(), for_inference(network)
    with torch.no_grad():
        one, other = (net.encode(frames[0].float() / 255).key for net in (plain, ready))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_group_norm_keeps_activations() -> None:
    """timm's batch normalization includes the activation."""
    trunk = build_trunk("tf_efficientnet_lite0", norm="group")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in trunk.modules())
    assert sum(isinstance(module, torch.nn.ReLU6) for module in trunk.modules()) > 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("repvgg_a0", "cannot be split|after one convolution"),
        ("vit_tiny_patch16_224", "must have features at strides 4, 8 and 16"),
        ("swin_tiny_patch4_window7_224", "not run on 64x64"),
        ("convnext_nano_typo", "must be one of resnet18, .* or a model of timm"),
    ],
)
def test_unsuitable_models_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_trunk(name)
