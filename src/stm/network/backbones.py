"""Backbones: torchvision's networks and small ones for CPUs, each split into a stem and three stages."""

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
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock
from torchvision.ops import StochasticDepth

from stm.network.efficientnet import FEATURE_STD, MEAN, REPEATS, STD, EfficientNetLite
from stm.network.frozen_norms import NormalizingConv2d, prepare_folding
from stm.network.timm_backbones import (
    build_features,
    has_timm,
    input_statistics,
    is_timm_model,
    split_features,
)

NORMS = ("frozen", "group")
Parts = tuple[nn.Conv2d, list[nn.Module]]
"""A stem, and the stages that follow it up to strides 4, 8 and 16."""


class Trunk(nn.Module):
    """Backbone without its head, with features at strides 4, 8 and 16.

    Args:
        stem: the backbone's first convolution.
        stages: the layers that follow it up to strides 4, 8 and 16.
        feature_std: typical standard deviation of each feature, by which it is divided.

    Attributes:
        channels: channels of the three features.
    """

    def __init__(
        self,
        stem: nn.Conv2d,
        stages: Sequence[nn.Module],
        feature_std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.stem = stem
        self.feature_std = tuple(feature_std)
        self.recompute = False
        """Whether the backward pass recomputes the stages' activations instead of keeping them."""
        self.stages = nn.ModuleList(stages)
        prepare_folding(self.stages)
        was_training = self.training
        with torch.no_grad():
            features = self.eval()(torch.zeros(1, stem.in_channels, 64, 64))
        self.train(was_training)
        self.channels = tuple(feature.shape[1] for feature in features)

    def forward(self, frame: Tensor, mask_features: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the features at strides 4, 8 and 16.

        Args:
            frame: (B, 3, H, W).
            mask_features: (B * O, C, H', W'), added to the output of the stem, which is then computed once
                per frame for all O objects.
        """
        x = self.stem(frame)
        if mask_features is not None:
            x = (x[:, None] + mask_features.unflatten(0, (len(frame), -1))).flatten(0, 1)
        features = []
        for stage, std in zip(self.stages, self.feature_std, strict=True):
            x = checkpoint(stage, x, use_reentrant=False) if self.recompute and x.requires_grad else stage(x)
            features.append(x if std == 1 else x / std)
        return features[0], features[1], features[2]

    def train(self, mode: bool = True) -> Trunk:
        """Set the mode, but keep every batch normalization in eval mode (section 3.5: 'disabled').

        Its statistics stay those of ImageNet while its affine weights train. Stochastic depth (ConvNeXt,
        EfficientNet) stays off too, so that training remains inference with gradients. Lightning calls
        train() repeatedly, hence the override.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d | StochasticDepth):
                module.eval()
        return self

    def fold_norms(self, mode: bool) -> None:
        """Let convolutions apply the frozen norms after them, as in training mode: equal up to rounding."""
        for module in self.modules():
            if isinstance(module, NormalizingConv2d):
                module.train(mode)


@dataclass(frozen=True)
class Layout:
    """How to build a model and split it into a stem and stages, and the scale of its input and features."""

    build: Callable[..., nn.Module]
    split: Callable[[Any], Parts]
    downloadable: bool = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    feature_std: tuple[float, ...] = (1.0, 1.0, 1.0)


def _split_resnet(net: Any) -> Parts:
    return net.conv1, [nn.Sequential(net.bn1, net.relu, net.maxpool, net.layer1), net.layer2, net.layer3]


def _split_features(net: Any, ends: tuple[int, int, int]) -> Parts:
    """Split `net.features`, whose first entry is (convolution, norm, ...); ends[i] is the end of stage i."""
    blocks = list(net.features)  # a list, because torchvision's subclasses of Sequential cannot be sliced
    stem, *rest = blocks[0]
    stages = [*rest, *blocks[1 : ends[0]]], blocks[ends[0] : ends[1]], blocks[ends[1] : ends[2]]
    return stem, [nn.Sequential(*stage) for stage in stages]


def _split_regnet(net: Any) -> Parts:
    stem, *rest = net.stem
    blocks = net.trunk_output
    return stem, [nn.Sequential(*rest, blocks.block1), blocks.block2, blocks.block3]


class _SmallNet(nn.Module):
    """Two 3x3 convolutions of stride 2 and one basic block per stage, for training from scratch on a CPU."""

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


def _split_small(net: Any) -> Parts:
    return net.conv1, [net.stage4, net.stage8, net.stage16]


def _split_efficientnet_lite(net: EfficientNetLite) -> Parts:
    first, second, *coarser = net.stages
    return net.stem, [
        nn.Sequential(*net.norm, *first.children(), *second.children()),
        coarser[0],
        nn.Sequential(*coarser[1:]),
    ]


def _efficientnet_lite(name: str) -> Layout:
    return Layout(
        partial(EfficientNetLite, name),
        _split_efficientnet_lite,
        mean=MEAN,
        std=STD,
        feature_std=FEATURE_STD,
    )


def _torchvision(name: str, split: Callable[[Any], Parts]) -> Layout:
    return Layout(partial(torchvision.models.get_model, name), split)


BACKBONES: dict[str, Layout] = {
    **{name: _torchvision(name, _split_resnet) for name in ("resnet18", "resnet34", "resnet50", "resnet101")},
    "convnext_tiny": _torchvision("convnext_tiny", partial(_split_features, ends=(2, 4, 6))),
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large", partial(_split_features, ends=(4, 7, 13))),
    "efficientnet_b0": _torchvision("efficientnet_b0", partial(_split_features, ends=(3, 4, 6))),
    "regnet_y_400mf": _torchvision("regnet_y_400mf", _split_regnet),
    **{name: _efficientnet_lite(name) for name in REPEATS},
    "micro": Layout(partial(_SmallNet, (16, 24, 32)), _split_small, downloadable=False),
    "tiny": Layout(partial(_SmallNet, (24, 48, 72)), _split_small, downloadable=False),
    "small": Layout(partial(_SmallNet, (32, 64, 128)), _split_small, downloadable=False),
}


SMALL_BACKBONES = frozenset(name for name, layout in BACKBONES.items() if not layout.downloadable)
"""Backbones without ImageNet weights."""


def find_layout(name: str) -> Layout:
    """Return the layout of a backbone: one of BACKBONES, or else a model of timm, also as `timm/NAME`.

    Raises:
        ValueError: an unknown name.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    model = name.removeprefix("timm/")
    if is_timm_model(model):
        mean, std = input_statistics(model)
        return Layout(partial(build_features, model), split_features, mean=mean, std=std)
    other = "a model of timm" if has_timm() else "a model of timm (pip install 'stm-vos[timm]')"
    raise ValueError(f"backbone={name}: must be one of {', '.join(BACKBONES)}, or {other}")


def build_trunk(name: str, pretrained: bool = False, norm: str = "frozen", read_stride: int = 16) -> Trunk:
    """Build a backbone by name.

    Args:
        name: a key of BACKBONES, or a model of timm; see `find_layout`.
        pretrained: start from ImageNet weights: torchvision's, downloaded once, or those of a package.
        norm: 'frozen' keeps batch normalization with fixed statistics, as in the paper; 'group' replaces it
            with GroupNorm, which can be trained from scratch.
        read_stride: 16, or 8 to remove the stride of the last stage.

    Raises:
        ValueError: an unknown name, norm or stride, or values that exclude each other.
        RuntimeError: the ImageNet weights cannot be downloaded, or their package is not installed.
    """
    if norm not in NORMS:
        raise ValueError(f"norm={norm}: must be one of {', '.join(NORMS)}")
    if read_stride not in (8, 16):
        raise ValueError(f"read_stride={read_stride}: must be 8 or 16")
    layout = find_layout(name)
    if pretrained and not layout.downloadable:
        raise ValueError(f"pretrained=true: must be false for backbone={name}, which has no ImageNet weights")
    if pretrained and norm == "group":
        raise ValueError(
            "norm=group: must be frozen with pretrained=true, whose weights include batch normalization"
        )
    try:
        net = layout.build(weights="DEFAULT" if pretrained else None)
    except (OSError, HTTPException) as error:  # no network, a broken connection, or a full or read-only disk
        raise RuntimeError(
            f"pretrained=true: the ImageNet weights of {name} could not be downloaded ({error}). Without "
            "network access, set backbone.pretrained=false to start from random weights, or copy the file to "
            f"{torch.hub.get_dir()}/checkpoints (torchvision) or the Hugging Face cache (timm)."
        ) from error
    stem, stages = layout.split(net)
    if read_stride == 8:
        _remove_stride(stages[2])
    if norm == "group":
        stages = [_with_group_norm(stage) for stage in stages]
    return Trunk(stem, stages, layout.feature_std)


def _remove_stride(stage: nn.Module) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
            module.stride = (1, 1)
            if module.kernel_size[0] % 2 == 0:  # ConvNeXt's 2x2 kernels would shrink the map by a pixel
                module.padding = "same"
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            module.kernel_size = module.stride = 1
            module.padding = 0


def _with_group_norm(module: nn.Module) -> nn.Module:
    """Replace every batch normalization with GroupNorm of about 8 channels per group."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            group: nn.Module = nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)
            if isinstance(activation := getattr(child, "act", None), nn.Module):  # part of timm's norms
                group = nn.Sequential(group, activation)
            setattr(module, name, group)
        else:
            _with_group_norm(child)
    return module
