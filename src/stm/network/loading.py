"""Loading of networks from checkpoints of this project or published ones."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import fsspec
import torch

from stm.atomic_io import atomic_path
from stm.network.published import is_published, load_published, plain_names, read_checkpoint
from stm.network.stm import STM

BUNDLED_CHECKPOINT = Path(__file__).parents[1] / "weights" / "mobile.pth"
"""The network that ships with the package; the model card beside it describes it."""
BUNDLED_NOTICE = (
    "this is the small network that ships with stm, trained on 28 clips of DAVIS. For better masks, use the "
    "authors' STM_weights.pth (https://github.com/seoungwugoh/STM) or train your own network "
    "(`python train.py`)"
)

_DOWNLOADS: dict[str | Path, Path] = {}
"""Address -> the file that this process downloaded from it; removed when the process ends."""


def load(checkpoint: str | Path | None = None) -> STM:
    """Load the network of a checkpoint of this project or of a published one (STM, STCN, XMem, ...).

    Only weights and plain values are read from the file, never code.

    Args:
        checkpoint: the file, or its address (`s3://`, `gs://`, ..., of fsspec); by default the network
            that ships with the package, with a warning that says so.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is broken, or neither kind of checkpoint.
    """
    if checkpoint is None:
        # With stacklevel=1, Python shows the warning once, wherever the function is called.
        warnings.warn(f"stm.load() without a checkpoint: {BUNDLED_NOTICE}", stacklevel=1)
    path = BUNDLED_CHECKPOINT if checkpoint is None else local_path(checkpoint)
    state = read_checkpoint(path)
    if _is_ours(state):
        return _network(path, state)
    if isinstance(state, dict) and is_published(state):
        return load_published(path)
    raise ValueError(f"checkpoint {path} is neither of this project nor a published one that is known")


def local_path(address: str | Path) -> Path:
    """Return the path of a file, after a download if it is at an address like `s3://bucket/last.ckpt`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: fsspec does not know the protocol, or lacks a package for it.
    """
    if "://" not in str(address):
        return Path(address)
    if address not in _DOWNLOADS:
        folder = tempfile.mkdtemp(prefix="stm_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            files, source = fsspec.core.url_to_fs(str(address))
            target = Path(folder) / Path(source).name
            files.get_file(source, str(target))
        except (ValueError, ImportError) as error:
            raise ValueError(f"{address}: must be an address that fsspec can read; {error}") from error
        _DOWNLOADS[address] = target
    return _DOWNLOADS[address]


def strip(
    checkpoint: str | Path, target: str | Path, half: bool = False, score_exponent: float | None = None
) -> None:
    """Write only the network of a checkpoint: weights, and the arguments of `STM`.

    The optimizer's state, two thirds of a checkpoint, and the rest of the configuration with its paths are
    dropped. `load` and `init=` of a training accept the file.

    Args:
        checkpoint: a checkpoint of this project.
        target: the file to write.
        half: store the weights in float16, half as large, instead of float32; they are loaded as float32.
        score_exponent: replaces that argument of `STM`.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: it is not a checkpoint of this project, or broken.
    """
    path = Path(checkpoint)
    state = read_checkpoint(path)
    if not _is_ours(state):
        raise ValueError(f"checkpoint {path} is not of this project: there is nothing to strip")
    network, dtype = _network(path, state), torch.float16 if half else torch.float32
    weights = {
        f"network.{name}": tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    arguments = _arguments(state)
    if score_exponent is not None:
        arguments["score_exponent"] = score_exponent
    # Given a path instead of an open file, torch would write the file's name into it.
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        torch.save({"config": {"network": arguments}, "state_dict": weights}, file)


def _is_ours(state: Any) -> bool:
    return isinstance(state, dict) and "config" in state and "state_dict" in state


def _network(path: Path, checkpoint: dict[str, Any]) -> STM:
    weights = {
        name.removeprefix("network."): tensor
        for name, tensor in plain_names(checkpoint["state_dict"]).items()
        if name.startswith("network.")
    }
    try:
        network = STM(**_arguments(checkpoint))
        network.load_state_dict(weights)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ValueError(f"checkpoint {path}: its weights do not fit its configuration: {error}") from error
    return network.eval()


def _arguments(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `STM`, without a download of ImageNet weights that would be overwritten."""
    arguments = {k: v for k, v in checkpoint["config"]["network"].items() if k != "_target_"}
    return {**arguments, "pretrained": False}


def fingerprint(path: str | Path) -> str:
    """Return a checkpoint's name with a short hash of its content, which identifies what was evaluated."""
    with local_path(path).open("rb") as file:
        return f"{Path(path).name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
