"""Loading of the checkpoint that the paper's authors published (seoungwugoh/STM)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stm.network.stm import STM

# Prefixes of the published names and of ours; the rest of each name is the same.
PREFIXES = {
    "Encoder_M.conv1_m.": "memory_encoder.mask_stem.",
    "Encoder_M.conv1_o.": "memory_encoder.others_stem.",
    **{
        f"Encoder_{side}.{theirs}": f"{encoder}_encoder.trunk.{ours}"
        for side, encoder in (("M", "memory"), ("Q", "query"))
        for theirs, ours in (
            ("conv1.", "stem."),
            ("bn1.", "stages.0.0."),
            ("res2.", "stages.0.3."),
            ("res3.", "stages.1."),
            ("res4.", "stages.2."),
        )
    },
    "KV_M_r4.Key.": "memory_encoder.key.",
    "KV_M_r4.Value.": "memory_encoder.value.",
    "KV_Q_r4.Key.": "query_encoder.key.",
    "KV_Q_r4.Value.": "query_encoder.value.",
    "Decoder.convFM.": "decoder.compress.",
    "Decoder.ResMM.": "decoder.residual.",
    **{
        f"Decoder.RF{level}.{theirs}": f"decoder.refine{stride}.{ours}"
        for level, stride in ((3, 8), (2, 4))
        for theirs, ours in (("convFS.", "skip.0."), ("ResFS.", "skip.1."), ("ResMM.", "merge."))
    },
    "Decoder.pred2.": "decoder.predict.",
}
NORMALIZATION = {f"Encoder_{side}.{name}": name for side in ("M", "Q") for name in ("mean", "std")}
"""Published names of the normalization, which our network holds once, as constants."""


def official_network() -> STM:
    """Build the published network: the paper's, with the other objects' channel and a scaled dot product."""
    return STM(backbone="resnet50", other_objects_channel=True, similarity="scaled_dot")


def is_published(state_dict: Mapping[str, object]) -> bool:
    """Return whether a state dict has names of the published checkpoint."""
    return any(re.match(r"(Encoder_[MQ]|KV_[MQ]_r4)\.", name) for name in plain_names(unwrap(state_dict)))


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


def load_official(source: str | Path | Mapping[str, Tensor]) -> STM:
    """Build the network of the published STM checkpoint.

    Args:
        source: the file, or its state dict, also below the key `state_dict` or `model`; names may have the
            prefixes `module.` and `_orig_mod.`.

    Returns:
        The network in eval mode.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file contains anything but weights, or entries are missing, unexpected or of another
            shape; the message lists them.
    """
    state = source if isinstance(source, Mapping) else read_checkpoint(source)
    if not isinstance(state, Mapping):
        raise ValueError(f"checkpoint {source}: must contain a state dict; got a {type(state).__name__}")
    state = plain_names(unwrap(state))

    network = official_network()
    constants = dict(network.named_buffers())
    expected = network.state_dict()
    renamed: dict[str, Tensor] = {}
    problems = []
    for name, tensor in state.items():
        if name in NORMALIZATION:
            ours = constants[NORMALIZATION[name]]
            if tensor.numel() != 3 or not torch.allclose(tensor.flatten().float(), ours.flatten()):
                problems.append(f"{name}: must be ImageNet's {ours.flatten().tolist()}")
            continue
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        target = None if prefix is None else PREFIXES[prefix] + name[len(prefix) :]
        if target not in expected:
            problems.append(f"{name}: not part of the published network")
        elif tensor.shape != expected[target].shape:
            problems.append(f"{name}: shape {tuple(tensor.shape)}, expected {tuple(expected[target].shape)}")
        else:
            renamed[target] = tensor
    published_prefixes = {ours: theirs for theirs, ours in PREFIXES.items()}
    reported = {problem.split(":")[0] for problem in problems}
    for target in expected.keys() - renamed.keys():
        prefix = next(prefix for prefix in published_prefixes if target.startswith(prefix))
        missing = published_prefixes[prefix] + target[len(prefix) :]
        if missing not in reported:
            problems.append(f"{missing}: missing")
    problems += [f"{name}: missing" for name in NORMALIZATION if name not in state]
    if problems:
        listed = "\n  ".join(sorted(problems)[:20])
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        origin = "the state dict" if isinstance(source, Mapping) else f"checkpoint {source}"
        raise ValueError(f"{origin} is not the published STM checkpoint:\n  {listed}{more}")
    network.load_state_dict(renamed)
    return network.eval()


def read_checkpoint(path: str | Path) -> Any:
    """Read the weights and plain values of a file, without running any code that its pickle may contain.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is broken, or contains anything else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    if problem := download_problem(Path(path)):
        raise ValueError(f"checkpoint {path} {problem}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file may raise almost any error
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"checkpoint {path} cannot be read: it must be an intact file of weights only ({reason})"
        ) from error


def download_problem(path: Path) -> str | None:
    """Return what a file is instead of weights after a failed download; None for other files."""
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights; `git lfs pull` downloads them"
    if start[:1] == b"<":
        return "is a web page, not weights; download the file itself"
    return None
