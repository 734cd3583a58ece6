"""Options shared by several commands, and the network they select."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from stm.network import STM

Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A checkpoint of this project, or a published one of STM, Mask-Propagation, STCN or XMem; the "
        "small bundled network by default.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=16,
        help="Larger frames are shrunk to a short side of N pixels for the network: 480, or 320 without "
        "--weights.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto, which uses a GPU if there is one.")]


def load_network(weights: Path | None, device: str) -> STM:
    """Load the network of a checkpoint, or the bundled one, onto a device.

    Args:
        weights: the checkpoint; None for the network that ships with the package.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` uses a GPU if there is one.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a checkpoint of a known network, or the device is not available.
    """
    import torch

    from stm.config.environment import tune_cpu
    from stm.network import BUNDLED_CHECKPOINT, load

    target, weights = _device(device), weights or BUNDLED_CHECKPOINT
    try:
        network = load(weights)
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile file can raise almost any error
        reason = str(error) if isinstance(error, ValueError) else f"not a checkpoint ({error!r})"
        raise ValueError(reason if str(weights) in reason else f"{weights}: {reason}") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise ValueError(f"{weights}: some weights are not finite")
    tune_cpu()
    return network.to(target)


def default_size(weights: Path | None) -> int:
    """Return the largest short side the network sees by default, in pixels."""
    return 320 if weights is None else 480  # the bundled network was trained on small frames


def bundled_notice(weights: Path | None) -> dict[str, str]:
    """Print to stderr that the bundled network is used; return the same notice as a JSON entry."""
    if weights is not None:
        return {}
    from stm.network import BUNDLED_NOTICE

    print(f"stm: no --weights: {BUNDLED_NOTICE}", file=sys.stderr)
    return {"notice": BUNDLED_NOTICE}


def _device(name: str) -> torch.device:
    import torch

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
