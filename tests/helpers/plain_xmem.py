"""Plain XMem network: anisotropic L2 similarity and sensory memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.plain_blocks import (
    FeatureFusionBlock,
    KeyEncoder,
    MaskEncoder,
    UpsampleBlock,
    conv3x3,
    upsample,
)

HIDDEN = 64  # channels of the sensory memory


def similarity(keys: Tensor, shrinkage: Tensor, query: Tensor, selection: Tensor) -> Tensor:
    """Compute -s * sum_c e_c (m_c - q_c)^2 / sqrt(C), (1, N, Q).

    Args:
        keys: memory keys m (1, C, N).
        shrinkage: s of each memory position (1, 1, N).
        query: query keys q (1, C, Q).
        selection: e of each query position (1, C, Q).
    """
    squared = keys.square().transpose(1, 2) @ selection
    mixed = keys.transpose(1, 2) @ (query * selection)
    own = (selection * query.square()).sum(dim=1, keepdim=True)
    return (2 * mixed - squared - own) * shrinkage.transpose(1, 2) / math.sqrt(keys.shape[1])


def gated_update(values: Tensor, hidden: Tensor) -> Tensor:
    """Update a hidden state by forget gate, update gate and new value, the thirds of `values`."""
    forget, update, new = values.split(HIDDEN, dim=1)
    forget, update = torch.sigmoid(forget), torch.sigmoid(update)
    return forget * hidden * (1 - update) + update * torch.tanh(new)


class HiddenReinforcer(nn.Module):
    """Deep update of the sensory memory by the value of a memory frame."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = conv3x3(512 + HIDDEN, 3 * HIDDEN)

    def forward(self, value: Tensor, hidden: Tensor) -> Tensor:
        return gated_update(self.transform(torch.cat([value, hidden], dim=1)), hidden)


class HiddenUpdater(nn.Module):
    """Update of the sensory memory by the decoder's features at three strides."""

    def __init__(self) -> None:
        super().__init__()
        self.g16_conv = nn.Conv2d(512, 256, 1)
        self.g8_conv = nn.Conv2d(256, 256, 1)
        self.g4_conv = nn.Conv2d(256 + 1, 256, 1)
        self.transform = conv3x3(256 + HIDDEN, 3 * HIDDEN)

    def forward(self, g16: Tensor, g8: Tensor, g4: Tensor, hidden: Tensor) -> Tensor:
        g = self.g16_conv(g16) + self.g8_conv(F.avg_pool2d(g8, 2)) + self.g4_conv(F.avg_pool2d(g4, 4))
        return gated_update(self.transform(torch.cat([g, hidden], dim=1)), hidden)


class KeyProjection(nn.Module):
    """Projections of the stride-16 feature to key, shrinkage and selection."""

    def __init__(self) -> None:
        super().__init__()
        self.key_proj = conv3x3(1024, 64)
        self.d_proj = conv3x3(1024, 1)
        self.e_proj = conv3x3(1024, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.key_proj(x), self.d_proj(x).square() + 1, torch.sigmoid(self.e_proj(x))


class ValueEncoder(MaskEncoder):
    """ResNet-18 without convolution biases, fused with the key encoder's feature, image first."""

    def __init__(self, sensory: bool) -> None:
        super().__init__("resnet18", conv_bias=False)
        self.fuser = FeatureFusionBlock(1024 + 256, 512)
        self.hidden_reinforce = HiddenReinforcer() if sensory else None

    def forward(
        self, image: Tensor, f16: Tensor, masks_OHW: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        features = self.features(image, masks_OHW)
        value = self.fuser(f16.expand(len(masks_OHW), -1, -1, -1), features)
        if self.hidden_reinforce is None or hidden is None:
            return value, None
        return value, self.hidden_reinforce(value, hidden)


class Decoder(nn.Module):
    """Image feature, readout and sensory memory -> one logit a pixel for each object."""

    def __init__(self, sensory: bool) -> None:
        super().__init__()
        self.fuser = FeatureFusionBlock(1024 + 512 + (HIDDEN if sensory else 0), 512)
        self.hidden_update = HiddenUpdater() if sensory else None
        self.up_16_8 = UpsampleBlock(512, 512, 256)
        self.up_8_4 = UpsampleBlock(256, 256, 256)
        self.pred = conv3x3(256, 1)

    def forward(
        self, features: tuple[Tensor, Tensor, Tensor], readout: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        f16, f8, f4 = (x.expand(len(readout), -1, -1, -1) for x in features)
        g16 = self.fuser(f16, readout) if hidden is None else self.fuser(f16, readout, hidden)
        g8 = self.up_16_8(f8, g16)
        g4 = self.up_8_4(f4, g8)
        logits = self.pred(F.relu(g4))
        if self.hidden_update is not None and hidden is not None:
            hidden = self.hidden_update(g16, g8, torch.cat([g4, logits], dim=1), hidden)
        return upsample(logits, 4), hidden


class XMem(nn.Module):
    """The network of the published XMem checkpoints.

    Args:
        sensory: False for the checkpoint without sensory memory.
    """

    def __init__(self, sensory: bool = True) -> None:
        super().__init__()
        self.sensory = sensory
        self.key_encoder = KeyEncoder()
        self.value_encoder = ValueEncoder(sensory)
        self.key_proj = KeyProjection()
        self.decoder = Decoder(sensory)
