"""Backbones: torchvision's networks, and small ones for CPUs, cut into a stem and three stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import StochasticDepth

NORMS = ("frozen", "group")
Cut = tuple[nn.Conv2d, list[nn.Module]]


class Trunk(nn.Module):
    """A backbone without its head: features at strides 4, 8 and 16, and a stem to plant channels on.

    Args:
        stem: the backbone's first convolution.
        stages: what follows it up to strides 4, 8 and 16.
    """

    def __init__(self, stem: nn.Conv2d, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        was_training = self.training
        with torch.no_grad():
            features = self.eval()(torch.zeros(1, stem.in_channels, 64, 64))
        self.train(was_training)
        self.channels = tuple(feature.shape[1] for feature in features)

    def forward(self, frame: Tensor, planted: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 4, 8 and 16 of frame (B, 3, H, W).

        Args:
            planted: what further input channels add behind the first convolution, (B * O, C, H', W'); the
                first convolution of the frame is then computed once for all O objects.
        """
        x = self.stem(frame)
        if planted is not None:
            x = (x[:, None] + planted.unflatten(0, (len(frame), -1))).flatten(0, 1)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[0], features[1], features[2]

    def train(self, mode: bool = True) -> Trunk:
        """Switch modes, but keep every batch normalization in eval mode (section 3.5: 'disabled').

        Its statistics stay ImageNet's, its affine weights train. Lightning calls train() again and again.
        Stochastic depth (ConvNeXt, EfficientNet) stays off too: with it, training would not be inference with
        gradients.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d | StochasticDepth):
                module.eval()
        return self


@dataclass(frozen=True)
class Layout:
    """Where a torchvision model keeps its first convolution and the stages up to strides 4, 8 and 16."""

    build: Callable[..., nn.Module]
    cut: Callable[[Any], Cut]
    downloadable: bool = True


def _cut_resnet(net: Any) -> Cut:
    return net.conv1, [nn.Sequential(net.bn1, net.relu, net.maxpool, net.layer1), net.layer2, net.layer3]


def _cut_features(net: Any, ends: tuple[int, int, int]) -> Cut:
    """Cut `net.features`, whose first entry is (convolution, norm, ...); ends[i] is where stage i ends."""
    blocks = list(net.features)  # lists, as a slice of torchvision's Sequentials cannot be built
    stem, *rest = blocks[0]
    stages = [*rest, *blocks[1 : ends[0]]], blocks[ends[0] : ends[1]], blocks[ends[1] : ends[2]]
    return stem, [nn.Sequential(*stage) for stage in stages]


def _cut_regnet(net: Any) -> Cut:
    stem, *rest = net.stem
    blocks = net.trunk_output
    return stem, [nn.Sequential(*rest, blocks.block1), blocks.block2, blocks.block3]


class _SmallNet(nn.Module):
    """Two 3x3 convolutions of stride 2 and a basic block a stage: trains from scratch on a CPU in minutes."""

    def __init__(self, widths: tuple[int, int, int], weights: None = None) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False)
        self.stage4 = nn.Sequential(
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, first, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            BasicBlock(first, first),
        )
        self.stage8, self.stage16 = self._stage(first, second), self._stage(second, third)

    @staticmethod
    def _stage(inputs: int, outputs: int) -> nn.Module:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))
        return BasicBlock(inputs, outputs, stride=2, downsample=shortcut)


def _cut_small(net: Any) -> Cut:
    return net.conv1, [net.stage4, net.stage8, net.stage16]


def _torchvision(name: str, cut: Callable[[Any], Cut]) -> Layout:
    return Layout(partial(torchvision.models.get_model, name), cut)


BACKBONES: dict[str, Layout] = {
    **{name: _torchvision(name, _cut_resnet) for name in ("resnet18", "resnet34", "resnet50", "resnet101")},
    "convnext_tiny": _torchvision("convnext_tiny", partial(_cut_features, ends=(2, 4, 6))),
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large", partial(_cut_features, ends=(4, 7, 13))),
    "efficientnet_b0": _torchvision("efficientnet_b0", partial(_cut_features, ends=(3, 4, 6))),
    "regnet_y_400mf": _torchvision("regnet_y_400mf", _cut_regnet),
    "micro": Layout(partial(_SmallNet, (16, 24, 32)), _cut_small, downloadable=False),
    "tiny": Layout(partial(_SmallNet, (24, 48, 72)), _cut_small, downloadable=False),
    "small": Layout(partial(_SmallNet, (32, 64, 128)), _cut_small, downloadable=False),
}


def build_trunk(name: str, pretrained: bool = False, norm: str = "frozen", read_stride: int = 16) -> Trunk:
    """Build a backbone by name.

    Args:
        name: a key of BACKBONES.
        pretrained: start from torchvision's default ImageNet weights (downloaded once).
        norm: 'frozen' keeps batch normalization with fixed statistics, as the paper; 'group' replaces it by
            GroupNorm, which trains from scratch.
        read_stride: 16, or 8 to take the stride out of the last stage.

    Raises:
        ValueError: an unknown name, norm or stride, or a combination that cannot work.
        RuntimeError: the ImageNet weights cannot be downloaded.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone={name!r} is unknown; available: {', '.join(BACKBONES)}")
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown; available: {', '.join(NORMS)}")
    if read_stride not in (8, 16):
        raise ValueError(f"read_stride={read_stride!r}: the memory is read at stride 8 or 16")
    layout = BACKBONES[name]
    if pretrained and not layout.downloadable:
        raise ValueError(f"backbone={name!r} has no ImageNet weights: set pretrained=false")
    if pretrained and norm == "group":
        raise ValueError("pretrained=true comes with its own normalization: set norm=frozen")
    try:
        net = layout.build(weights="DEFAULT" if pretrained else None)
    except (OSError, HTTPException) as error:  # no network, a broken connection, a full or read-only disk
        raise RuntimeError(
            f"The ImageNet weights of {name} could not be downloaded ({error}). Without a network, set "
            "backbone.pretrained=false to start from random weights, or put the file that torchvision names "
            f"into {torch.hub.get_dir()}/checkpoints by hand."
        ) from error
    stem, stages = layout.cut(net)
    if read_stride == 8:
        _remove_stride(stages[2])
    if norm == "group":
        stages = [_with_group_norm(stage) for stage in stages]
    return Trunk(stem, stages)


def _remove_stride(stage: nn.Module) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
            module.stride = (1, 1)
            if module.kernel_size[0] % 2 == 0:  # ConvNeXt's 2x2 would shrink the map by a pixel
                module.padding = "same"


def _with_group_norm(module: nn.Module) -> nn.Module:
    """Replace every batch normalization by GroupNorm with about 8 channels a group."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            setattr(module, name, nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels))
        else:
            _with_group_norm(child)
    return module
