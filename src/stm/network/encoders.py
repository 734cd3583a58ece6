"""The query encoder and the memory encoder, which also takes masks (section 3.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stm.network.backbones import Trunk
from stm.network.decoder import ResidualBlock, split_objects
from stm.network.efficientnet import SamePadConv2d


class Query(NamedTuple):
    """Output of the query encoder for a frame, shared by all objects.

    Attributes:
        key: (B, C_k, h, w).
        value: (B, C_v, h, w).
        skips: the trunk's maps at strides 4 and 8, for the decoder; empty once the frame is decoded.
        feature: the map at the read stride that key and value are computed from.
    """

    key: Tensor
    value: Tensor
    skips: tuple[Tensor, ...]
    feature: Tensor

    def without_skips(self) -> Query:
        """Return the query without the maps for the decoder, which take most of its memory."""
        return self._replace(skips=())


class QueryEncoder(nn.Module):
    """Query encoder: key and value from two parallel convolutions on the trunk's last map.

    Args:
        trunk: the backbone.
        key_channels: C_k.
        value_channels: C_v.
        fused_stride: None for the trunk's last map alone; 8 or 16 for its maps at strides 8 and 16 together,
            resized to that stride.

    Attributes:
        feature_channels: channels of the map that key and value are computed from.
    """

    def __init__(
        self, trunk: Trunk, key_channels: int, value_channels: int, fused_stride: int | None = None
    ) -> None:
        super().__init__()
        self.trunk, self.fused_stride = trunk, fused_stride
        self.feature_channels = trunk.channels[-1] + (0 if fused_stride is None else trunk.channels[1])
        self.key = nn.Conv2d(self.feature_channels, key_channels, 3, padding=1)
        self.value = nn.Conv2d(self.feature_channels, value_channels, 3, padding=1)

    def forward(self, frame: Tensor) -> Query:
        """Encode normalized frames (B, 3, H, W)."""
        *skips, feature = self.trunk(frame)
        if self.fused_stride == 8:
            coarse = F.interpolate(feature, scale_factor=2, mode="bilinear", align_corners=False)
            feature = torch.cat([coarse, skips[1]], dim=1)
        elif self.fused_stride == 16:
            feature = torch.cat([feature, F.avg_pool2d(skips[1], 2)], dim=1)
        return Query(self.key(feature), self.value(feature), tuple(skips), feature)


class MemoryEncoder(nn.Module):
    """Memory encoder: a value and, as in the paper, a key for each object of a frame with its masks.

    Args:
        trunk: a backbone of its own.
        key_channels: C_k, or None if the keys come from the image alone (STCN); the value then also sees the
            query encoder's last map.
        value_channels: C_v.
        query_channels: channels of the query encoder's last map.
        other_objects_channel: add an input channel with the sum of all other objects' masks, as in the
            published code.

    Attributes:
        chunk_cells: objects are encoded in chunks with at most this many cells at stride 4 in total, but at
            least one object per chunk; None for a single chunk.
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
        self.chunk_cells: int | None = None
        self.trunk = trunk
        self.mask_stem = _extra_channel_stem(trunk.stem)
        self.others_stem = _extra_channel_stem(trunk.stem) if other_objects_channel else None
        self.key: nn.Conv2d | None
        self.value: nn.Module
        if key_channels is None:
            self.key = None
            self.value = ResidualBlock(trunk.channels[-1] + query_channels, value_channels)
        else:
            self.key = nn.Conv2d(trunk.channels[-1], key_channels, 3, padding=1)
            self.value = nn.Conv2d(trunk.channels[-1], value_channels, 3, padding=1)

    def forward(self, frame: Tensor, masks: Tensor, query: Query | None) -> tuple[Tensor | None, Tensor]:
        """Encode each object of each clip separately.

        Args:
            frame: normalized, (B, 3, H, W).
            masks: (B, O, H, W) in 0..1, given or predicted.
            query: the query of the same frame; required only if the keys come from the image alone.

        Returns:
            key (B, O, C_k, h, w) or None, and value (B, O, C_v, h, w).
        """
        others = (masks.sum(1, keepdim=True) - masks).clamp(0, 1) if self.others_stem is not None else masks
        cells = frame.shape[-2] * frame.shape[-1] // 16
        own_chunks, other_chunks = (split_objects(x, cells, self.chunk_cells) for x in (masks, others))
        chunks = zip(own_chunks, other_chunks, strict=True)
        encoded = [self._encode_chunk(frame, own, other, query) for own, other in chunks]
        if len(encoded) == 1:
            return encoded[0]
        keys, values = zip(*encoded, strict=True)
        return None if self.key is None else torch.cat(keys, dim=1), torch.cat(values, dim=1)

    def _encode_chunk(
        self, frame: Tensor, masks: Tensor, others: Tensor, query: Query | None
    ) -> tuple[Tensor | None, Tensor]:
        """Encode some objects; `others` are the summed masks of all objects but each of them."""
        batch, objects = masks.shape[:2]
        feature = self.trunk(frame, self._mask_features(masks, others))[-1]
        if self.key is None:
            assert query is not None
            query_feature = query.feature.repeat_interleave(objects, dim=0)
            value = self.value(torch.cat([feature, query_feature], dim=1))
            return None, value.unflatten(0, (batch, objects))
        key, value = self.key(feature), self.value(feature)
        return key.unflatten(0, (batch, objects)), value.unflatten(0, (batch, objects))

    def _mask_features(self, masks: Tensor, others: Tensor) -> Tensor:
        """Convolve masks (B, O, H, W) like further channels of the frame, to (B * O, C, H / 2, W / 2)."""
        own, stem = masks.flatten(0, 1)[:, None], self.mask_stem
        if self.others_stem is None:
            return stem(own)
        # One convolution over both, channels last if the frame's is: one channel alone takes three times as
        # long as two.
        weight = torch.cat([stem.weight, self.others_stem.weight], dim=1)
        if self.trunk.stem.weight.is_contiguous(memory_format=torch.channels_last):
            weight = weight.contiguous(memory_format=torch.channels_last)
        both = torch.cat([own, others.flatten(0, 1)[:, None]], dim=1)
        if isinstance(stem, SamePadConv2d):
            both = stem.pad(both)
        return F.conv2d(both, weight, None, stem.stride, stem.padding)


def _extra_channel_stem(stem: nn.Conv2d) -> nn.Conv2d:
    """Return randomly initialized filters for a further input channel of the stem (section 3.1)."""
    shape: Any = {name: getattr(stem, name) for name in ("kernel_size", "stride", "padding")}
    extra = type(stem)(1, stem.out_channels, bias=False, **shape)
    nn.init.kaiming_normal_(extra.weight, mode="fan_out", nonlinearity="relu")
    return extra
