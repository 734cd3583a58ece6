"""The same network, faster: what can be computed ahead of the first frame where no gradients are wanted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils import _pytree as pytree

from stm.network.stm import STM

_READY = "ready_for_inference"


def for_inference(network: STM) -> STM:
    """A copy with batch normalisation folded into the convolutions before it, and channels last.

    It gives the network's results to rounding. It shares with the network, which stays as it is, what it does
    not change; later changes of the network's weights don't reach it. One that is such a copy is returned.
    """
    if hasattr(network, _READY):
        return network
    prepared = cast(STM, _prepared(network))
    setattr(prepared, _READY, True)
    return prepared


def compiled(network: STM) -> STM:
    """A copy for inference whose encoders and decoder torch.compile has fused, its weights frozen in.

    The first frames compile, each for some seconds to a minute: one object, several objects, a further size of
    frame. A further number of objects or of memory frames doesn't, as the memory is read outside of it.

    Raises:
        RuntimeError: at the first frame, where there is no C++ compiler (CPU) or no Triton (GPU).
    """
    prepared = copy.copy(for_inference(network))
    prepared._modules = dict(prepared._modules)
    for name in ("query_encoder", "memory_encoder", "decoder"):
        module = copy.copy(prepared._modules[name])
        module.forward = _at_fixed_size(torch.compile(module.forward, options={"freezing": True}))
        prepared._modules[name] = module
    return prepared


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
