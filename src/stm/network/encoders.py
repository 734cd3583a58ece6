"""The query encoder and the memory encoder, which also takes masks (section 3.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stm.network.backbones import Trunk
from stm.network.blocks import FeatureFusion, ResidualBlock, SharedMaps, conv3x3
from stm.network.decoder import split_objects
from stm.network.efficientnet import SamePadConv2d
from stm.network.memory_read import activate_key

VALUE_FUSIONS = ("none", "residual", "cbam")


class Query(NamedTuple):
    """Output of the query encoder for a frame, shared by all objects.

    Attributes:
        key: (B, C_k, h, w), with what `stm.network.memory_read.stored_channels` lists.
        value: (B, C_v, h, w); None if the decoder reads `feature` instead.
        skips: the trunk's maps at strides 4 and 8, for the decoder; empty once the frame is decoded.
        feature: the map at the read stride that key and value are computed from.
    """

    key: Tensor
    value: Tensor | None
    skips: tuple[Tensor, ...]
    feature: Tensor

    @property
    def decoded_map(self) -> Tensor:
        """The map that the decoder reads beside the readout: the value, or else the feature."""
        return self.feature if self.value is None else self.value

    def without_skips(self) -> Query:
        """Return the query without the maps for the decoder, which take most of its memory."""
        return self._replace(skips=())


class QueryEncoder(nn.Module):
    """Query encoder: key and value from two parallel convolutions on the trunk's last map.

    Args:
        trunk: the backbone.
        key_channels: channels of the stored key.
        value_channels: C_v, or None for no value.
        similarity: decides what the key consists of.
        fused_stride: None for the trunk's last map alone; 8 or 16 for its maps at strides 8 and 16 together,
            resized to that stride.

    Attributes:
        feature_channels: channels of the map that key and value are computed from.
    """

    def __init__(
        self,
        trunk: Trunk,
        key_channels: int,
        value_channels: int | None,
        similarity: str = "dot",
        fused_stride: int | None = None,
    ) -> None:
        super().__init__()
        self.trunk, self.similarity, self.fused_stride = trunk, similarity, fused_stride
        self.feature_channels = trunk.channels[-1] + (0 if fused_stride is None else trunk.channels[1])
        self.key = conv3x3(self.feature_channels, key_channels)
        self.value = None if value_channels is None else conv3x3(self.feature_channels, value_channels)

    def forward(self, frame: Tensor) -> Query:
        """Encode normalized frames (B, 3, H, W)."""
        *skips, feature = self.trunk(frame)
        if self.fused_stride == 8:
            coarse = F.interpolate(feature, scale_factor=2, mode="bilinear", align_corners=False)
            feature = torch.cat([coarse, skips[1]], dim=1)
        elif self.fused_stride == 16:
            feature = torch.cat([feature, F.avg_pool2d(skips[1], 2)], dim=1)
        value = None if self.value is None else self.value(feature)
        return Query(activate_key(self.key(feature), self.similarity), value, tuple(skips), feature)


class MemoryEncoder(nn.Module):
    """Memory encoder: a value and, as in the paper, a key for each object of a frame with its masks.

    Args:
        trunk: a backbone of its own.
        key_channels: channels of the stored key, or None if the keys come from the image alone (STCN).
        value_channels: C_v.
        query_channels: channels of the query encoder's feature.
        other_objects_channel: add an input channel with the sum of all other objects' masks, as in the
            published code.
        value_fusion: how the value sees the query encoder's last map: 'none', by a 'residual' block, or by a
            residual block, 'cbam' and another residual block (STCN, XMem).
        similarity: decides what the key consists of.

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
        value_fusion: str = "none",
        similarity: str = "dot",
    ) -> None:
        super().__init__()
        self.chunk_cells: int | None = None
        self.trunk, self.similarity = trunk, similarity
        self.mask_stem = _extra_channel_stem(trunk.stem)
        self.others_stem = _extra_channel_stem(trunk.stem) if other_objects_channel else None
        own = trunk.channels[-1]
        self.key = None if key_channels is None else conv3x3(own, key_channels)
        self.value: nn.Module = {
            "none": lambda: conv3x3(own, value_channels),
            "residual": lambda: ResidualBlock(own, value_channels, query_channels),
            "cbam": lambda: FeatureFusion(own, value_channels, query_channels),
        }[value_fusion]()

    @property
    def fuses_query(self) -> bool:
        """Whether the value depends on the query encoder's last map."""
        return isinstance(self.value, ResidualBlock | FeatureFusion)

    def forward(self, frame: Tensor, masks: Tensor, query: Query | None) -> tuple[Tensor | None, Tensor]:
        """Encode each object of each clip separately.

        Args:
            frame: normalized, (B, 3, H, W).
            masks: (B, O, H, W) in 0..1, given or predicted.
            query: the query of the same frame; required only if `fuses_query`.

        Returns:
            key (B, O, C_k, h, w) or None, and value (B, O, C_v, h, w).
        """
        others = (masks.sum(1, keepdim=True) - masks).clamp(0, 1) if self.others_stem is not None else masks
        cells = frame.shape[-2] * frame.shape[-1] // 16
        shared: SharedMaps = ()
        if isinstance(self.value, ResidualBlock | FeatureFusion):
            assert query is not None
            shared = self.value.share(query.feature)
        chunks = (split_objects(maps, cells, self.chunk_cells) for maps in (masks, others))
        encoded = [self._encode_chunk(frame, own, rest, shared) for own, rest in zip(*chunks, strict=True)]
        if len(encoded) == 1:
            return encoded[0]
        keys, values = zip(*encoded, strict=True)
        return None if self.key is None else torch.cat(keys, dim=1), torch.cat(values, dim=1)

    def _encode_chunk(
        self, frame: Tensor, masks: Tensor, others: Tensor, shared: SharedMaps
    ) -> tuple[Tensor | None, Tensor]:
        """Encode some objects; `others` are the summed masks of all objects but each of them."""
        objects = masks.shape[:2]
        feature = self.trunk(frame, self._mask_features(masks, others))[-1]
        value = (self.value(feature, shared) if shared else self.value(feature)).unflatten(0, objects)
        if self.key is None:
            return None, value
        return activate_key(self.key(feature), self.similarity).unflatten(0, objects), value

    def _mask_features(self, masks: Tensor, others: Tensor) -> Tensor:
        """Convolve masks (B, O, H, W) like further channels of the frame, to (B * O, C, H / 2, W / 2)."""
        own, stem = masks.flatten(0, 1)[:, None], self.mask_stem
        if self.others_stem is None:
            return stem(own)
        if type(stem) not in (nn.Conv2d, SamePadConv2d):  # timm's pad or scale in ways of their own
            return stem(own) + self.others_stem(others.flatten(0, 1)[:, None])
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
