"""The decoder (section 3.3) and soft aggregation over objects (section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-7


class ResidualBlock(nn.Module):
    """Pre-activation residual block without normalization (He et al., Identity mappings, 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = nn.Identity() if inputs == outputs else _conv(inputs, outputs)
        self.conv1 = _conv(inputs, outputs)
        self.conv2 = _conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        inner = F.relu(self.conv1(F.relu(x)), inplace=True)
        return self.conv2(inner).add_(self.shortcut(x))


class Refinement(nn.Module):
    """Refinement module: merges the coarse map of each object with a finer map of the query encoder.

    Args:
        skip_channels: channels of the finer map.
        channels: channels of the result.
        narrow_from: channels of the coarse map if it is wider; a 1x1 convolution then narrows it, and the
            finer map passes a single convolution, which together take a fifth of the time.
    """

    def __init__(self, skip_channels: int, channels: int, narrow_from: int | None = None) -> None:
        super().__init__()
        self.narrow: nn.Conv2d | None = None
        self.skip = nn.Sequential(_conv(skip_channels, channels))
        if narrow_from is None:
            self.skip.append(ResidualBlock(channels, channels))
        else:
            self.narrow = nn.Conv2d(narrow_from, channels, 1)
        self.merge = ResidualBlock(channels, channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Merge a coarse and a finer map.

        Args:
            coarse: (B * O, C, H / 2, W / 2), or already (B * O, C, H, W) if the memory is read at stride 8.
            skip: (B, C, H, W), the output of `self.skip`, shared by the objects of a clip.

        Returns:
            (B * O, C, H, W).
        """
        if self.narrow is not None:
            coarse = self.narrow(coarse)
        return self.merge(_add_shared(_resize_like(coarse, skip), skip))


class Decoder(nn.Module):
    """Decoder: two logits (background, object) for each object, at the frame's size.

    Args:
        value_channels: C_v, the channels of the readout and of the query value.
        skip_channels: channels of the query encoder's maps at strides 4 and 8.
        channels: width of every layer except the last.
        fine_channels: width at stride 4 if it is smaller, see `Refinement`.

    Attributes:
        chunk_cells: objects are decoded in chunks with at most this many cells at stride 4 in total, but at
            least one object per chunk; None for a single chunk.
    """

    def __init__(
        self,
        value_channels: int,
        skip_channels: tuple[int, int],
        channels: int,
        fine_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.chunk_cells: int | None = None
        self.compress = _conv(2 * value_channels, channels)  # over cat[readout, query value], equation 1
        self.residual = ResidualBlock(channels, channels)
        self.refine8 = Refinement(skip_channels[1], channels)
        if fine_channels is None:
            self.refine4 = Refinement(skip_channels[0], channels)
        else:
            self.refine4 = Refinement(skip_channels[0], fine_channels, narrow_from=channels)
        self.predict = _conv(fine_channels or channels, 2)

    def forward(self, readout: Tensor, query_value: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Decode each object of each clip.

        Args:
            readout: (B, O, C_v, h, w).
            query_value: (B, C_v, h, w).
            skips: the query encoder's maps at strides 4 and 8.

        Returns:
            Logits (B, O, 2, H, W).
        """
        # A convolution of the concatenation is the sum of two; the query's half is the same for all objects.
        readout_weight, query_weight = self.compress.weight.split(query_value.shape[1], dim=1)
        shared = (
            F.conv2d(query_value, query_weight, padding=1),
            self.refine8.skip(skips[1]),
            self.refine4.skip(skips[0]),
        )
        chunks = split_objects(readout, skips[0].shape[-2] * skips[0].shape[-1], self.chunk_cells)
        logits = [self._decode_chunk(chunk, readout_weight, *shared) for chunk in chunks]
        return torch.cat(logits, dim=1) if len(logits) > 1 else logits[0]

    def _decode_chunk(
        self, readout: Tensor, weight: Tensor, shared16: Tensor, shared8: Tensor, shared4: Tensor
    ) -> Tensor:
        """Decode some objects; `shared*` are the frame's maps at strides 16, 8 and 4."""
        x = F.conv2d(readout.flatten(0, 1), weight, self.compress.bias, padding=1)
        x = _add_shared(x, shared16)
        x = self.residual(x)
        x = self.refine8(x, shared8)
        x = self.refine4(x, shared4)
        x = self.predict(F.relu(x))
        x = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
        return x.unflatten(0, readout.shape[:2])


def soft_aggregation(probabilities: Tensor, present: Tensor | None = None) -> Tensor:
    """Merge the objects' separate probabilities into logits over background and objects (section 3.4).

    The background's probability is the product of (1 - p_o). Each label's logit is the log-odds of its
    probability; a softmax over labels gives the merged probabilities. The computation runs in float32
    because 1e-7 does not exist in half precision.

    Args:
        probabilities: (B, O, H, W), the probability of each object on its own, in 0..1.
        present: bool (B, O); False marks slots that pad the batch. They get the logit -inf and do not affect
            the others. All are present by default.

    Returns:
        Logits (B, O + 1, H, W), background first.
    """
    p = probabilities.float()
    if present is not None:
        p = p * present[..., None, None]
    merged = torch.cat([(1 - p).prod(dim=1, keepdim=True), p], dim=1).clamp(EPSILON, 1 - EPSILON)
    logits = torch.log(merged / (1 - merged))
    if present is None:
        return logits
    padding = torch.cat([torch.zeros_like(present[:, :1]), ~present], dim=1)
    return logits.masked_fill(padding[..., None, None], float("-inf"))


def split_objects(maps: Tensor, cells: int, chunk_cells: int | None) -> Sequence[Tensor]:
    """Split maps (B, O, ...) along the objects.

    Args:
        maps: (B, O, ...).
        cells: cells of one object.
        chunk_cells: maximum number of cells in a chunk, which holds at least one object; None for no split.
    """
    return (maps,) if chunk_cells is None else maps.split(max(1, chunk_cells // cells), dim=1)


def init_without_norm(module: nn.Module) -> None:
    """Initialize convolutions without normalization: Kaiming, with residual branches scaled by one half.

    Otherwise a network trained from scratch starts with exploding logits, since the decoder has no
    normalization (section 3.3).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, ResidualBlock):
            layer.conv2.weight.data.mul_(0.5)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _resize_like(coarse: Tensor, target: Tensor) -> Tensor:
    """Resize a map to another's size and memory layout; adding maps of two layouts is slow."""
    if target.is_contiguous(memory_format=torch.channels_last):
        coarse = coarse.contiguous(memory_format=torch.channels_last)
    if coarse.shape[-2:] != target.shape[-2:]:
        coarse = F.interpolate(coarse, size=target.shape[-2:], mode="bilinear", align_corners=False)
    return coarse


def _add_shared(object_maps: Tensor, shared: Tensor) -> Tensor:
    """Add the map of each clip (B, ...) to the maps of its objects (B * O, ...)."""
    return (object_maps.unflatten(0, (len(shared), -1)) + shared[:, None]).flatten(0, 1)
