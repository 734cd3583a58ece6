"""Networks and clips small enough for a test; all of them seeded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stm.network import STM
from stm.video import Clip

NETWORK: dict[str, Any] = {
    "backbone": "micro",
    "norm": "group",
    "key_channels": 8,
    "value_channels": 16,
    "decoder_channels": 16,
}


def network(seed: int = 0, **changes: Any) -> STM:
    """A network of some thousand parameters, in eval mode; `changes` are STM's arguments."""
    torch.manual_seed(seed)
    return STM(**(NETWORK | changes)).eval()


def save(path: Path, seed: int = 0, **changes: Any) -> Path:
    """Write that network's checkpoint, as training writes it."""
    weights = {f"network.{name}": tensor for name, tensor in network(seed, **changes).state_dict().items()}
    torch.save({"config": {"network": NETWORK | changes}, "state_dict": weights}, path)
    return path


def frames(count: int, size: tuple[int, int] = (32, 48), seed: int = 0) -> Tensor:
    """Smooth random frames, uint8 (T, 3, H, W), each a little unlike the one before."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 6, 8), generator=generator)
    coarse = 0.7 * coarse[:1] + 0.3 * coarse
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    return (fine.clamp(0, 1) * 255).byte()


def masks(count: int, objects: int, size: tuple[int, int] = (32, 48), first: int = 1) -> Tensor:
    """Upright bars that move to the right, uint8 (T, H, W) with labels first..first + objects - 1."""
    height, width = size
    bar = max(1, width // (2 * objects))
    labels = torch.zeros((count, height, width), dtype=torch.uint8)
    for t in range(count):
        for slot in range(objects):
            left = (2 * slot * bar + t) % width
            labels[t, height // 4 : -height // 4, left : left + bar] = first + slot
    return labels


def only(mask: np.ndarray, *labels: int) -> np.ndarray:
    """An index mask of these labels alone."""
    return np.where(np.isin(mask, labels), mask, 0).astype(np.uint8)


def clip(objects: int = 2, count: int = 3, size: tuple[int, int] = (32, 48), seed: int = 0) -> Clip:
    """A training clip with that many objects."""
    return Clip(
        frames(count, size, seed),
        masks(count, objects, size),
        objects=objects,
        index=seed,
        source=f"test:{seed}",
    )


def channels(labels: Tensor | np.ndarray, objects: int) -> Tensor:
    """Index mask (H, W) -> float (objects, H, W) of 0 and 1."""
    labels = torch.as_tensor(labels)
    return torch.stack([(labels == slot + 1).float() for slot in range(objects)])
