"""Frozen batch normalization that the convolution before it applies while it trains.

With fixed statistics, normalization is a factor and a shift of each channel. As part of the convolution's
weights and bias, they take neither a pass over the map nor a copy of it for the gradient. Their own weights
train as before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization that returns its input while the convolution before applies it.

    Args:
        norm: with fixed statistics; its parameters and buffers are shared.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps)
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.conv: tuple[nn.Module, ...] = ()
        """The convolution, in a tuple because it is registered elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W), where the convolution before has not done so."""
        (conv,) = self.conv
        return x if conv.training else super().forward(x)

    def factor_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the factor and the shift of each channel, both (C,)."""
        assert self.running_mean is not None and self.running_var is not None
        factor = self.weight * torch.rsqrt(self.running_var + self.eps)
        return factor, self.bias - self.running_mean * factor


class NormalizingConv2d(nn.Conv2d):
    """Convolution that also applies the frozen norm after it in training mode.

    Its own flag `training` decides, as Lightning sets these flags without calling `train()`.

    Args:
        conv: pads with zeros; its parameters are shared.
        norm: the norm after it, which stays a module of its own.
    """

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        arguments = {name: getattr(conv, name) for name in names}
        super().__init__(**arguments, device="meta")  # draws no random weights
        self._parameters = conv._parameters
        self.train(conv.training)
        self.norm, norm.conv = (norm,), (self,)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        if not self.training:
            return super().forward(x)
        (norm,) = self.norm
        factor, shift = norm.factor_and_shift()
        if self.bias is not None:
            shift = shift + self.bias * factor
        weight = self.weight * factor[:, None, None, None]
        return F.conv2d(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)


def prepare_folding(part: nn.Module) -> None:
    """Replace the frozen norms that follow a plain convolution, and these convolutions, in place."""
    for module in list(part.modules()):
        for name, norm_name in conv_norm_pairs(module):
            conv, norm = getattr(module, name), FrozenBatchNorm2d(getattr(module, norm_name))
            if type(conv) is nn.Conv2d and conv.padding_mode == "zeros":
                module._modules.update({name: NormalizingConv2d(conv, norm), norm_name: norm})


def conv_norm_pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of children that are a convolution followed by batch normalization.

    They are neighbors in a Sequential, or named conv1 and bn1, ... as in torchvision's residual blocks.
    """
    if isinstance(module, nn.Sequential):
        names = list(module._modules)
        candidates = list(zip(names, names[1:], strict=False))
    else:
        convs = [name for name in module._modules if name.startswith("conv")]
        candidates = [(name, name.replace("conv", "bn")) for name in convs]
    return [
        (conv, norm)
        for conv, norm in candidates
        if isinstance(module._modules[conv], nn.Conv2d)
        # timm's norms include an activation
        and type(module._modules.get(norm)) in (nn.BatchNorm2d, FrozenBatchNorm2d)
    ]
