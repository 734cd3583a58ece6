"""Parameter groups: rates of the trunks, frozen stages, and what weight decay applies to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.nn import Parameter

from stm.network import STM
from stm.network.backbones import Trunk


def trunks(network: STM) -> list[Trunk]:
    """Return the query encoder's trunk, and the memory encoder's if it is of the same backbone."""
    is_same = network.arguments["memory_backbone"] == network.arguments["backbone"]
    query, memory = network.query_encoder.trunk, network.memory_encoder.trunk
    return [query, memory] if is_same else [query]


def freeze_stages(network: STM, stages: int) -> None:
    """Freeze the first stages of the trunks: their parameters get no gradients.

    Args:
        network: The network.
        stages: 0 for none; 1 freezes the stem and the stage at stride 4, 2 also the one at stride 8, 3 the
            whole trunk.

    Raises:
        ValueError: Not in 0..3.
    """
    if not 0 <= stages <= 3:
        raise ValueError(f"frozen_stages={stages}: must be 0, 1, 2 or 3 stages of the trunk")
    for trunk in trunks(network) if stages else ():
        for part in (trunk.stem, *trunk.stages[:stages]):
            part.requires_grad_(False)


def parameter_groups(
    network: STM, defaults: Mapping[str, Any], trunk_lr: float = 1.0, decay_norms: bool = False
) -> list[dict[str, Any]]:
    """Return the trainable parameters in the groups that an optimizer takes.

    Args:
        network: The network.
        defaults: The optimizer's arguments, such as `lr` and `weight_decay`.
        trunk_lr: Learning rate of the trunks relative to `lr`; 0 freezes them.
        decay_norms: Apply weight decay to biases and to the weights of norms, too.

    Returns:
        One to four groups; a single one if all parameters are treated alike.

    Raises:
        ValueError: `trunk_lr` is negative.
    """
    if trunk_lr < 0:
        raise ValueError(f"trunk_lr={trunk_lr}: must be at least 0, relative to optimizer.lr")
    in_trunk = {p for trunk in trunks(network) for p in trunk.parameters()}
    spares_norms = bool(defaults.get("weight_decay")) and not decay_norms
    groups: dict[tuple[bool, bool], list[Parameter]] = {}
    for parameter in network.parameters():
        is_slow, is_free = trunk_lr != 1 and parameter in in_trunk, spares_norms and parameter.ndim < 2
        if parameter.requires_grad and not (is_slow and trunk_lr == 0):
            groups.setdefault((is_slow, is_free), []).append(parameter)
    return [
        {
            "params": parameters,
            **({"lr": trunk_lr * defaults["lr"]} if is_slow else {}),
            **({"weight_decay": 0.0} if is_free else {}),
        }
        for (is_slow, is_free), parameters in groups.items()
    ]
