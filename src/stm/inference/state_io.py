"""A segmenter's state in a file: tensors and plain values, so that loading one runs no code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stm.atomic_io import atomic_path
from stm.network import STM
from stm.network.published import brief

KIND = "stm memory 2"


def write_state(path: str | Path, network: STM, state: dict[str, Any]) -> None:
    """Write a segmenter's state atomically."""
    with atomic_path(path) as beside:
        torch.save({"kind": KIND, "network": _signature(network), **state}, beside)


def read_state(path: str | Path, network: STM) -> dict[str, Any]:
    """Read a state onto the network's device.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, not a saved memory, or another network's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"memory {path} does not exist")
    try:
        state = torch.load(path, map_location=network.mean.device, weights_only=True)
    except Exception as error:  # a damaged file raises nearly anything
        raise ValueError(
            f"memory {path} cannot be read: damaged, or not plain values ({brief(error)})"
        ) from error
    if not isinstance(state, dict) or state.get("kind") != KIND:
        raise ValueError(f"memory {path} was not written by Segmenter.save")
    theirs, ours = state.get("network"), _signature(network)
    if not isinstance(theirs, dict) or theirs.keys() != ours.keys():
        raise ValueError(f"memory {path} does not identify its network")
    for name, value in ours.items():
        if not math.isclose(value, theirs[name], rel_tol=1e-3):  # half precision is the same network
            raise ValueError(
                f"memory {path} belongs to another network: {name} is {theirs[name]:g}, here {value:g}"
            )
    return state


def check_state_matches(keys: Tensor, values: Tensor, network: STM, objects: int) -> bool:
    """Return whether a bank's keys and values are floats of the network's shapes for a number of objects.

    Under autocast, their types are not those of the parameters.
    """
    signature = _signature(network)
    key_objects = 1 if signature["keys shared by objects"] else objects
    return (
        keys.shape[:-1] == (1, key_objects, signature["key channels"])
        and values.shape[:-1] == (1, objects, signature["value channels"])
        and keys.shape[-1] == values.shape[-1]
        and keys.is_floating_point()
        and values.is_floating_point()
    )


def _signature(network: STM) -> dict[str, float]:
    """Return what distinguishes networks with incompatible memories: shapes, and sums over weights."""
    query, memory = network.query_encoder, network.memory_encoder
    weights = {"key": query.key, "mask filters": memory.mask_stem, "prediction": network.decoder.predict}
    return {
        "key channels": network.stored_key_channels,
        "value channels": network.value_channels,
        "keys shared by objects": int(memory.key is None),
        "read stride": network.read_stride,
        **{
            f"sum of {name}": float(conv.weight.detach().double().abs().sum())
            for name, conv in weights.items()
        },
    }
