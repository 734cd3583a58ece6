"""Section 3.3: the decoder with its refinement modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResidualBlock(nn.Module):
    """Pre-activation residual block without normalisation (He et al., Identity mappings, 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = nn.Identity() if inputs == outputs else _conv(inputs, outputs)
        self.conv1 = _conv(inputs, outputs)
        self.conv2 = _conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.conv1(F.relu(x)), inplace=True)
        return self.conv2(inner).add_(self.shortcut(x))


class Refinement(nn.Module):
    """Add the query encoder's finer map to the coarse prediction of each object."""

    def __init__(self, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.skip = nn.Sequential(_conv(skip_channels, channels), ResidualBlock(channels, channels))
        self.merge = ResidualBlock(channels, channels)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """skip (B, C', H, W) and coarse (B * O, C, H / 2, W / 2) -> (B * O, C, H, W).

        A coarse map of the skip's own size (memory read at stride 8) is not enlarged.
        """
        finer = self.skip(skip)
        if finer.is_contiguous(memory_format=torch.channels_last):  # adding maps of two layouts is slow
            coarse = coarse.contiguous(memory_format=torch.channels_last)
        if coarse.shape[-2:] != skip.shape[-2:]:
            coarse = F.interpolate(coarse, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.merge(_add_shared(coarse, finer))


class Decoder(nn.Module):
    """Read-out and query -> two logits (not the object, the object) for each object, at full size.

    Args:
        value_channels: C_v; the read-out and the query's value have as many each.
        skip_channels: of the query encoder's maps at strides 4 and 8.
        channels: width of every layer but the last.
    """

    def __init__(self, value_channels: int, skip_channels: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.compress = _conv(2 * value_channels, channels)  # over cat[read-out, query value], equation 1
        self.residual = ResidualBlock(channels, channels)
        self.refine8 = Refinement(skip_channels[1], channels)
        self.refine4 = Refinement(skip_channels[0], channels)
        self.predict = _conv(channels, 2)

    def forward(self, readout: Tensor, query_value: Tensor, skips: tuple[Tensor, Tensor]) -> Tensor:
        """Decode each object of each clip.

        Args:
            readout: (B, O, C_v, h, w).
            query_value: (B, C_v, h, w).
            skips: the query encoder's maps at strides 4 and 8.

        Returns:
            Logits (B, O, 2, H, W).
        """
        batch, objects, value_channels = readout.shape[:3]
        # A convolution of the concatenation is the sum of two: the query's half is the same for all objects.
        of_readout, of_query = self.compress.weight.split(value_channels, dim=1)
        x = F.conv2d(readout.flatten(0, 1), of_readout, self.compress.bias, padding=1)
        x = _add_shared(x, F.conv2d(query_value, of_query, padding=1))
        x = self.residual(x)
        x = self.refine8(skips[1], x)
        x = self.refine4(skips[0], x)
        x = self.predict(F.relu(x))
        x = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
        return x.unflatten(0, (batch, objects))


def _add_shared(of_objects: Tensor, shared: Tensor) -> Tensor:
    """Add a map of each clip (B, ...) to the maps of its objects (B * O, ...)."""
    return (of_objects.unflatten(0, (len(shared), -1)) + shared[:, None]).flatten(0, 1)


def init_without_norm(module: nn.Module) -> None:
    """Initialise convolutions that no normalisation follows: Kaiming's, residual branches begun at half.

    Without it a network from scratch starts with exploding logits (no normalisation in the decoder, 3.3).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, ResidualBlock):
            layer.conv2.weight.data.mul_(0.5)
