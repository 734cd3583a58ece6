"""What a user gives: pictures, masks, weights, a device. Each is looked at before it is trusted."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from stm.apps.doctor.facts import Facts, look_at_frame, look_at_mask
from stm.clip import VOID
from stm.data.files import read_frame
from stm.evaluation.segmenting import resized_mask, seen_size
from stm.masks import object_ids, read_mask
from stm.network import DEMONSTRATION, NOTICE, STM, load


def read_picture(path: Path) -> np.ndarray:
    """A picture, uint8 (H, W, 3).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, a broken one, or larger than is plausible.
    """
    _refuse(path, look_at_frame(path))
    return read_frame(path)


def read_given(path: Path, size: tuple[int, int], picture: object) -> np.ndarray:
    """A mask that shows objects, uint8 (H, W) with their ids; where it holds only 0 and 255, 255 is object 1.

    Args:
        size: (H, W) of its picture, and what that is called.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no index mask, of another size, smoothed at the edges, or shows no object.
    """
    facts = look_at_mask(path)
    _refuse(path, facts)
    mask = read_mask(path)
    if facts.smooth:
        raise ValueError(
            f"{path}: the mask is smoothed at its edges, so that its values are no object ids; export it "
            "without smoothing (`stm check` mends whole folders)"
        )
    if mask.shape != size:
        raise ValueError(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, {picture} is {size[1]}x{size[0]} "
            "(width x height)"
        )
    if not object_ids(mask):
        mask = (mask == VOID).astype(np.uint8)
    if not mask.any():
        raise ValueError(f"{path}: the mask shows no object: all its pixels are 0")
    return mask


def _refuse(path: Path, facts: Facts) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if facts.fault:
        raise ValueError(f"{path}: {facts.fault[1]}")


def network_on(weights: Path | None, device: str) -> STM:
    """The network of a checkpoint, or the demonstration's, on a device.

    Args:
        device: 'cpu', 'cuda', 'cuda:1', ...; 'auto' takes a GPU where there is one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no weights of such a network, or there is no such device.
    """
    where, weights = _device(device), weights or DEMONSTRATION
    try:
        network = load(weights)
    except OSError:
        raise
    except Exception as error:  # hostile content raises nearly anything
        told = str(error) if isinstance(error, ValueError) else f"no checkpoint of ours ({error!r})"
        raise ValueError(told if str(weights) in told else f"{weights}: {told}") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise ValueError(f"{weights}: there are weights that are not finite")
    torch.set_flush_denormal(True)  # several times as fast on a CPU
    return network.to(where)


def size_for(weights: Path | None) -> int:
    """The largest short side that a network sees if nothing is said: the demonstration's saw small frames."""
    return 160 if weights is None else 480


def tell_of_demonstration(weights: Path | None) -> dict[str, str]:
    """Where no weights are given, say on stderr whose are used; the same as an entry for the JSON file."""
    if weights is not None:
        return {}
    print(f"stm: no --weights: {NOTICE}", file=sys.stderr)
    return {"notice": NOTICE}


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: must be auto, cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA GPUs here")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name}: must be auto, cpu or cuda")
    return device


def shrunk(frame: np.ndarray, size: int) -> np.ndarray:
    """A picture (H, W, 3) with a short side of at most `size` pixels."""
    height, width = shrunk_size(frame, size)
    if (height, width) == frame.shape[:2]:
        return frame
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def shrunk_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """An index mask (H, W) to go with `shrunk`; an object too small for it keeps one pixel."""
    height, width = shrunk_size(mask, size)
    return mask if (height, width) == mask.shape else resized_mask(mask, (width, height))


def shrunk_size(picture: np.ndarray, size: int) -> tuple[int, int]:
    """Height and width of `shrunk` and `shrunk_mask`."""
    height, width = picture.shape[:2]
    return seen_size((height, width), min(size, height, width))
