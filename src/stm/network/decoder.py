"""The decoder (section 3.3) and soft aggregation over objects (section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stm.network.blocks import (
    FeatureFusion,
    ResidualBlock,
    SensoryUpdate,
    SharedConv2d,
    SharedMaps,
    add_shared,
    at_least_float32,
    conv3x3,
)

EPSILON = 1e-7


class Form(NamedTuple):
    """What distinguishes the decoders of the family.

    Attributes:
        fusion: how readout and query are merged at the read stride: 'conv' and a residual block (STM),
            'residual' block (Mask-Propagation, STCN), or 'cbam' (XMem).
        residual_skips: a residual block on the query encoder's maps at strides 8 and 4.
        logits: 2 for background and object, or 1 for the object.
        wide: twice the width up to stride 8.
        reads_feature: the query encoder's last map takes the place of the query value.
    """

    fusion: str
    residual_skips: bool
    logits: int
    wide: bool = True
    reads_feature: bool = False


DECODERS = {
    "stm": Form("conv", residual_skips=True, logits=2, wide=False),
    "mask_propagation": Form("residual", residual_skips=True, logits=1),
    "stcn": Form("residual", residual_skips=False, logits=1),
    "xmem": Form("cbam", residual_skips=False, logits=1, reads_feature=True),
}


class Refinement(nn.Module):
    """Refinement module: merges the coarse map of each object with a finer map of the query encoder.

    Args:
        skip_channels: channels of the finer map.
        inputs: channels of the coarse map.
        outputs: channels of the result.
        residual_skip: whether a residual block follows the convolution of the finer map.
        narrow_from: channels of the coarse map if it is wider; a 1x1 convolution then narrows it.
    """

    def __init__(
        self,
        skip_channels: int,
        inputs: int,
        outputs: int,
        residual_skip: bool,
        narrow_from: int | None = None,
    ) -> None:
        super().__init__()
        self.narrow = None if narrow_from is None else nn.Conv2d(narrow_from, inputs, 1)
        self.skip = nn.Sequential(conv3x3(skip_channels, inputs))
        if residual_skip:
            self.skip.append(ResidualBlock(inputs, inputs))
        self.merge = ResidualBlock(inputs, outputs)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Merge a coarse and a finer map.

        Args:
            coarse: (B * O, C, H / 2, W / 2), or already (B * O, C, H, W) if the memory is read at stride 8.
            skip: (B, C, H, W), the output of `self.skip`, shared by the objects of a clip.

        Returns:
            (B * O, outputs, H, W).
        """
        if self.narrow is not None:
            coarse = self.narrow(coarse)
        return self.merge(add_shared(_resize_like(coarse, skip), skip))


