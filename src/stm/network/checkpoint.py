"""A network from a file: a checkpoint of ours, or the published one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from stm.network.official import is_official, load_official
from stm.network.stm import STM


def load(checkpoint: str | Path) -> STM:
    """The network of a checkpoint of ours, which carries its configuration, or of the authors' published one.

    Only weights and plain values are read from the file, never code.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, or neither kind of checkpoint.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises nearly anything
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"checkpoint {path} cannot be read: no whole file of weights alone ({reason})"
        ) from error
    if isinstance(state, dict) and "config" in state and "state_dict" in state:
        return _our_network(path, state)
    if isinstance(state, dict) and is_official(state):
        return load_official(path)
    raise ValueError(f"checkpoint {path} is neither of this project nor the published STM checkpoint")


def _our_network(path: Path, checkpoint: dict[str, Any]) -> STM:
    weights = {
        name.removeprefix("network."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    try:
        arguments = {k: v for k, v in checkpoint["config"]["network"].items() if k != "_target_"}
        network = STM(**{**arguments, "pretrained": False})
        network.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"checkpoint {path}: its weights do not fit its configuration: {error}") from error
    return network.eval()


def fingerprint(path: str | Path) -> str:
    """A checkpoint's name and its content's hash, shortened: what an evaluation is an evaluation of."""
    with Path(path).open("rb") as file:
        return f"{Path(path).name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
