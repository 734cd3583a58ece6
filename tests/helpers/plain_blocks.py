"""Building blocks of the plain references: image preparation, encoders, CBAM fusion, upsampling, top-k read.

Module names equal the names in the published checkpoints of STCN, Mask-Propagation and XMem, so that their
weights load strictly. Shape suffixes: O objects, C channels, N memory positions, Q query positions.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-7
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def padding(maps: Tensor) -> tuple[int, int, int, int]:
    """Return the padding (left, right, top, bottom) to multiples of 16, the odd pixel right and below."""
    height, width = -maps.shape[-2] % 16, -maps.shape[-1] % 16
    return width // 2, width - width // 2, height // 2, height - height // 2


def prepare(frame: Tensor) -> Tensor:
    """Normalize a frame (3, H, W) in 0..1, then pad it with zeros. Returns (1, 3, H', W')."""
    normalized = (frame - MEAN.to(frame)) / STD.to(frame)
    return F.pad(normalized, padding(frame))[None]


def crop(maps: Tensor, frame: Tensor) -> Tensor:
    """Undo the padding of maps (..., H', W') for a frame (3, H, W)."""
    left, _, top, _ = padding(frame)
    return maps[..., top : top + frame.shape[-2], left : left + frame.shape[-1]]


def aggregate(own_OHW: Tensor) -> Tensor:
    """Merge the objects' own probabilities (O, H, W) by soft aggregation, (O + 1, H, W), background first."""
    background = torch.prod(1 - own_OHW, dim=0, keepdim=True)
    merged = torch.cat([background, own_OHW]).clamp(EPSILON, 1 - EPSILON)
    return torch.softmax(torch.log(merged / (1 - merged)), dim=0)


def given_masks(labels: Tensor, known: Tensor | None) -> Tensor:
    """Merge given labels with the prediction for the objects known so far.

    Args:
        labels: padded labels (H, W); 0 means not labeled.
        known: predicted probabilities (K, H, W) of the objects known so far; None in the first frame.

    Returns:
        Probabilities (O + 1, H, W) after soft aggregation, background first. An object that is not among the
        labels keeps its prediction outside of the labeled pixels.
    """
    count = max(int(labels.max()), 0 if known is None else len(known))
    objects = labels.new_zeros((count, *labels.shape), dtype=torch.float32)
    if known is not None:
        objects[: len(known)] = known * (labels == 0)
    for label in labels.unique().tolist():
        if label:
            objects[label - 1] = (labels == label).float()
    return aggregate(objects)


def with_others(masks_OHW: Tensor) -> Tensor:
    """Return each object's mask beside the sum of the other objects' masks, (O, 2, H, W)."""
    return torch.stack([masks_OHW, masks_OHW.sum(dim=0) - masks_OHW], dim=1)


def top_k_softmax(similarity_ONQ: Tensor, top_k: int) -> Tensor:
    """Compute the softmax over the top k memory positions of each query position; 0 at the others."""
    top, positions = similarity_ONQ.topk(min(top_k, similarity_ONQ.shape[1]), dim=1)
    return torch.zeros_like(similarity_ONQ).scatter(1, positions, torch.softmax(top, dim=1))


def upsample(x: Tensor, factor: int) -> Tensor:
    """Enlarge maps bilinearly with align_corners=False."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution with bias that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResBlock(nn.Module):
    """Pre-activation residual block; `downsample` changes the width of the shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.downsample = conv3x3(inputs, outputs) if inputs != outputs else None
        self.conv1 = conv3x3(inputs, outputs)
        self.conv2 = conv3x3(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(F.relu(self.conv1(F.relu(x))))
        return residual + (x if self.downsample is None else self.downsample(x))


class ChannelGate(nn.Module):
    """CBAM's channel attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 16
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, narrow), nn.ReLU(), nn.Linear(narrow, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3)))
        return x * torch.sigmoid(gate)[:, :, None, None]


class SpatialGate(nn.Module):
    """CBAM's spatial attention."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.ModuleDict({"conv": nn.Conv2d(2, 1, 7, padding=3)})

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.spatial["conv"](pooled))


class CBAM(nn.Module):
    """Convolutional block attention module: channel gate, then spatial gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ChannelGate = ChannelGate(channels)
        self.SpatialGate = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        return self.SpatialGate(self.ChannelGate(x))


class FeatureFusionBlock(nn.Module):
    """Fuse concatenated features by two residual blocks with CBAM between them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block1 = ResBlock(inputs, outputs)
        self.attention = CBAM(outputs)
        self.block2 = ResBlock(outputs, outputs)

    def forward(self, *features: Tensor) -> Tensor:
        x = self.block1(torch.cat(features, dim=1))
        return self.block2(x + self.attention(x))


class UpsampleBlock(nn.Module):
    """Add the coarser feature, enlarged twice, to a convolution of the skip feature."""

    def __init__(self, skip_channels: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.skip_conv = conv3x3(skip_channels, inputs)
        self.out_conv = ResBlock(inputs, outputs)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return self.out_conv(self.skip_conv(skip) + upsample(coarse, 2))


class KeyEncoder(nn.Module):
    """ResNet-50 up to stride 16, under the names that the published query encoders use."""

    def __init__(self) -> None:
        super().__init__()
        net = torchvision.models.resnet50(weights=None)
        self.conv1, self.bn1 = net.conv1, net.bn1
        self.res2, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features at strides 16, 8 and 4, 1024, 512 and 256 channels wide."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, stride=2, padding=1)
        f4 = self.res2(x)
        f8 = self.layer2(f4)
        return self.layer3(f8), f8, f4


class MaskEncoder(nn.Module):
    """ResNet up to stride 16 on an image with two mask channels.

    Args:
        backbone: `resnet18` or `resnet50`.
        conv_bias: whether every convolution has a bias, as in STCN and Mask-Propagation.
    """

    def __init__(self, backbone: str, conv_bias: bool) -> None:
        super().__init__()
        net = torchvision.models.get_model(backbone, weights=None)
        net.conv1 = nn.Conv2d(5, 64, 7, stride=2, padding=3, bias=False)
        self.conv1, self.bn1 = net.conv1, net.bn1
        self.layer1, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3
        if conv_bias:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    module.bias = nn.Parameter(torch.zeros(module.out_channels))

    def features(self, image: Tensor, masks_OHW: Tensor) -> Tensor:
        """Return the feature (O, C, h, w) of an image (1, 3, H, W) with each object's mask."""
        images = image.expand(len(masks_OHW), -1, -1, -1)
        x = self.conv1(torch.cat([images, with_others(masks_OHW)], dim=1))
        x = F.max_pool2d(F.relu(self.bn1(x)), 3, stride=2, padding=1)
        return self.layer3(self.layer2(self.layer1(x)))