class Decoder(nn.Module):
    """Decoder: one or two logits for each object, at the padded frame's size.

    Args:
        form: a key of `DECODERS`.
        value_channels: C_v, the channels of the readout.
        shared_channels: channels of the query's map that is decoded with the readout.
        skip_channels: channels of the query encoder's maps at strides 4 and 8.
        channels: width of the layers at stride 8, after merging, and at stride 4.
        fine_channels: width at stride 4 if it is smaller. A 1x1 convolution then narrows the coarser map, and
            the finer one passes a single convolution, which together take a fifth of the time.
        sensory_channels: channels of the sensory memory, which is decoded with the readout and updated; 0 for
            none.

    Attributes:
        chunk_cells: objects are decoded in chunks with at most this many cells at stride 4 in total, but at
            least one object per chunk; None for a single chunk.
    """

    def __init__(
        self,
        form: str,
        value_channels: int,
        shared_channels: int,
        skip_channels: tuple[int, int],
        channels: int,
        fine_channels: int | None = None,
        sensory_channels: int = 0,
    ) -> None:
        super().__init__()
        self.chunk_cells: int | None = None
        fusion, residual_skips, logits, is_wide, _ = DECODERS[form]
        wide = 2 * channels if is_wide else channels
        block = {"conv": SharedConv2d, "residual": ResidualBlock, "cbam": FeatureFusion}[fusion]
        # over cat[readout, sensory memory, query value], equation 1
        self.compress = block(value_channels + sensory_channels, outputs=wide, shared=shared_channels)
        self.residual = ResidualBlock(wide, wide) if fusion == "conv" else nn.Identity()
        self.refine8 = Refinement(skip_channels[1], wide, channels, residual_skips)
        if fine_channels is None:
            fine_channels = channels
            self.refine4 = Refinement(skip_channels[0], channels, channels, residual_skips)
        else:
            self.refine4 = Refinement(skip_channels[0], fine_channels, fine_channels, False, channels)
        self.predict = conv3x3(fine_channels, logits)
        self.sensory_update: SensoryUpdate | None = None
        if sensory_channels:
            maps = (wide, channels, fine_channels + logits)
            self.sensory_update = SensoryUpdate(sensory_channels, maps, channels)

    def forward(
        self, readout: Tensor, query_map: Tensor, skips: Sequence[Tensor], sensory: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Decode each object of each clip.

        Args:
            readout: (B, O, C_v, h, w).
            query_map: (B, C, h, w), the query value or the query encoder's last map.
            skips: the query encoder's maps at strides 4 and 8.
            sensory: (B, O, C, h, w), the sensory memory.

        Returns:
            The probability of each object on its own, (B, O, H, W), and its updated sensory memory.
        """
        shared = self.compress.share(query_map), self.refine8.skip(skips[1]), self.refine4.skip(skips[0])
        own = readout if sensory is None else torch.cat([readout, sensory], dim=2)
        chunks = split_objects(own, skips[0].shape[-2] * skips[0].shape[-1], self.chunk_cells)
        first = 0
        decoded = []
        for chunk in chunks:
            objects = slice(first, first := first + chunk.shape[1])
            decoded.append(
                self._decode_chunk(chunk, None if sensory is None else sensory[:, objects], *shared)
            )
        probabilities, updates = zip(*decoded, strict=True)
        return torch.cat(probabilities, dim=1), None if sensory is None else torch.cat(updates, dim=1)

    def _decode_chunk(
        self, own: Tensor, sensory: Tensor | None, shared16: SharedMaps, shared8: Tensor, shared4: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Decode some objects; `shared*` are the frame's maps at strides 16, 8 and 4."""
        objects = own.shape[:2]
        x16 = self.residual(self.compress(own.flatten(0, 1), shared16))
        x8 = self.refine8(x16, shared8)
        x4 = self.refine4(x8, shared4)
        logits = self.predict(F.relu(x4))
        if self.sensory_update is not None and sensory is not None:
            updated = self.sensory_update(x16, x8, x4, logits, sensory.flatten(0, 1))
            sensory = updated.unflatten(0, objects)
        del x16, x8, x4  # they take most of the memory
        logits = logits.contiguous()  # with two channels last, this takes four times as long on a CPU
        logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        logits = at_least_float32(logits)
        own_probability = (
            torch.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else torch.softmax(logits, 1)[:, 1]
        )
        return own_probability.unflatten(0, objects), sensory


def soft_aggregation(probabilities: Tensor, present: Tensor | None = None) -> Tensor:
    """Merge the objects' separate probabilities into logits over background and objects (section 3.4).

    The background's probability is the product of (1 - p_o). Each label's logit is the log-odds of its
    probability; a softmax over labels gives the merged probabilities. The computation runs in float32 at
    least, because 1e-7 does not exist in half precision.

    Args:
        probabilities: (B, O, H, W), the probability of each object on its own, in 0..1.
        present: bool (B, O); False marks slots that pad the batch. They get the logit -inf and do not affect
            the others. All are present by default.

    Returns:
        Logits (B, O + 1, H, W), background first.
    """
    p = at_least_float32(probabilities)
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


def _resize_like(coarse: Tensor, target: Tensor) -> Tensor:
    """Resize a map to another's size and memory layout; adding maps of two layouts is slow."""
    if target.is_contiguous(memory_format=torch.channels_last):
        coarse = coarse.contiguous(memory_format=torch.channels_last)
    if coarse.shape[-2:] != target.shape[-2:]:
        coarse = F.interpolate(coarse, size=target.shape[-2:], mode="bilinear", align_corners=False)
    return coarse
