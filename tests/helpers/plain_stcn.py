"""Plain STCN: keys from the image alone, L2 similarity, one attention for all objects of a group."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.plain_blocks import (
    FeatureFusionBlock,
    KeyEncoder,
    MaskEncoder,
    ResBlock,
    UpsampleBlock,
    conv3x3,
    upsample,
)


class KeyProjection(nn.Module):
    """Projection of the stride-16 feature to the key."""

    def __init__(self) -> None:
        super().__init__()
        self.key_proj = conv3x3(1024, 64)


class ValueEncoder(MaskEncoder):
    """ResNet-18 with convolution biases; the mask feature is fused with the key encoder's feature."""

    def __init__(self) -> None:
        super().__init__("resnet18", conv_bias=True)
        self.fuser = FeatureFusionBlock(256 + 1024, 512)

    def forward(self, image: Tensor, f16: Tensor, masks_OHW: Tensor) -> Tensor:
        features = self.features(image, masks_OHW)
        return self.fuser(features, f16.expand(len(masks_OHW), -1, -1, -1))


class Decoder(nn.Module):
    """Readout and query feature -> one logit a pixel for each object."""

    def __init__(self) -> None:
        super().__init__()
        self.compress = ResBlock(1024, 512)
        self.up_16_8 = UpsampleBlock(512, 512, 256)
        self.up_8_4 = UpsampleBlock(256, 256, 256)
        self.pred = conv3x3(256, 1)

    def forward(self, f16: Tensor, f8: Tensor, f4: Tensor) -> Tensor:
        x = self.up_16_8(f8, self.compress(f16))
        x = self.up_8_4(f4, x)
        return upsample(self.pred(F.relu(x)), 4)


class STCN(nn.Module):
    """The network of the published STCN checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.key_encoder = KeyEncoder()
        self.value_encoder = ValueEncoder()
        self.key_proj = KeyProjection()
        self.key_comp = conv3x3(1024, 512)
        self.decoder = Decoder()

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return key (1, 64, h, w), query feature (1, 512, h, w) and the features at strides 16, 8 and 4."""
        f16, f8, f4 = self.key_encoder(image)
        return self.key_proj.key_proj(f16), self.key_comp(f16), f16, f8, f4

    def memorize(self, image: Tensor, masks_OHW: Tensor, query: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return key (1, 64, h, w) and value (O, 512, h, w)."""
        key, _, f16, _, _ = query
        return key, self.value_encoder(image, f16, masks_OHW)

    def similarity(self, keys_1CN: Tensor, query: tuple[Tensor, ...]) -> Tensor:
        """Return (2 m.q - |m|^2) / sqrt(C), (1, N, Q)."""
        query_1CQ = query[0].flatten(2)
        dot = keys_1CN.transpose(1, 2) @ query_1CQ
        return (2 * dot - keys_1CN.square().sum(dim=1)[..., None]) / math.sqrt(keys_1CN.shape[1])

    def segment(self, query: tuple[Tensor, ...], readout_OChw: Tensor) -> Tensor:
        """Return each object's own probability (O, H, W)."""
        _, feature, _, f8, f4 = (x.expand(len(readout_OChw), -1, -1, -1) for x in query)
        return torch.sigmoid(self.decoder(torch.cat([readout_OChw, feature], dim=1), f8, f4))[:, 0]
