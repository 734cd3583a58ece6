"""Section 3.1: the query encoder, and the memory encoder that also sees masks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stm.network.backbones import Trunk
from stm.network.decoder import ResidualBlock, by_objects


class Query(NamedTuple):
    """A frame as the query encoder sees it; the same for all objects.

    Attributes:
        key: (B, C_k, h, w).
        value: (B, C_v, h, w).
        skips: the trunk's maps at strides 4 and 8, for the decoder; none where the frame is decoded.
        feature: the trunk's map at the read stride.
    """

    key: Tensor
    value: Tensor
    skips: tuple[Tensor, ...]
    feature: Tensor

    def decoded(self) -> Query:
        """What is left to use once the frame is decoded: most of the memory that it takes is the skips'."""
        return self._replace(skips=())


class QueryEncoder(nn.Module):
    """Frame -> query key and value, through two parallel convolutions on the trunk's last map."""

    def __init__(self, trunk: Trunk, key_channels: int, value_channels: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.key = nn.Conv2d(trunk.channels[-1], key_channels, 3, padding=1)
        self.value = nn.Conv2d(trunk.channels[-1], value_channels, 3, padding=1)

    def forward(self, frame: Tensor) -> Query:
        """Encode normalized frames (B, 3, H, W)."""
        *skips, feature = self.trunk(frame)
        return Query(self.key(feature), self.value(feature), tuple(skips), feature)


class MemoryEncoder(nn.Module):
    """Frame and masks -> memory value and, as the paper has it, memory key of each object.

    Args:
        trunk: a backbone of its own.
        key_channels: C_k, or None where the keys come from the image alone (STCN): then the value also sees
            the query encoder's last map, `query_channels` wide.
        other_objects_channel: also plant a channel for all other objects' masks together, as the published code.

    Attributes:
        cells_at_once: objects are encoded as many at a time as have so many cells at stride 4, at least one;
            None for all.
    """

    def __init__(
        self,
        trunk: Trunk,
        key_channels: int | None,
        value_channels: int,
        query_channels: int,
        other_objects_channel: bool,
    ) -> None:
        super().__init__()
        self.cells_at_once: int | None = None
        self.trunk = trunk
        self.mask_stem = _planted(trunk.stem)
        self.others_stem = _planted(trunk.stem) if other_objects_channel else None
        self.key: nn.Conv2d | None
        self.value: nn.Module
        if key_channels is None:
            self.key = None
            self.value = ResidualBlock(trunk.channels[-1] + query_channels, value_channels)
        else:
            self.key = nn.Conv2d(trunk.channels[-1], key_channels, 3, padding=1)
            self.value = nn.Conv2d(trunk.channels[-1], value_channels, 3, padding=1)

    def forward(self, frame: Tensor, masks: Tensor, query: Query | None) -> tuple[Tensor | None, Tensor]:
        """Encode each object of each clip on its own.

        Args:
            frame: normalized, (B, 3, H, W).
            masks: (B, O, H, W) in 0..1, given or predicted.
            query: the same frame's query; only looked at where the keys come from the image alone.

        Returns:
            key (B, O, C_k, h, w) or None, and value (B, O, C_v, h, w).
        """
        others = (masks.sum(1, keepdim=True) - masks).clamp(0, 1) if self.others_stem is not None else masks
        cells = frame.shape[-2] * frame.shape[-1] // 16
        of_masks, of_others = (by_objects(maps, cells, self.cells_at_once) for maps in (masks, others))
        done = [self._some(frame, *some, query) for some in zip(of_masks, of_others, strict=True)]
        if len(done) == 1:
            return done[0]
        keys, values = zip(*done, strict=True)
        return None if self.key is None else torch.cat(keys, dim=1), torch.cat(values, dim=1)

    def _some(
        self, frame: Tensor, masks: Tensor, others: Tensor, query: Query | None
    ) -> tuple[Tensor | None, Tensor]:
        """What `forward` gives, of some of the objects; `others` are masks of all but each of them."""
        batch, objects = masks.shape[:2]
        feature = self.trunk(frame, self._plant(masks, others))[-1]
        if self.key is None:
            assert query is not None
            seen = query.feature.repeat_interleave(objects, dim=0)
            value = self.value(torch.cat([feature, seen], dim=1))
            return None, value.unflatten(0, (batch, objects))
        key, value = self.key(feature), self.value(feature)
        return key.unflatten(0, (batch, objects)), value.unflatten(0, (batch, objects))

    def _plant(self, masks: Tensor, others: Tensor) -> Tensor:
        """What masks (B, O, H, W) add to the first convolution of the frame, (B * O, C, H / 2, W / 2)."""
        own, stem = masks.flatten(0, 1)[:, None], self.mask_stem
        if self.others_stem is None:
            return stem(own)
        # One convolution, channels last where the frame's is: one channel takes three times as long as two.
        weight = torch.cat([stem.weight, self.others_stem.weight], dim=1)
        if self.trunk.stem.weight.is_contiguous(memory_format=torch.channels_last):
            weight = weight.contiguous(memory_format=torch.channels_last)
        both = torch.cat([own, others.flatten(0, 1)[:, None]], dim=1)
        return F.conv2d(both, weight, None, stem.stride, stem.padding)


def _planted(stem: nn.Conv2d) -> nn.Conv2d:
    """A further input channel for a first convolution: randomly initialized filters (section 3.1)."""
    shape: Any = {name: getattr(stem, name) for name in ("kernel_size", "stride", "padding")}
    planted = nn.Conv2d(1, stem.out_channels, bias=False, **shape)
    nn.init.kaiming_normal_(planted.weight, mode="fan_out", nonlinearity="relu")
    return planted
