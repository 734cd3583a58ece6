"""The space-time memory network (sections 3.1-3.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stm.network.backbones import BACKBONES, build_trunk
from stm.network.decoder import Decoder, init_without_norm, soft_aggregation
from stm.network.encoders import MemoryEncoder, Query, QueryEncoder
from stm.network.memory_read import SIMILARITIES, SpatialPrior, read_memory

Memory = tuple[Tensor, Tensor]
KEY_INPUTS = ("image_mask", "image")


class STM(nn.Module):
    """Space-time memory network: memorizes frames with masks and segments other frames by reading them.

    Every method takes one frame with its objects, (3, H, W) and (O, H, W), or a batch of them,
    (B, 3, H, W) and (B, O, H, W). Frames are RGB in 0..1 of any size; normalization and padding to a
    multiple of 16 happen only here. The defaults are the paper's network.

    Args:
        backbone: a key of `stm.network.backbones.BACKBONES`.
        memory_backbone: backbone of the memory encoder; by default the same.
        pretrained: start from ImageNet weights.
        norm: 'frozen' batch normalization (the paper) or 'group' (for training from scratch).
        memory_norm: norm of the memory encoder; by default the same.
        key_channels: C_k (C / 8 in the paper).
        value_channels: C_v (C / 2 in the paper).
        decoder_channels: width of the decoder.
        fine_channels: width of the decoder at stride 4, where most of its time goes; by default the same.
        other_objects_channel: the memory encoder also sees the other objects' masks (published code, not
            paper).
        similarity: 'dot' (equation 2), 'scaled_dot' (published code) or 'l2' (STCN).
        key_input: 'image_mask' computes memory keys from image and mask (the paper); 'image' takes them from
            the query encoder, shared by all objects (STCN).
        read_stride: stride at which the memory is read, 16 (the paper) or 8.
        fuse_strides: keys and values see the query encoder's features of strides 8 and 16 together. The
            query encoder then keeps its stride of 16 with `read_stride=8`, too.
        tie_encoders: initialize the memory encoder, including its key projection, with the query encoder's
            weights. Trained from scratch, separate encoders need this to find a common key space.
        mask_gain: factor on the initial weights of the filters for the masks.

    Raises:
        ValueError: a value outside the above, or values that exclude each other.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "resnet50",
        memory_backbone: str | None = None,
        pretrained: bool = False,
        norm: str = "frozen",
        memory_norm: str | None = None,
        key_channels: int = 128,
        value_channels: int = 512,
        decoder_channels: int = 256,
        fine_channels: int | None = None,
        other_objects_channel: bool = False,
        similarity: str = "dot",
        key_input: str = "image_mask",
        read_stride: int = 16,
        fuse_strides: bool = False,
        tie_encoders: bool = False,
        mask_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if similarity not in SIMILARITIES:
            raise ValueError(f"similarity={similarity}: must be one of {', '.join(SIMILARITIES)}")
        if key_input not in KEY_INPUTS:
            raise ValueError(f"key_input={key_input}: must be one of {', '.join(KEY_INPUTS)}")
        if tie_encoders and (key_input == "image" or memory_backbone not in (None, backbone)):
            raise ValueError(
                "tie_encoders=true: requires key_input=image_mask and the same backbone for both "
                f"encoders; got key_input={key_input}, memory_backbone={memory_backbone}"
            )
        self.similarity, self.read_stride = similarity, read_stride
        self.arguments = {
            "backbone": backbone,
            "memory_backbone": memory_backbone or backbone,
            "norm": norm,
            "memory_norm": None if memory_norm == norm else memory_norm,
            "key_channels": key_channels,
            "value_channels": value_channels,
            "decoder_channels": decoder_channels,
            "fine_channels": fine_channels,
            "other_objects_channel": other_objects_channel,
            "similarity": similarity,
            "key_input": key_input,
            "read_stride": read_stride,
            "fuse_strides": fuse_strides,
        }
        """The arguments without which weights have no meaning, not those of the initialization."""

        memory_backbone = memory_backbone or backbone
        query_trunk = build_trunk(backbone, pretrained, norm, 16 if fuse_strides else read_stride)
        memory_trunk = build_trunk(
            memory_backbone,
            pretrained and BACKBONES[memory_backbone].downloadable,
            memory_norm or norm,
            read_stride,
        )
        layout = BACKBONES[backbone]
        self.register_buffer("mean", torch.tensor(layout.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(layout.std).view(3, 1, 1), persistent=False)
        self.query_encoder = QueryEncoder(
            query_trunk, key_channels, value_channels, read_stride if fuse_strides else None
        )
        self.memory_encoder = MemoryEncoder(
            memory_trunk,
            key_channels if key_input == "image_mask" else None,
            value_channels,
            query_channels=self.query_encoder.feature_channels,
            other_objects_channel=other_objects_channel,
        )
        self.decoder = Decoder(value_channels, query_trunk.channels[:2], decoder_channels, fine_channels)
        self._initialize(tie_encoders, mask_gain)

    def _initialize(self, tie_encoders: bool, mask_gain: float) -> None:
        query, memory = self.query_encoder, self.memory_encoder
        init_without_norm(self.decoder)
        self.decoder.predict.weight.data.mul_(0.3)
        for head in (query.key, query.value, memory.key, memory.value):
            if head is not None:
                init_without_norm(head)
        for head in (query.key, memory.key):
            if head is not None:
                head.weight.data.mul_(0.7)
        for stem in (memory.mask_stem, memory.others_stem):
            if stem is not None:
                stem.weight.data.mul_(mask_gain)
        if tie_encoders:
            assert memory.key is not None
            memory.trunk.load_state_dict(query.trunk.state_dict())
            memory.key.load_state_dict(query.key.state_dict())

    def encode(self, frame: Tensor) -> Query:
        """Encode a frame, (3, H, W) or (B, 3, H, W), for reuse by `memorize` and `segment`."""
        frame = frame if frame.ndim == 4 else frame[None]
        return self.query_encoder(self._normalize(pad(frame)))

    def memorize(self, frame: Tensor, masks: Tensor, query: Query | None = None) -> Memory:
        """Embed a frame with its masks into memory (section 3.1).

        Args:
            frame: (3, H, W) or (B, 3, H, W).
            masks: (O, H, W) or (B, O, H, W) in 0..1: given masks, or the soft probabilities of a prediction.
            query: `encode(frame)`, if available; networks with keys from the image alone reuse it.

        Returns:
            key (O, C_k, h, w) and value (O, C_v, h, w), with a leading B for a batch. Keys from the image
            alone have 1 instead of O.
        """
        if frame.ndim == 3:
            key, value = self.memorize(frame[None], masks[None], query)
            return key[0], value[0]
        masks = masks.to(frame.dtype)
        normalized = self._normalize(pad(frame))
        if self.memory_encoder.key is None and query is None:
            query = self.query_encoder(normalized)
        key, value = self.memory_encoder(normalized, pad(masks), query)
        if key is None:
            assert query is not None
            key = query.key[:, None]
        return key, value

    def segment(
        self,
        frame: Tensor,
        memory: Memory | Sequence[Memory],
        present: Tensor | None = None,
        query: Query | None = None,
    ) -> Tensor:
        """Segment a frame by reading the memory (sections 3.2-3.4).

        Args:
            frame: (3, H, W) or (B, 3, H, W).
            memory: keys (B, O, C_k, ...) and values (B, O, C_v, ...) whose last dimensions, such as
                (T, h, w), are the memory cells; without B for a single frame. Or several such pairs, one for
                each group of objects with a memory of its own; the result has the groups' objects in order.
            present: bool (B, O), False for slots that pad a batch.
            query: `encode(frame)`, if available.

        Returns:
            Logits (O + 1, H, W) or (B, O + 1, H, W), background first; their softmax over labels is the
            probability.
        """
        groups: Sequence[Memory] = [memory] if isinstance(memory[0], Tensor) else memory  # type: ignore[list-item,assignment]
        if frame.ndim == 3:
            groups = [(keys[None], values[None]) for keys, values in groups]
            return self.segment(frame[None], groups, None if present is None else present[None], query)[0]
        query = query or self.encode(frame)
        readout = torch.cat([self.read(query, keys, values) for keys, values in groups], dim=1)
        return self.decode(query, readout, frame.shape[-2:], present)

    def read(
        self,
        query: Query,
        keys: Tensor,
        values: Tensor,
        top_k: int | None = None,
        mass: Tensor | None = None,
        prior: SpatialPrior | None = None,
    ) -> Tensor:
        """Read the memory of objects that share their memory frames (section 3.2).

        Args:
            query: `encode(frame)`.
            keys: (B, O or 1, C_k, ...); the last dimensions are the memory cells.
            values: (B, O, C_v, ...).
            top_k: number of memory cells that each query cell reads, see
                `stm.network.memory_read.read_weights`.
            mass: (B, O or 1, cells), to which the attention on each cell is added in place.
            prior: weighting of memory cells by their distance.

        Returns:
            (B, O, C_v, h, w).
        """
        flat = query.key.flatten(2)
        readout = read_memory(keys.flatten(3), values.flatten(3), flat, self.similarity, top_k, mass, prior)
        return readout.unflatten(-1, query.key.shape[-2:])

    def decode(
        self, query: Query, readout: Tensor, size: Sequence[int], present: Tensor | None = None
    ) -> Tensor:
        """Decode and merge the objects (sections 3.3 and 3.4).

        Args:
            query: `encode(frame)`.
            readout: (B, O, C_v, h, w).
            size: the frame's (H, W).
            present: bool (B, O), False for slots that pad a batch.

        Returns:
            Logits (B, O + 1, H, W), background first.
        """
        logits = self.decoder(readout, query.value, query.skips)
        probabilities = torch.softmax(logits.float(), dim=2)[:, :, 1]
        return unpad(soft_aggregation(probabilities, present), size)

    def memory_cells(self, size: Sequence[int]) -> int:
        """Return the number of memory cells of a frame of size (H, W)."""
        return math.prod((side + -side % 16) // self.read_stride for side in size)

    def cell_bytes(self, objects: int) -> int:
        """Return the bytes of a memory cell's key and value for objects that share their memory frames."""
        keys = 1 if self.memory_encoder.key is None else objects
        channels = (
            keys * self.query_encoder.key.out_channels + objects * self.query_encoder.value.out_channels
        )
        return channels * self.mean.element_size()

    def _normalize(self, frame: Tensor) -> Tensor:
        return (frame - self.mean) / self.std


def _padding(size: Sequence[int]) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom) padding to a multiple of 16; an odd pixel goes right or below."""
    height, width = -size[0] % 16, -size[1] % 16
    return width // 2, width - width // 2, height // 2, height - height // 2


def pad(maps: Tensor) -> Tensor:
    """Pad maps (..., H, W) with zeros on all sides to multiples of 16."""
    return F.pad(maps, _padding(maps.shape[-2:]))


def unpad(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Undo `pad`: crop padded maps to the area of a frame of size (H, W)."""
    left, _, top, _ = _padding(size)
    return maps[..., top : top + size[0], left : left + size[1]]
