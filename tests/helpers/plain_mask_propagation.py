"""Plain Mask-Propagation: STM's keys of image and mask, top-k read, one-channel head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.plain_blocks import KeyEncoder, MaskEncoder, ResBlock, conv3x3, upsample


class KeyValue(nn.Module):
    """Parallel projections to key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.key_proj = conv3x3(1024, 128)
        self.val_proj = conv3x3(1024, 512)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.key_proj(x), self.val_proj(x)


class SkipUpsampleBlock(nn.Module):
    """Upsampling block with a residual block on the skip feature."""

    def __init__(self, skip_channels: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.skip_conv1 = conv3x3(skip_channels, inputs)
        self.skip_conv2 = ResBlock(inputs, inputs)
        self.out_conv = ResBlock(inputs, outputs)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return self.out_conv(self.skip_conv2(self.skip_conv1(skip)) + upsample(coarse, 2))


class Decoder(nn.Module):
    """Readout and query value -> one logit a pixel for each object."""

    def __init__(self) -> None:
        super().__init__()
        self.compress = ResBlock(1024, 512)
        self.up_16_8 = SkipUpsampleBlock(512, 512, 256)
        self.up_8_4 = SkipUpsampleBlock(256, 256, 256)
        self.pred = conv3x3(256, 1)

    def forward(self, f16: Tensor, f8: Tensor, f4: Tensor) -> Tensor:
        x = self.up_16_8(f8, self.compress(f16))
        x = self.up_8_4(f4, x)
        return upsample(self.pred(F.relu(x)), 4)


class MaskPropagation(nn.Module):
    """The network of the published Mask-Propagation checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_rgb_encoder = MaskEncoder("resnet50", conv_bias=True)
        self.rgb_encoder = KeyEncoder()
        self.kv_m_f16 = KeyValue()
        self.kv_q_f16 = KeyValue()
        self.decoder = Decoder()

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return query key (1, 128, h, w), query value (1, 512, h, w) and the features at strides 8 and 4."""
        f16, f8, f4 = self.rgb_encoder(image)
        key, value = self.kv_q_f16(f16)
        return key, value, f8, f4

    def memorize(self, image: Tensor, masks_OHW: Tensor, query: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return key (O, 128, h, w) and value (O, 512, h, w); the query is not needed."""
        return self.kv_m_f16(self.mask_rgb_encoder.features(image, masks_OHW))

    def similarity(self, keys_OCN: Tensor, query: tuple[Tensor, ...]) -> Tensor:
        """Return m.q / sqrt(C), (O, N, Q)."""
        query_1CQ = query[0].flatten(2)
        return keys_OCN.transpose(1, 2) @ query_1CQ / math.sqrt(keys_OCN.shape[1])

    def segment(self, query: tuple[Tensor, ...], readout_OChw: Tensor) -> Tensor:
        """Return each object's own probability (O, H, W)."""
        _, value, f8, f4 = (x.expand(len(readout_OChw), -1, -1, -1) for x in query)
        return torch.sigmoid(self.decoder(torch.cat([readout_OChw, value], dim=1), f8, f4))[:, 0]
