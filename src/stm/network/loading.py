"""A network from a file: a checkpoint of ours, or the published one."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch

from stm.atomic_io import atomic_path
from stm.network.published import is_published, load_official
from stm.network.stm import STM

BUNDLED_CHECKPOINT = Path(__file__).parents[1] / "weights" / "demonstration.pth"
"""The small network that comes with the package; the card beside it tells what it is."""
BUNDLED_NOTICE = (
    "this is the demonstration network that comes with stm, trained for minutes on drawn shapes alone: it "
    "shows how things work, not how well. Real weights: the authors' STM_weights.pth "
    "(https://github.com/seoungwugoh/STM), or a training of your own (`python train.py`)"
)


def load(checkpoint: str | Path | None = None) -> STM:
    """The network of a checkpoint of ours, which carries its configuration, or of the authors' published one.

    Only weights and plain values are read from the file, never code.

    Args:
        checkpoint: the file; without one, the demonstration network, with a warning that it is no more.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, or neither kind of checkpoint.
    """
    if checkpoint is None:
        warnings.warn(
            f"stm.load() without a checkpoint: {BUNDLED_NOTICE}", stacklevel=1
        )  # once, wherever called
    path = BUNDLED_CHECKPOINT if checkpoint is None else Path(checkpoint)
    state = _read(path)
    if _is_ours(state):
        return _network(path, state)
    if isinstance(state, dict) and is_published(state):
        return load_official(path)
    raise ValueError(f"checkpoint {path} is neither of this project nor the published STM checkpoint")


def strip(checkpoint: str | Path, target: str | Path) -> None:
    """Write the network of a checkpoint alone: weights in float32, and the arguments of `STM`.

    What is left out is the state of the optimizer, which makes two thirds of a checkpoint, and the rest of
    the configuration with its paths. `load` takes the file, and so does a training by `init=`.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is not of this project, or broken.
    """
    path = Path(checkpoint)
    state = _read(path)
    if not _is_ours(state):
        raise ValueError(f"checkpoint {path} is not of this project: there is nothing to strip")
    weights = {
        f"network.{name}": tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in _network(path, state).state_dict().items()
    }
    with (
        atomic_path(target) as beside,
        beside.open("wb") as file,
    ):  # of a path, torch would write the name into it
        torch.save({"config": {"network": _arguments(state)}, "state_dict": weights}, file)


def _read(path: Path) -> Any:
    """What is in the file, plain values alone."""
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises nearly anything
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"checkpoint {path} cannot be read: no whole file of weights alone ({reason})"
        ) from error


def _is_ours(state: Any) -> bool:
    return isinstance(state, dict) and "config" in state and "state_dict" in state


def _network(path: Path, checkpoint: dict[str, Any]) -> STM:
    weights = {
        name.removeprefix("network."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    try:
        network = STM(**_arguments(checkpoint))
        network.load_state_dict(weights)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"checkpoint {path}: its weights do not fit its configuration: {error}") from error
    return network.eval()


def _arguments(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What `STM` is built with; ImageNet's weights would be overwritten."""
    arguments = {k: v for k, v in checkpoint["config"]["network"].items() if k != "_target_"}
    return {**arguments, "pretrained": False}


def fingerprint(path: str | Path) -> str:
    """A checkpoint's name and its content's hash, shortened: what an evaluation is an evaluation of."""
    with Path(path).open("rb") as file:
        return f"{Path(path).name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
