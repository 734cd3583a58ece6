"""Loading of published checkpoints: STM and the networks that followed it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stm.memory import published_policy
from stm.network.published_names import PUBLISHED, Published, recognize
from stm.network.stm import STM

NORMALIZATION = {f"Encoder_{side}.{name}": name for side in ("M", "Q") for name in ("mean", "std")}
"""STM's names of the normalization, which our network holds once, as constants."""
KEY_PARTS = {"key_proj": slice(0, 64), "d_proj": slice(64, 65), "e_proj": slice(65, 129)}
"""XMem's projections to key, shrinkage and selection, which are one convolution of ours."""


class Piece(NamedTuple):
    """A published tensor's part in one of ours.

    Attributes:
        name: of the published tensor.
        inputs: range of its input channels.
        outputs: range of our output channels that it fills; None for all.
    """

    name: str
    inputs: slice
    outputs: slice | None = None


def load_published(source: str | Path | Mapping[str, Tensor]) -> STM:
    """Build the network of a published checkpoint: STM, Mask-Propagation, STCN or XMem.

    Args:
        source: the file, or its state dict, also below the key `state_dict` or `model`; names may have the
            prefixes `module.` and `_orig_mod.`. VISOR's ResNet-50 weights have STM's names.

    Returns:
        The network in eval mode; its `policy` is the one that its authors evaluate with.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file contains anything but weights, is no checkpoint that is known, or entries are
            missing, unexpected or of another shape; the message lists them.
    """
    state = _state_dict(source)
    key = recognize(state)
    if key is None:
        known = ", ".join(published.title for published in PUBLISHED.values())
        raise ValueError(f"{_origin(source)} is not a published checkpoint of {known}")
    return _build(key, state, source)


def load_official(source: str | Path | Mapping[str, Tensor]) -> STM:
    """Build the network of the published STM checkpoint; see `load_published`."""
    return _build("stm", _state_dict(source), source)


def is_published(state_dict: Mapping[str, object]) -> bool:
    """Return whether a state dict has names of a published checkpoint."""
    return recognize(plain_names(unwrap(state_dict))) is not None


