"""Plain per-object references of the STM family: networks and frame loops as their authors evaluate them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from helpers.plain_frame_memory import PlainFrameMemory
from helpers.plain_mask_propagation import MaskPropagation
from helpers.plain_stcn import STCN
from helpers.plain_xmem import XMem
from helpers.plain_xmem_defects import DefectiveXMem
from helpers.plain_xmem_memory import PlainXMem, Settings

NETWORKS = {
    "stcn": STCN,
    "mask_propagation": MaskPropagation,
    "xmem": XMem,
    "xmem_no_sensory": lambda: XMem(sensory=False),
}
FAMILY = Path(__file__).parents[1] / "golden" / "family"
CASES = sorted(path.stem for path in FAMILY.glob("*.npz"))
LATE_LONG = [case for case in CASES if case.endswith("late_long")]
SETTINGS = (
    "mem_every",
    "top_k",
    "include_last",
    "enable_long_term",
    "min_mid_term_frames",
    "max_mid_term_frames",
    "max_long_term_elements",
    "num_prototypes",
    "count_long_term_usage",
)
"""What the golden cases say of their networks' policies, in the authors' words."""


def network_name(case: str) -> str:
    return max((name for name in NETWORKS if case.startswith(name)), key=len)


def golden_state_dict(name: str) -> dict[str, Tensor]:
    """Return the seeded weights of the golden cases under the names of the published checkpoint."""
    spec = importlib.util.spec_from_file_location("family_weights", FAMILY / "family_weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.state_dict(name)


def golden_case(case: str) -> dict[str, np.ndarray]:
    """Return the arrays of a golden case, unpacked; see `tests/golden/family/README.md`."""
    with np.load(FAMILY / f"{case}.npz") as packed:
        arrays = dict(packed)
    arrays["frames"] = np.cumsum(arrays["frames"], axis=2, dtype=np.uint8)
    objects = arrays["probabilities"].astype(np.float32) / 2**15
    arrays["probabilities"] = np.concatenate([1 - objects.sum(1, keepdims=True), objects], axis=1)
    return arrays


def plain_network(name: str, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Return the network `name` with the weights of a published checkpoint, in eval mode."""
    network = NETWORKS[name]()
    network.load_state_dict(dict(state_dict))
    return network.eval()


@lru_cache(maxsize=2)
def golden_network(name: str) -> nn.Module:
    """Return the network `name` with the seeded weights of the golden cases."""
    return plain_network(name, golden_state_dict(name))


def plain_reference(
    network: nn.Module, published_defects: bool = False, **settings: Any
) -> PlainFrameMemory | PlainXMem:
    """Return the frame loop of a network, with the settings that its authors evaluate with by default.

    Args:
        network: a network of this module.
        published_defects: whether XMem misreads the long-term memory of late objects, as published.
        settings: what differs, under the names of the published code (`mem_every`, `top_k`, ...).
    """
    if isinstance(network, XMem):
        return (DefectiveXMem if published_defects else PlainXMem)(network, Settings(**settings))
    if isinstance(network, MaskPropagation):
        return PlainFrameMemory(network, **{"top_k": 50, "include_last": True} | settings)
    assert isinstance(network, STCN)
    return PlainFrameMemory(network, **settings)
