"""Export of the network's three learned parts to programs that run without this package."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from stm.network.decoder import soft_aggregation
from stm.network.encoders import Query
from stm.network.stm import STM

Shapes = dict[str, tuple[int | str, ...]]
MAX_SIDE, MAX_OBJECTS = 4096, 254
EXAMPLE = {"O": 3, "H": 80, "W": 112}
"""Example sizes for tracing. They differ from 1 and from each other, so that none becomes a constant."""


def export(network: STM, folder: str | Path) -> None:
    """Export query encoder, memory encoder and decoder as programs, with a description of their shapes.

    Height and width may be any multiples of 16 from 32 to 4096, and there may be 1 to 254 objects. The
    memory read has no weights and is left to the caller: it is a softmax and a matrix product.

    Args:
        network: the network to export.
        folder: a new or empty folder for `query_encoder.pt2`, `memory_encoder.pt2`, `decoder.pt2` (to be
            opened with `torch.export.load`) and `export.json` with the shapes and the similarity.

    Raises:
        ValueError: the folder is not empty, or the network has a sensory memory.
    """
    if network.sensory_channels:
        raise ValueError(
            f"sensory_channels={network.sensory_channels}: must be 0 for an export; the sensory memory is "
            "a state that the programs do not hold"
        )
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: must be a new or empty folder")
    parts = {
        "query_encoder": _QueryPart(network),
        "memory_encoder": _MemoryPart(network),
        "decoder": _DecoderPart(network),
    }
    inputs, outputs = _inputs(network), _outputs(network)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.parts")
    temporary.mkdir(parents=True, exist_ok=True)  # a killed process may have had the same id
    try:
        for name, part in parts.items():
            program = _trace(part.eval(), inputs[name], network.mean)
            torch.export.save(program, temporary / f"{name}.pt2")
        description = {
            "torch": torch.__version__,
            "frames": f"RGB in 0..1; H and W are multiples of 16, 32 to {MAX_SIDE}",
            "border": [0.0] * 3 if network.border == "black" else network.mean.flatten().tolist(),
            "objects": f"O, 1 to {MAX_OBJECTS}",
            "similarity": network.similarity,
            "key": "key, shrinkage, selection" if network.similarity == "anisotropic_l2" else "key",
            "key_input": "image_mask" if network.memory_encoder.key is not None else "image",
            "programs": {name: {"inputs": inputs[name], "outputs": outputs[name]} for name in parts},
        }
        (temporary / "export.json").write_text(json.dumps(description, indent=1) + "\n")
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _inputs(network: STM) -> dict[str, Shapes]:
    """Return the inputs of each program in order; a size is a number, or a name if it is free."""
    skips = network.query_encoder.trunk.channels
    cells = _shape_at(network.read_stride)
    frame: Shapes = {"frame": (1, 3, *_shape_at(1))}
    channels = network.query_encoder.feature_channels
    feature: Shapes = {"feature": (1, channels, *cells)} if network.memory_encoder.fuses_query else {}
    return {
        "query_encoder": frame,
        "memory_encoder": {**frame, "masks": (1, "O", *_shape_at(1)), **feature},
        "decoder": {
            "readout": (1, "O", network.value_channels, *cells),
            "query_value": (1, _query_value_channels(network), *cells),
            "skip4": (1, skips[0], *_shape_at(4)),
            "skip8": (1, skips[1], *_shape_at(8)),
        },
    }


def _outputs(network: STM) -> dict[str, Shapes]:
    """Return the outputs of each program in order."""
    skips = network.query_encoder.trunk.channels
    key, value, cells = network.stored_key_channels, network.value_channels, _shape_at(network.read_stride)
    keys: Shapes = {} if network.memory_encoder.key is None else {"key": (1, "O", key, *cells)}
    return {
        "query_encoder": {
            "query_key": (1, key, *cells),
            "query_value": (1, _query_value_channels(network), *cells),
            "skip4": (1, skips[0], *_shape_at(4)),
            "skip8": (1, skips[1], *_shape_at(8)),
            "feature": (1, network.query_encoder.feature_channels, *cells),
        },
        "memory_encoder": {**keys, "value": (1, "O", value, *cells)},
        "decoder": {"logits": (1, "O + 1", *_shape_at(1))},
    }


def _query_value_channels(network: STM) -> int:
    """Return the channels of the query's map that the decoder reads."""
    is_feature = network.query_encoder.value is None
    return network.query_encoder.feature_channels if is_feature else network.value_channels


def _shape_at(stride: int) -> tuple[str, str]:
    return ("H", "W") if stride == 1 else (f"H/{stride}", f"W/{stride}")


def _trace(part: nn.Module, shapes: Shapes, like: Tensor) -> ExportedProgram:
    """Export a part for any values of the sizes that the shapes name."""
    dims: dict[str, Any] = {"O": Dim("objects", min=1, max=MAX_OBJECTS)}
    for side in ("H", "W"):
        cells = Dim(side.lower(), min=2, max=MAX_SIDE // 16)
        dims |= {f"{side}/16": cells, **{f"{side}/{16 // n}": n * cells for n in (2, 4)}, side: 16 * cells}
    examples = {name: _example(name) for name in dims}
    arguments = [
        torch.rand([examples.get(size, size) for size in shape], device=like.device, dtype=like.dtype)  # type: ignore[arg-type]
        for shape in shapes.values()
    ]
    dynamic_shapes = {
        name: {axis: dims[size] for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in shapes.items()
    }
    with torch.no_grad():
        program = torch.export.export(part, tuple(arguments), dynamic_shapes=dynamic_shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it contains paths of this machine
    return program


def _example(name: str) -> int:
    side, _, stride = name.partition("/")
    return EXAMPLE[side] // int(stride or 1)


class _Normalized(nn.Module):
    """Normalization of frames, the first step of both encoders."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: STM) -> None:
        super().__init__()
        self.register_buffer("mean", network.mean.clone())
        self.register_buffer("std", network.std.clone())

    def forward(self, frame: Tensor) -> Tensor:
        return (frame - self.mean) / self.std


class _QueryPart(nn.Module):
    def __init__(self, network: STM) -> None:
        super().__init__()
        self.normalized, self.encoder = _Normalized(network), network.query_encoder

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        query = self.encoder(self.normalized(frame))
        return query.key, query.decoded_map, *query.skips, query.feature


class _MemoryPart(nn.Module):
    def __init__(self, network: STM) -> None:
        super().__init__()
        self.normalized, self.encoder = _Normalized(network), network.memory_encoder

    def forward(self, frame: Tensor, masks: Tensor, feature: Tensor | None = None) -> tuple[Tensor, ...]:
        query = None if feature is None else Query(feature, feature, (), feature)
        key, value = self.encoder(self.normalized(frame), masks, query)
        return (value,) if key is None else (key, value)


class _DecoderPart(nn.Module):
    def __init__(self, network: STM) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(self, readout: Tensor, query_value: Tensor, skip4: Tensor, skip8: Tensor) -> Tensor:
        return soft_aggregation(self.decoder(readout, query_value, (skip4, skip8))[0])
