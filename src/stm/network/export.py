"""The network as programs that run without this package: `torch.export` of its three learned parts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from stm.network.aggregate import soft_aggregation
from stm.network.encoders import Query
from stm.network.stm import STM

Shapes = dict[str, tuple[int | str, ...]]
LARGEST, OBJECTS = 4096, 254
EXAMPLE = {"O": 3, "H": 80, "W": 112}
"""Numbers to trace with: none is 1 or another's, which would be taken for a constant or for the same."""


def export(network: STM, folder: str | Path) -> None:
    """Write query encoder, memory encoder and decoder as programs, and what they take and give.

    Height and width may be any multiples of 16 from 32 to 4096, and there may be 1 to 254 objects. Reading
    the memory has no weights and is left to the caller: it is a softmax and a product of matrices.

    Args:
        folder: a new or empty one, for `query_encoder.pt2`, `memory_encoder.pt2`, `decoder.pt2` (open them
            with `torch.export.load`) and `export.json`: the shapes, and how the memory is read.

    Raises:
        ValueError: the folder holds something.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already; give a new folder")
    parts = {
        "query_encoder": _QueryPart(network),
        "memory_encoder": _MemoryPart(network),
        "decoder": _DecoderPart(network),
    }
    inputs, outputs = _inputs(network), _outputs(network)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.parts")
    beside.mkdir(parents=True, exist_ok=True)  # a killed run may have had the same number
    try:
        for name, part in parts.items():
            program = _traced(part.eval(), inputs[name], network.mean)
            torch.export.save(program, beside / f"{name}.pt2")
        told = {
            "torch": torch.__version__,
            "frames": f"RGB in 0..1; H and W are multiples of 16, 32 to {LARGEST}",
            "objects": f"O, 1 to {OBJECTS}",
            "similarity": network.similarity,
            "key_input": "image_mask" if network.memory_encoder.key is not None else "image",
            "programs": {name: {"inputs": inputs[name], "outputs": outputs[name]} for name in parts},
        }
        (beside / "export.json").write_text(json.dumps(told, indent=1) + "\n")
        beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _inputs(network: STM) -> dict[str, Shapes]:
    """What each program takes, in order; a size is a number or one of the caller's choice, by its name."""
    value, skips = network.query_encoder.value.out_channels, network.query_encoder.trunk.channels
    cells = _at(network.read_stride)
    frame: Shapes = {"frame": (1, 3, *_at(1))}
    feature: Shapes = {} if network.memory_encoder.key is not None else {"feature": (1, skips[2], *cells)}
    return {
        "query_encoder": frame,
        "memory_encoder": {**frame, "masks": (1, "O", *_at(1)), **feature},
        "decoder": {
            "readout": (1, "O", value, *cells),
            "query_value": (1, value, *cells),
            "skip4": (1, skips[0], *_at(4)),
            "skip8": (1, skips[1], *_at(8)),
        },
    }


def _outputs(network: STM) -> dict[str, Shapes]:
    """What each program gives, in order."""
    query, skips = network.query_encoder, network.query_encoder.trunk.channels
    key, value, cells = query.key.out_channels, query.value.out_channels, _at(network.read_stride)
    keys: Shapes = {} if network.memory_encoder.key is None else {"key": (1, "O", key, *cells)}
    return {
        "query_encoder": {
            "query_key": (1, key, *cells),
            "query_value": (1, value, *cells),
            "skip4": (1, skips[0], *_at(4)),
            "skip8": (1, skips[1], *_at(8)),
            "feature": (1, skips[2], *cells),
        },
        "memory_encoder": {**keys, "value": (1, "O", value, *cells)},
        "decoder": {"logits": (1, "O + 1", *_at(1))},
    }


def _at(stride: int) -> tuple[str, str]:
    return ("H", "W") if stride == 1 else (f"H/{stride}", f"W/{stride}")


def _traced(part: nn.Module, shapes: Shapes, like: Tensor) -> ExportedProgram:
    """The part as a program for any of the sizes that the shapes name."""
    dims: dict[str, Any] = {"O": Dim("objects", min=1, max=OBJECTS)}
    for side in ("H", "W"):
        cells = Dim(side.lower(), min=2, max=LARGEST // 16)
        dims |= {f"{side}/16": cells, **{f"{side}/{16 // n}": n * cells for n in (2, 4)}, side: 16 * cells}
    examples = {name: _example(name) for name in dims}
    given = [
        torch.rand([examples.get(size, size) for size in shape], device=like.device, dtype=like.dtype)  # type: ignore[arg-type]
        for shape in shapes.values()
    ]
    free = {
        name: {place: dims[size] for place, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in shapes.items()
    }
    with torch.no_grad():
        program = torch.export.export(part, tuple(given), dynamic_shapes=free, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _example(name: str) -> int:
    side, _, stride = name.partition("/")
    return EXAMPLE[side] // int(stride or 1)


class _Normalized(nn.Module):
    """What both encoders begin with."""

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
        return query.key, query.value, *query.skips, query.feature


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
        logits = self.decoder(readout, query_value, (skip4, skip8))
        return soft_aggregation(torch.softmax(logits.float(), dim=2)[:, :, 1])
