"""The checkpoint that the paper's authors published (seoungwugoh/STM): its names, and a network for it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from stm.network.stm import STM

# The published names and ours; what follows a matched prefix stays as it is.
PREFIXES = {
    "Encoder_M.conv1_m.": "memory_encoder.mask_stem.",
    "Encoder_M.conv1_o.": "memory_encoder.others_stem.",
    **{
        f"Encoder_{side}.{theirs}": f"{ours}_encoder.trunk.{place}"
        for side, ours in (("M", "memory"), ("Q", "query"))
        for theirs, place in (
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
NORMALIZATION = {
    f"Encoder_{side}.{name}": name for side in ("M", "Q") for name in ("mean", "std")
}  # the network holds these once, as constants


def official_network() -> STM:
    """The published checkpoint's network: the paper's, with the other objects' channel and a scaled dot."""
    return STM(backbone="resnet50", other_objects_channel=True, similarity="scaled_dot")


def is_published(state_dict: Mapping[str, object]) -> bool:
    """Does a state dict look like the published one?"""
    return any(re.match(r"(module\.)?(Encoder_[MQ]|KV_[MQ]_r4)\.", name) for name in state_dict)


def load_official(source: str | Path | Mapping[str, Tensor]) -> STM:
    """Build the network of the published STM checkpoint.

    Args:
        source: the file, or its state dict; names may carry the prefix `module.`.

    Returns:
        The network in eval mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else than weights, or entries are missing, extra or of another
            shape; the message names them.
    """
    state = dict(source) if isinstance(source, Mapping) else _read(source)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}

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
    theirs = {place: prefix for prefix, place in PREFIXES.items()}
    misnamed = {problem.split(":")[0] for problem in problems}
    for target in expected.keys() - renamed.keys():
        place = next(place for place in theirs if target.startswith(place))
        absent = theirs[place] + target[len(place) :]
        if absent not in misnamed:
            problems.append(f"{absent}: missing")
    problems += [f"{name}: missing" for name in NORMALIZATION if name not in state]
    if problems:
        listed = "\n  ".join(sorted(problems)[:20])
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        origin = "the state dict" if isinstance(source, Mapping) else source
        raise ValueError(f"{origin} is not the published STM checkpoint:\n  {listed}{more}")
    network.load_state_dict(renamed)
    return network.eval()


def _read(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file; code that a pickle may carry is not run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path}: not a file of weights alone ({reason})") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a state dict")
    return dict(state)
