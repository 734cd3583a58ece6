"""The space-time memory network (sections 3.1-3.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stm.memory import MemoryPolicy
from stm.network.arguments import lasting_arguments, validate_arguments
from stm.network.backbones import SMALL_BACKBONES, build_trunk, find_layout
from stm.network.blocks import DeepUpdate, init_without_norm
from stm.network.decoder import DECODERS, Decoder, soft_aggregation
from stm.network.encoders import MemoryEncoder, Query, QueryEncoder
from stm.network.memory_read import SpatialPrior, potentiate, read_memory, stored_channels
from stm.network.padding import crop, pad

Memory = tuple[Tensor, Tensor]


class STM(nn.Module):
    """Space-time memory network: memorizes frames with masks and segments other frames by reading them.

    Every method takes one frame with its objects, (3, H, W) and (O, H, W), or a batch of them. Frames are RGB
    in 0..1 of any size, which are normalized and padded only here. The defaults are the paper's network.

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
        similarity: 'dot' (equation 2), 'scaled_dot' (published code), 'l2' (STCN) or 'anisotropic_l2' (XMem);
            see `stm.network.memory_read.similarity`.
        key_input: 'image_mask' computes memory keys from image and mask (the paper); 'image' takes them from
            the query encoder, shared by all objects (STCN).
        value_fusion: how the value sees the query encoder's last map, see `MemoryEncoder`.
        decoder: a form of `stm.network.decoder.DECODERS`.
        sensory_channels: channels of the sensory memory (XMem), a state of each object that every frame
            updates; 0 for none.
        border: padding of the frame: 'black' before normalization, with the masks' border empty (STM), or
            'mean', the mean color, where the predicted masks are memorized (the others).
        mask_merging: how a given mask meets the prediction of other objects: it may 'overwrite' the pixels
            (STM), or all are merged anew by soft aggregation ('aggregate').
        read_stride: stride at which the memory is read, 16 (the paper) or 8.
        fuse_strides: keys and values see the query encoder's features of strides 8 and 16 together. The
            query encoder then keeps its stride of 16 with `read_stride=8`, too.
        tie_encoders: initialize the memory encoder, including its key projection, with the query encoder's
            weights. Trained from scratch, separate encoders need this to find a common key space.
        mask_gain: factor on the initial weights of the filters for the masks.
        score_exponent: exponent of the confidence `score`, fitted by `stm calibrate`; no mask depends on it.

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
        value_fusion: str = "none",
        decoder: str = "stm",
        sensory_channels: int = 0,
        border: str = "black",
        mask_merging: str = "overwrite",
        score_exponent: float = 1.0,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        validate_arguments(arguments)
        self.arguments = lasting_arguments(arguments)
        """The arguments without which weights have no meaning, not those of the initialization."""
        self.similarity, self.read_stride = similarity, read_stride
        self.border, self.mask_merging, self.score_exponent = border, mask_merging, score_exponent
        self.key_channels, self.stored_key_channels = key_channels, stored_channels(key_channels, similarity)
        self.value_channels, self.sensory_channels = value_channels, sensory_channels
        self.policy: MemoryPolicy | None = None
        """The memory policy that the authors of published weights evaluate with."""
        query_trunk = build_trunk(backbone, pretrained, norm, 16 if fuse_strides else read_stride)
        memory_backbone = memory_backbone or backbone
        is_pretrained = pretrained and memory_backbone not in SMALL_BACKBONES
        memory_trunk = build_trunk(memory_backbone, is_pretrained, memory_norm or norm, read_stride)
        layout = find_layout(backbone)
        self.register_buffer("mean", torch.tensor(layout.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(layout.std).view(3, 1, 1), persistent=False)
        reads_feature = DECODERS[decoder].reads_feature
        query_value = None if reads_feature else value_channels
        fused_stride = read_stride if fuse_strides else None
        stored = self.stored_key_channels
        self.query_encoder = QueryEncoder(query_trunk, stored, query_value, similarity, fused_stride)
        feature_channels = self.query_encoder.feature_channels
        self.memory_encoder = MemoryEncoder(
            memory_trunk,
            stored if key_input == "image_mask" else None,
            value_channels,
            feature_channels,
            other_objects_channel,
            value_fusion,
            similarity,
        )
        self.decoder = Decoder(
            decoder,
            value_channels,
            query_value or feature_channels,
            query_trunk.channels[:2],
            decoder_channels,
            fine_channels,
            sensory_channels,
        )
        self.deep_update = DeepUpdate(sensory_channels, value_channels) if sensory_channels else None
        self._initialize(tie_encoders, mask_gain)

    def _initialize(self, tie_encoders: bool, mask_gain: float) -> None:
        query, memory = self.query_encoder, self.memory_encoder
        for part in (self.decoder, query.key, query.value, memory.key, memory.value, self.deep_update):
            if part is not None:
                init_without_norm(part)
        self.decoder.predict.weight.data.mul_(0.3)
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
        return self.query_encoder(self._normalize_and_pad(frame))

    def memorize(self, frame: Tensor, masks: Tensor, query: Query | None = None) -> Memory:
        """Embed a frame with its masks into memory (section 3.1).

        Args:
            frame: (3, H, W) or (B, 3, H, W).
            masks: (O, H, W) or (B, O, H, W) in 0..1: given masks, or the soft probabilities of a prediction;
                at the frame's or the padded frame's size.
            query: `encode(frame)`, if available; networks with keys from the image alone reuse it.

        Returns:
            key (O, stored channels, h, w) and value (O, C_v, h, w), with a leading B for a batch. Keys from
            the image alone have 1 instead of O.
        """
        if frame.ndim == 3:
            key, value = self.memorize(frame[None], masks[None], query)
            return key[0], value[0]
        masks = masks.to(frame.dtype)
        if masks.shape[-2:] == frame.shape[-2:]:
            masks = pad(masks)
        normalized = self._normalize_and_pad(frame)
        if query is None and (self.memory_encoder.key is None or self.memory_encoder.fuses_query):
            query = self.query_encoder(normalized)
        key, value = self.memory_encoder(normalized, masks, query)
        if key is None:
            assert query is not None
            key = query.key[:, None]
        return key, value

    def masks_to_memorize(self, probabilities: Tensor, size: Sequence[int]) -> Tensor:
        """Return the objects' masks (B, O, H', W') of a padded frame whose own size is (H, W).

        Args:
            probabilities: (B, O + 1, H', W'), background first.
            size: (H, W).
        """
        masks = probabilities[:, 1:]
        return masks if self.border == "mean" else pad(crop(masks, size))

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
            probability. A sensory memory is empty.
        """
        groups: Sequence[Memory] = [memory] if isinstance(memory[0], Tensor) else memory  # type: ignore[list-item,assignment]
        if frame.ndim == 3:
            groups = [(keys[None], values[None]) for keys, values in groups]
            return self.segment(frame[None], groups, None if present is None else present[None], query)[0]
        query = query or self.encode(frame)
        readout = torch.cat([self.read(query, keys, values) for keys, values in groups], dim=1)
        sensory = self.initial_sensory(readout)
        return crop(self.decode(query, readout, present, sensory)[0], frame.shape[-2:])

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
        self, query: Query, readout: Tensor, present: Tensor | None = None, sensory: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Decode and merge the objects (sections 3.3 and 3.4).

        Args:
            query: `encode(frame)`.
            readout: (B, O, C_v, h, w).
            present: bool (B, O), False for slots that pad a batch.
            sensory: (B, O, C, h, w), the sensory memory of networks that have one.

        Returns:
            Logits (B, O + 1, H', W') of the padded frame, background first, and the updated sensory memory.
        """
        probabilities, sensory = self.decoder(readout, query.decoded_map, query.skips, sensory)
        return soft_aggregation(probabilities, present), sensory

    def initial_sensory(self, readout: Tensor) -> Tensor | None:
        """Return the empty sensory memory of the objects of a readout or value (B, O, C_v, h, w)."""
        if not self.sensory_channels:
            return None
        return readout.new_zeros((*readout.shape[:2], self.sensory_channels, *readout.shape[3:]))

    def update_sensory(self, value: Tensor, sensory: Tensor) -> Tensor:
        """Update the sensory memory (B, O, C, h, w) by the values (B, O, C_v, h, w) of a memory frame."""
        assert self.deep_update is not None
        return self.deep_update(value.flatten(0, 1), sensory.flatten(0, 1)).unflatten(0, value.shape[:2])

    def potentiate(self, keys: Tensor, values: Tensor, chosen: Tensor) -> Memory:
        """Return memory cells with values read from all cells; see `stm.network.memory_read.potentiate`."""
        return potentiate(keys, values, chosen, self.similarity)

    def memory_cells(self, size: Sequence[int]) -> int:
        """Return the number of memory cells of a frame of size (H, W)."""
        return math.prod((side + -side % 16) // self.read_stride for side in size)

    def cell_bytes(self, objects: int) -> int:
        """Return the bytes of a memory cell's key and value for objects that share their memory frames."""
        keys = 1 if self.memory_encoder.key is None else objects
        channels = keys * self.stored_key_channels + objects * self.value_channels
        return channels * self.mean.element_size()

    def _normalize_and_pad(self, frame: Tensor) -> Tensor:
        if self.border == "mean":
            return pad((frame - self.mean) / self.std)
        return (pad(frame) - self.mean) / self.std
