"""The same network, faster: what can be computed ahead of the first frame where no gradients are wanted."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils import _pytree as pytree

from stm.network.stm import STM
from stm.network.winograd import is_large, suits, winograd

_READY = "ready_for_inference"


LARGE = 2**18
"""A convolution of so many weights is not copied: such ones see small maps, where folding saves little."""


CELLS_AT_ONCE = 2**15
"""More objects at a time are no faster where each has so many cells at stride 4, and take more memory."""


class WinogradConv2d(nn.Module):
    """A convolution as its weights lie in memory; on a large map by Winograd's way, where that suits it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.suits_winograd = conv, suits(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        if self.suits_winograd and is_large(x):
            return winograd(x, self.conv.weight, self.conv.bias)
        return self.conv(x.contiguous())


def for_inference(network: STM) -> STM:
    """The network with batch normalization folded into the convolutions before it, channels last.

    It gives the network's results to rounding. On a CPU in float32 it holds no second copy of large
    convolutions, and computes them by Winograd's way where that is faster. After a change of the network's
    weights it must be made anew. What is ready already is returned as it is.
    """
    if hasattr(network, _READY):
        return network
    if network.mean.device.type != "cpu" or network.mean.dtype != torch.float32:
        return _folded(network)
    ready = _folded(network, LARGE)
    ready.memory_encoder.cells_at_once = ready.decoder.cells_at_once = CELLS_AT_ONCE
    for module in list(ready.modules()):
        for name, child in module.named_children():
            if child is ready.decoder.compress:  # its weights are used in halves
                continue
            if isinstance(child, nn.Conv2d) and child.weight.numel() >= LARGE:
                setattr(module, name, WinogradConv2d(child))
    return ready


def compiled(network: STM) -> STM:
    """A copy for inference whose encoders and decoder torch.compile has fused, its weights frozen in.

    The first frames compile, for up to a minute each: one object, several objects, a further size of frame. A
    further number of objects or of memory frames doesn't, as the memory is read outside of it.

    Raises:
        RuntimeError: at the first frame, where there is no C++ compiler (CPU) or no Triton (GPU).
    """
    ready = _folded(network)
    for module in (ready.query_encoder, ready.memory_encoder, ready.decoder):
        fused = torch.compile(module.forward, options={"freezing": True})
        module.forward = _at_fixed_size(fused)  # type: ignore[method-assign]
    return ready


def _folded(network: STM, large: float = math.inf) -> STM:
    """A copy that shares weights of so many values or more, with the normalization behind them left there."""
    shared = {id(w): nn.Parameter(w.detach()) for w in network.parameters() if w.numel() >= large}
    ready = copy.deepcopy(network, shared).requires_grad_(False)
    for module in ready.modules():
        for conv, norm in _pairs(module):
            if getattr(module, conv).weight.numel() < large:
                folded = fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
                module._modules.update({conv: folded, norm: nn.Identity()})
    for weight in ready.parameters():
        if weight.ndim == 4 and weight.numel() < large:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    setattr(ready, _READY, True)
    return ready


def _at_fixed_size(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled once for each size of frame: sizes that are not known make slower code."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        for tensor in pytree.tree_leaves(arguments):
            if isinstance(tensor, Tensor):
                torch._dynamo.mark_static(tensor, tensor.ndim - 2)
                torch._dynamo.mark_static(tensor, tensor.ndim - 1)
        return function(*arguments)

    return call


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of children that are a convolution and the batch normalization behind it.

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
