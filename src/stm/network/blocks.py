"""Building blocks of decoder and encoders: residual blocks, feature fusion, updates of the sensory memory.

Maps of objects are (B * O, C, h, w). Maps of frames, which all objects of a frame share, are (B, C, h, w): a
convolution over the concatenation of both is the sum of two, the second of which is computed once per frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SharedMaps = Sequence[Tensor]
"""What a block computes once per frame from the map that the frame's objects share."""


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def conv3x3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def add_shared(object_maps: Tensor, shared: Tensor) -> Tensor:
    """Add the map of each frame (B, ...) to the maps of its objects (B * O, ...)."""
    return (object_maps.unflatten(0, (len(shared), -1)) + shared[:, None]).flatten(0, 1)


class SharedConv2d(nn.Module):
    """3x3 convolution over the concatenation of a map of each object and a map of the frame.

    Args:
        inputs: channels of the objects' maps.
        outputs: channels of the result.
        shared: channels of the frame's map.
    """

    def __init__(self, inputs: int, outputs: int, shared: int) -> None:
        super().__init__()
        self.own = conv3x3(inputs, outputs)
        self.shared = conv3x3(shared, outputs, bias=False)

    def share(self, frame_map: Tensor) -> SharedMaps:
        """Convolve the frame's map."""
        return (self.shared(frame_map),)

    def forward(self, x: Tensor, maps: SharedMaps) -> Tensor:
        """Convolve the objects' maps and add what `share` returned."""
        return add_shared(self.own(x), maps[0])


class ResidualBlock(nn.Module):
    """Pre-activation residual block without normalization (He et al., Identity mappings, 2016).

    Args:
        inputs: channels of the objects' maps.
        outputs: channels of the result.
        shared: channels of a map of the frame that is concatenated; 0 for none.
    """

    def __init__(self, inputs: int, outputs: int, shared: int = 0) -> None:
        super().__init__()
        self.shortcut: nn.Module
        if shared:
            self.shortcut = SharedConv2d(inputs, outputs, shared)
            self.conv1: nn.Module = SharedConv2d(inputs, outputs, shared)
        else:
            self.shortcut = nn.Identity() if inputs == outputs else conv3x3(inputs, outputs)
            self.conv1 = conv3x3(inputs, outputs)
        self.conv2 = conv3x3(outputs, outputs)

    def share(self, frame_map: Tensor) -> SharedMaps:
        """Convolve the frame's map for the first convolution and the shortcut."""
        assert isinstance(self.conv1, SharedConv2d) and isinstance(self.shortcut, SharedConv2d)
        return *self.conv1.share(F.relu(frame_map)), *self.shortcut.share(frame_map)

    def forward(self, x: Tensor, maps: SharedMaps = ()) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W); `maps` is what `share` returned."""
        inner = self.conv1(F.relu(x), maps[:1]) if maps else self.conv1(F.relu(x))
        shortcut = self.shortcut(x, maps[1:]) if maps else self.shortcut(x)
        return self.conv2(F.relu(inner, inplace=True)).add_(shortcut)


class CBAM(nn.Module):
    """Convolutional block attention module (Woo et al., 2018): a gate per channel, then one per cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // 16)
        self.channel_gate = nn.Sequential(nn.Linear(channels, narrow), nn.ReLU(), nn.Linear(narrow, channels))
        self.spatial_gate = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Weight (N, C, H, W) by both gates."""
        gate = self.channel_gate(x.mean(dim=(2, 3))) + self.channel_gate(x.amax(dim=(2, 3)))
        x = x * torch.sigmoid(gate)[:, :, None, None]
        pooled = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.spatial_gate(pooled))


class FeatureFusion(nn.Module):
    """Fusion block of STCN and XMem: two residual blocks with CBAM between them.

    Args:
        inputs: channels of the objects' maps.
        outputs: channels of the result.
        shared: channels of the frame's map.
    """

    def __init__(self, inputs: int, outputs: int, shared: int) -> None:
        super().__init__()
        self.block1 = ResidualBlock(inputs, outputs, shared)
        self.attention = CBAM(outputs)
        self.block2 = ResidualBlock(outputs, outputs)

    def share(self, frame_map: Tensor) -> SharedMaps:
        """Convolve the frame's map for the first block."""
        return self.block1.share(frame_map)

    def forward(self, x: Tensor, maps: SharedMaps) -> Tensor:
        """Map (B * O, inputs, H, W) to (B * O, outputs, H, W); `maps` is what `share` returned."""
        x = self.block1(x, maps)
        return self.block2(x + self.attention(x))


class SensoryUpdate(nn.Module):
    """Update of the sensory memory by the decoder's maps at strides 16, 8 and 4 and its logits (XMem).

    Args:
        channels: of the sensory memory.
        maps: channels of the decoder's maps; the last include the logits.
        width: channels to which each map is projected.
    """

    def __init__(self, channels: int, maps: Sequence[int], width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in maps)
        self.transform = conv3x3(width + channels, 3 * channels)

    def forward(self, x16: Tensor, x8: Tensor, x4: Tensor, logits: Tensor, sensory: Tensor) -> Tensor:
        """Update (N, channels, h, w) by the decoder's maps, which are averaged to its size."""
        size = sensory.shape[-2], sensory.shape[-1]
        x16, x8, x4, logits = (
            F.adaptive_avg_pool2d(x, size) if x.shape[-2:] != size else x for x in (x16, x8, x4, logits)
        )
        maps = zip(self.projections, (x16, x8, torch.cat([x4, logits], dim=1)), strict=True)
        projected = torch.stack([projection(x) for projection, x in maps]).sum(0)
        return _gated_update(self.transform(torch.cat([projected, sensory], dim=1)), sensory)


class DeepUpdate(nn.Module):
    """Update of the sensory memory by the value of a memory frame (XMem).

    Args:
        channels: of the sensory memory.
        value_channels: C_v.
    """

    def __init__(self, channels: int, value_channels: int) -> None:
        super().__init__()
        self.transform = conv3x3(value_channels + channels, 3 * channels)

    def forward(self, value: Tensor, sensory: Tensor) -> Tensor:
        """Update (N, channels, h, w) by values (N, C_v, h, w)."""
        return _gated_update(self.transform(torch.cat([value, sensory], dim=1)), sensory)


def _gated_update(gates: Tensor, sensory: Tensor) -> Tensor:
    """Update a state by a forget gate, an update gate and a new value, the thirds of `gates` (a GRU)."""
    forget, update, new = gates.chunk(3, dim=1)
    forget, update = torch.sigmoid(forget), torch.sigmoid(update)
    return forget * sensory * (1 - update) + update * torch.tanh(new)


def init_without_norm(module: nn.Module) -> None:
    """Initialize convolutions without normalization: Kaiming, with residual branches scaled by one half.

    Otherwise a network trained from scratch starts with exploding logits, since the decoder has no
    normalization (section 3.3).
    """
    parts: set[nn.Module] = set()
    for layer in module.modules():
        if isinstance(layer, SharedConv2d):  # a single convolution over the inputs of both
            parts |= {layer.own, layer.shared}
            inputs = layer.own.in_channels
            whole = torch.cat([layer.own.weight, layer.shared.weight], dim=1).detach()
            nn.init.kaiming_normal_(whole, nonlinearity="relu")
            layer.own.weight.data.copy_(whole[:, :inputs])
            layer.shared.weight.data.copy_(whole[:, inputs:])
        elif isinstance(layer, nn.Conv2d) and layer not in parts:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if isinstance(layer, ResidualBlock):
            layer.conv2.weight.data.mul_(0.5)