def unwrap(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict that a checkpoint holds under `state_dict` or `model`, else the checkpoint."""
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            return unwrap(state[key])
    return state


def plain_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict without the `module.` of DataParallel and the `_orig_mod.` of torch.compile."""
    return {
        ".".join(part for part in str(name).split(".") if part not in ("module", "_orig_mod")): tensor
        for name, tensor in state_dict.items()
    }


def _build(key: str, state: dict[str, Tensor], source: str | Path | Mapping[str, Tensor]) -> STM:
    published = PUBLISHED[key]
    network = STM(**published.arguments)
    pieces = {name: list(_pieces(name, network.state_dict(), published)) for name in network.state_dict()}
    shapes = _published_shapes(pieces, network.state_dict())
    biases = {name: _bias_name(name, pieces[name][0].name, published) for name in pieces}
    shapes |= {bias: shapes[pieces[name][0].name] for name, bias in biases.items() if bias is not None}
    state = {name: _with_others_channel(tensor, shapes.get(name)) for name, tensor in state.items()}
    problems = [
        f"{name}: shape {_shape(value)}, expected {shapes[name]}"
        if name in shapes
        else f"{name}: not part of the published network"
        for name, value in state.items()
        if _shape(value) != shapes.get(name) and not (key == "stm" and name in NORMALIZATION)
    ]
    problems += [f"{name}: missing" for name in shapes.keys() - state.keys()]
    if key == "stm":
        problems += _normalization_problems(state, network)
    if problems:
        listed = "\n  ".join(sorted(problems)[:20])
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        title = published.title
        raise ValueError(f"{_origin(source)} is not the published {title} checkpoint:\n  {listed}{more}")
    for name, ours in network.state_dict().items():  # in place
        for piece in pieces[name]:
            theirs = state[piece.name]
            target = ours if piece.outputs is None else ours[piece.outputs]
            target.copy_(theirs[:, piece.inputs] if theirs.ndim > 1 else theirs)
        if (bias := biases[name]) is not None:  # before a normalization with fixed statistics
            ours.sub_(state[bias])
    network.policy = published_policy(key)
    return network.eval()


def _pieces(name: str, ours: Mapping[str, Tensor], published: Published) -> Iterator[Piece]:
    """Yield what one of our tensors consists of."""
    everything = slice(None)
    prefix = max((p for p in published.prefixes if name.startswith(p)), key=len)
    theirs = published.prefixes[prefix] + name[len(prefix) :]
    start = {"trunk": 0, "mask_stem": 3, "others_stem": 4}.get(name.split(".")[1])
    if theirs.startswith("key_proj.") and published.title.startswith("XMem"):
        rest = theirs.removeprefix("key_proj.")
        yield from (Piece(f"key_proj.{part}.{rest}", everything, at) for part, at in KEY_PARTS.items())
    elif ".own." in name or ".shared." in name:
        own, shared = name.replace(".shared.", ".own."), name.replace(".own.", ".shared.")
        is_own, theirs = ".own." in name, theirs.replace(".own.", ".").replace(".shared.", ".")
        begin = 0
        if name.endswith("weight") and name.startswith(published.frame_first) == is_own:
            begin = ours[shared if is_own else own].shape[1]
        channels = ours[name].shape[1] if name.endswith("weight") else 0
        yield Piece(theirs, slice(begin, begin + channels))
    elif theirs.endswith("conv1.weight") and start is not None and ours[name].shape[-1] == 7:
        yield Piece(theirs, slice(start, start + ours[name].shape[1]))
    else:
        yield Piece(theirs, everything)


def _published_shapes(
    pieces: Mapping[str, list[Piece]], ours: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each published tensor."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parts in pieces.items():
        for piece in parts:
            shape = list(ours[name].shape)
            if piece.outputs is not None:
                shape[0] = piece.outputs.stop - piece.outputs.start
            if len(shape) > 1:
                shape[1] = max(piece.inputs.stop or shape[1], shapes.get(piece.name, (0, 0))[1])
            shapes[piece.name] = tuple(shape)
    return shapes


def _bias_name(name: str, theirs: str, published: Published) -> str | None:
    """Return the published bias of the convolution before a normalization of which `name` is the mean."""
    if not name.endswith("running_mean") or not name.startswith(published.conv_biases or (" ",)):
        return None
    layer = theirs.removesuffix(".running_mean")
    if layer.endswith("downsample.1"):
        return f"{layer[:-1]}0.bias"
    return f"{layer[:-3]}{layer[-3:].replace('bn', 'conv')}.bias"


def _with_others_channel(tensor: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """Append an empty channel for the other objects' masks, which STCN's first training stage lacks."""
    if shape is None or shape[1:] != (5, 7, 7) or _shape(tensor)[1:] != (4, 7, 7):
        return tensor
    return torch.cat([tensor, torch.zeros_like(tensor[:, :1])], dim=1)


def _shape(value: Any) -> tuple[int, ...] | str:
    """Return the shape of a tensor, or the type of what is none."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _normalization_problems(state: Mapping[str, Tensor], network: STM) -> list[str]:
    problems = []
    for name, own in NORMALIZATION.items():
        ours = getattr(network, own).flatten()
        if name not in state:
            problems.append(f"{name}: missing")
        elif state[name].numel() != 3 or not torch.allclose(state[name].flatten().float(), ours):
            problems.append(f"{name}: must be ImageNet's {ours.tolist()}")
    return problems


def _state_dict(source: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict by its plain names."""
    state = source if isinstance(source, Mapping) else read_checkpoint(source)
    if not isinstance(state, Mapping):
        raise ValueError(f"checkpoint {source}: must contain a state dict; got a {type(state).__name__}")
    return plain_names(unwrap(state))


def _origin(source: str | Path | Mapping[str, Tensor]) -> str:
    return "the state dict" if isinstance(source, Mapping) else f"checkpoint {source}"


def read_checkpoint(path: str | Path) -> Any:
    """Read the weights and plain values of a file, without running any code that its pickle may contain.

    Raises:
        FileNotFoundError: the file does not exist, or is a folder.
        ValueError: the file is broken, or contains anything else.
    """
    if Path(path).is_dir():
        raise FileNotFoundError(
            f"checkpoint {path} is a folder: it must be a file, such as {Path(path) / 'last.ckpt'}"
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    if problem := download_problem(Path(path)):
        raise ValueError(f"checkpoint {path} {problem}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file may raise almost any error
        raise ValueError(
            f"checkpoint {path} cannot be read: it must be an intact file of weights only ({brief(error)})"
        ) from error


def brief(error: Exception) -> str:
    """Return the kind and the first sentence of an error, which torch.load follows by advice."""
    return re.split(r"\. |\n", f"{type(error).__name__}: {error}")[0]


def download_problem(path: Path) -> str | None:
    """Return what a file is instead of weights after a failed download; None for other files."""
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights; `git lfs pull` downloads them"
    if start[:1] == b"<":
        return "is a web page, not weights; download the file itself"
    return None
