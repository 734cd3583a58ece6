"""The same network, faster: what can be computed ahead of the first frame where no gradients are wanted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils import _pytree as pytree

from stm.network.stm import STM
from stm.network.winograd import Winograd

_READY = "ready_for_inference"


def for_inference(network: STM) -> STM:
    """A copy whose batch normalisation is folded into the convolutions before it, channels last.

    On a CPU in float32 its large 3x3 convolutions are computed by Winograd's way. It gives the network's
    results to rounding, and stays as it is when the network's weights change. A copy is returned as it is.
    """
    if hasattr(network, _READY):
        return network
    ready = _folded(network)
    if network.mean.device.type == "cpu" and network.mean.dtype == torch.float32:
        for module in list(ready.modules()):
            for name, child in module.named_children():
                if child is ready.decoder.compress:  # its weights are used in halves
                    continue
                if isinstance(child, nn.Conv2d) and Winograd.suits(child):
                    setattr(module, name, Winograd(child))
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


def _folded(network: STM) -> STM:
    ready = copy.deepcopy(network).requires_grad_(False)
    for module in ready.modules():
        for conv, norm in _pairs(module):
            folded = fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
            module._modules.update({conv: folded, norm: nn.Identity()})
    setattr(ready, _READY, True)
    return ready.to(memory_format=torch.channels_last)


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
