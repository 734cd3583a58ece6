"""Checks of the arguments of `STM`, and which of them decide what its weights mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stm.network.decoder import DECODERS
from stm.network.encoders import VALUE_FUSIONS
from stm.network.memory_read import SIMILARITIES

CHOICES = {
    "similarity": SIMILARITIES,
    "key_input": ("image_mask", "image"),
    "value_fusion": VALUE_FUSIONS,
    "decoder": tuple(DECODERS),
    "border": ("black", "mean"),
    "mask_merging": ("overwrite", "aggregate"),
}
LOWEST = {
    "key_channels": 1,
    "value_channels": 1,
    "fine_channels": 1,
    "decoder_channels": 1,
    "sensory_channels": 0,
}
CALIBRATION = ("score_exponent",)
"""Arguments on which neither masks nor weights depend."""
INITIALIZATION = ("pretrained", "tie_encoders", "mask_gain")
"""Arguments that decide the initial weights only."""


def validate_arguments(arguments: Mapping[str, Any]) -> None:
    """Check the arguments of `STM` by name.

    Raises:
        ValueError: a value that does not exist, or values that exclude each other.
    """
    for name, choices in CHOICES.items():
        if arguments[name] not in choices:
            raise ValueError(f"{name}={arguments[name]}: must be one of {', '.join(choices)}")
    if not 0 < arguments["score_exponent"] < float("inf"):
        raise ValueError(f"score_exponent={arguments['score_exponent']}: must be above 0, and finite")
    for name, lowest in LOWEST.items():
        if arguments[name] is not None and arguments[name] < lowest:
            raise ValueError(f"{name}={arguments[name]}: must be at least {lowest}")
    backbones = (None, arguments["backbone"])
    norms = (None, arguments["norm"])
    if arguments["tie_encoders"] and (
        arguments["key_input"] == "image"
        or arguments["memory_backbone"] not in backbones
        or arguments["memory_norm"] not in norms
    ):
        raise ValueError(
            "tie_encoders=true: requires key_input=image_mask, and encoders of one backbone and norm; "
            f"got key_input={arguments['key_input']}, memory_backbone={arguments['memory_backbone']}, "
            f"memory_norm={arguments['memory_norm']}"
        )


def lasting_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without those of the initialization; defaults that repeat others are resolved."""
    lasting = {name: value for name, value in arguments.items() if name not in INITIALIZATION}
    lasting["memory_backbone"] = arguments["memory_backbone"] or arguments["backbone"]
    if arguments["memory_norm"] == arguments["norm"]:
        lasting["memory_norm"] = None
    return lasting
