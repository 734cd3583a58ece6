"""Copies of a network that are optimized for inference: folded, in another memory layout, or compiled."""

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

from stm.network.frozen_norms import conv_norm_pairs
from stm.network.stm import STM
from stm.network.winograd import has_enough_tiles, is_eligible, winograd_conv2d

_READY = "ready_for_inference"

MIN_SHARED_WEIGHTS = 2**18
"""Convolutions with at least this many weights are not copied; on their small maps, folding saves little."""

CHUNK_CELLS = 2**15
"""Cells at stride 4 in a chunk of objects; larger chunks are not faster and take more memory."""


class WinogradConv2d(nn.Module):
    """Convolution in the layout of its weights; by Winograd's algorithm if eligible and the map is large.

    Args:
        conv: the convolution, whose weights are shared.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.is_winograd = conv, is_eligible(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        if self.is_winograd and has_enough_tiles(x):
            return winograd_conv2d(x, self.conv.weight, self.conv.bias)
        return self.conv(x.contiguous())


def for_inference(network: STM) -> STM:
    """Return a copy in channels-last layout with batch normalization folded into the preceding convolutions.

    Results are equal up to rounding. On a CPU in float32, large convolutions share the network's weights and
    use Winograd's algorithm where that is faster. The copy does not follow later changes of the network's
    weights. A network that is already optimized is returned as is.
    """
    if hasattr(network, _READY):
        return network
    if network.mean.device.type != "cpu" or network.mean.dtype != torch.float32:
        return _folded(network)
    ready = _folded(network, MIN_SHARED_WEIGHTS)
    ready.memory_encoder.chunk_cells = ready.decoder.chunk_cells = CHUNK_CELLS
    for module in list(ready.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and child.weight.numel() >= MIN_SHARED_WEIGHTS:
                setattr(module, name, WinogradConv2d(child))
    return ready


def compiled(network: STM) -> STM:
    """Return a copy for inference with encoders and decoder compiled by torch.compile, weights frozen.

    Compilation takes up to a minute each for the first frame with one object, the first with several objects,
    and each new frame size. Other numbers of objects or memory frames do not recompile, because the memory
    read is not compiled. Without a C++ compiler (CPU) or Triton (GPU), the first frame raises RuntimeError.
    """
    ready = _folded(network)
    for module in (ready.query_encoder, ready.memory_encoder, ready.decoder):
        forward = torch.compile(module.forward, options={"freezing": True})
        module.forward = _with_static_sizes(forward)  # type: ignore[method-assign]
    return ready


def _folded(network: STM, min_shared: float = math.inf) -> STM:
    """Return a folded copy; convolutions with `min_shared` weights or more stay shared and unfolded."""
    shared = {id(w): nn.Parameter(w.detach()) for w in network.parameters() if w.numel() >= min_shared}
    ready = copy.deepcopy(network, shared).requires_grad_(False).eval()
    for module in ready.modules():
        for conv, norm in conv_norm_pairs(module):
            if getattr(module, conv).weight.numel() < min_shared:
                folded = fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
                module._modules.update({conv: folded, norm: nn.Identity()})
    for weight in ready.parameters():
        if weight.ndim == 4 and weight.numel() < min_shared:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    setattr(ready, _READY, True)
    return ready


def _with_static_sizes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a compiled function recompile for each frame size, because dynamic sizes give slower code."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        for tensor in pytree.tree_leaves(arguments):
            if isinstance(tensor, Tensor):
                torch._dynamo.mark_static(tensor, tensor.ndim - 2)
                torch._dynamo.mark_static(tensor, tensor.ndim - 1)
        return function(*arguments)

    return call
