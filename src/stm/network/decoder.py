"""Section 3.3: the decoder with its refinement modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResidualBlock(nn.Module):
    """Pre-activation residual block without normalization (He et al., Identity mappings, 2016)."""

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

    def forward(self, coarse: Tensor, finer: Tensor) -> Tensor:
        """coarse (B * O, C, H / 2, W / 2) and finer, what `skip` gives, (B, C, H, W) -> (B * O, C, H, W).

        A coarse map of the finer one's own size (memory read at stride 8) is not enlarged.
        """
        return self.merge(_add_shared(_enlarged(coarse, finer), finer))


class Decoder(nn.Module):
    """Read-out and query -> two logits (not the object, the object) for each object, at full size.

    Args:
        value_channels: C_v; the read-out and the query's value have as many each.
        skip_channels: of the query encoder's maps at strides 4 and 8.
        channels: width of every layer but the last.

    Attributes:
        cells_at_once: objects are decoded as many at a time as have so many cells at stride 4, at least one;
            None for all.
    """

    def __init__(self, value_channels: int, skip_channels: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.cells_at_once: int | None = None
        self.compress = _conv(2 * value_channels, channels)  # over cat[read-out, query value], equation 1
        self.residual = ResidualBlock(channels, channels)
        self.refine8 = Refinement(skip_channels[1], channels)
        self.refine4 = Refinement(skip_channels[0], channels)
        self.predict = _conv(channels, 2)

    def forward(self, readout: Tensor, query_value: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Decode each object of each clip.

        Args:
            readout: (B, O, C_v, h, w).
            query_value: (B, C_v, h, w).
            skips: the query encoder's maps at strides 4 and 8.

        Returns:
            Logits (B, O, 2, H, W).
        """
        # A convolution of the concatenation is the sum of two: the query's half is the same for all objects.
        of_readout, of_query = self.compress.weight.split(query_value.shape[1], dim=1)
        of_frame = (
            F.conv2d(query_value, of_query, padding=1),
            self.refine8.skip(skips[1]),
            self.refine4.skip(skips[0]),
        )
        parts = by_objects(readout, skips[0].shape[-2] * skips[0].shape[-1], self.cells_at_once)
        done = [self._some(some, of_readout, *of_frame) for some in parts]
        return torch.cat(done, dim=1) if len(done) > 1 else done[0]

    def _some(
        self, readout: Tensor, weight: Tensor, coarse: Tensor, finer8: Tensor, finer4: Tensor
    ) -> Tensor:
        """What `forward` gives, of some of the objects; maps at strides 16, 8 and 4 are the frame's."""
        x = F.conv2d(readout.flatten(0, 1), weight, self.compress.bias, padding=1)
        x = _add_shared(x, coarse)
        x = self.residual(x)
        x = self.refine8(x, finer8)
        x = self.refine4(x, finer4)
        x = self.predict(F.relu(x))
        x = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
        return x.unflatten(0, readout.shape[:2])


def by_objects(maps: Tensor, cells: int, most: int | None) -> Sequence[Tensor]:
    """Maps (B, O, ...), as many objects at a time as have at most so many cells together, at least one.

    Args:
        cells: of an object.
        most: None for all objects at once.
    """
    return (maps,) if most is None else maps.split(max(1, most // cells), dim=1)


def _enlarged(coarse: Tensor, finer: Tensor) -> Tensor:
    """A map at the size of another, and in its layout, since adding maps of two layouts is slow."""
    if finer.is_contiguous(memory_format=torch.channels_last):
        coarse = coarse.contiguous(memory_format=torch.channels_last)
    if coarse.shape[-2:] != finer.shape[-2:]:
        coarse = F.interpolate(coarse, size=finer.shape[-2:], mode="bilinear", align_corners=False)
    return coarse


def _add_shared(of_objects: Tensor, shared: Tensor) -> Tensor:
    """Add a map of each clip (B, ...) to the maps of its objects (B * O, ...)."""
    return (of_objects.unflatten(0, (len(shared), -1)) + shared[:, None]).flatten(0, 1)


def init_without_norm(module: nn.Module) -> None:
    """Initialize convolutions that no normalization follows: Kaiming's, residual branches begun at half.

    Without it a network from scratch starts with exploding logits (no normalization in the decoder, 3.3).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, ResidualBlock):
            layer.conv2.weight.data.mul_(0.5)
