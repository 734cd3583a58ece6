"""The same network, faster: what can be computed ahead of the first frame where no gradients are wanted."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stm.network.stm import STM


def for_inference(network: STM) -> STM:
    """A copy with batch normalisation folded into the convolutions before it, and channels last.

    It gives the network's results to rounding. It shares with the network, which stays as it is, what it does
    not change; later changes of the network's weights don't reach it.
    """
    return cast(STM, _prepared(network))


@torch.no_grad()
def _prepared(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        conv = copy.copy(module)
        conv._parameters = dict(module._parameters)
        weight = module.weight.contiguous(memory_format=torch.channels_last)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        return conv
    prepared = copy.copy(module)
    prepared._modules = dict(module._modules)
    for conv_name, norm_name in _pairs(module):
        conv, norm = module._modules[conv_name], module._modules[norm_name]
        prepared._modules[conv_name] = fuse_conv_bn_eval(conv, norm)  # type: ignore[type-var]
        prepared._modules[norm_name] = nn.Identity()
    for name, child in prepared._modules.items():
        if child is not None:
            prepared._modules[name] = _prepared(child)
    return prepared


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of children that are a convolution and the batch normalisation behind it.

    They follow each other in a Sequential, or are called conv1 and bn1, ... as torchvision's residual blocks.
    """
    if isinstance(module, nn.Sequential):
        names = list(module._modules)
        found = list(zip(names, names[1:], strict=False))
    else:
        convs = [name for name in module._modules if name.startswith("conv")]
        found = [(name, name.replace("conv", "bn")) for name in convs]
    return [
        (conv, norm)
        for conv, norm in found
        if isinstance(module._modules[conv], nn.Conv2d)
        and isinstance(module._modules.get(norm), nn.BatchNorm2d)
    ]
