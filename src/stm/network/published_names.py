"""The published checkpoints that we know: how to recognize each, and their names for our weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_TRUNK = {"stem.": "conv1.", "stages.0.0.": "bn1.", "stages.1.": "layer2.", "stages.2.": "layer3."}
_FIRST_STAGE = "stages.0.3."


class Published(NamedTuple):
    """A published network.

    Attributes:
        title: its name in messages.
        signature: pattern of a name in its checkpoints; the first network with a match in `PUBLISHED` counts.
        arguments: of `stm.network.STM`.
        prefixes: our prefix of a name -> the published one, the longest first that applies.
        frame_first: our prefixes of concatenating convolutions whose first input channels are the frame's.
        conv_biases: our prefixes of trunks whose published convolutions have a bias.
    """

    title: str
    signature: str
    arguments: dict[str, Any]
    prefixes: dict[str, str]
    frame_first: tuple[str, ...] = ()
    conv_biases: tuple[str, ...] = ()


def _trunk(ours: str, theirs: str, names: dict[str, str] = _TRUNK, first: str = "res2.") -> dict[str, str]:
    return {
        f"{ours}.trunk.{own}": f"{theirs}{published}"
        for own, published in (names | {_FIRST_STAGE: first}).items()
    }


_FUSION = {
    "block1.shortcut.": "block1.downsample.",
    "attention.channel_gate.0.": "attention.ChannelGate.mlp.1.",
    "attention.channel_gate.2.": "attention.ChannelGate.mlp.3.",
    "attention.spatial_gate.": "attention.SpatialGate.spatial.conv.",
    "": "",
}
_MASK_STEMS = {f"memory_encoder.{stem}.": "value_encoder.conv1." for stem in ("mask_stem", "others_stem")}
_UPSAMPLING = {
    f"decoder.{ours}.{part}.": f"decoder.{theirs}.{published}."
    for ours, theirs in (("refine8", "up_16_8"), ("refine4", "up_8_4"))
    for part, published in (
        ("skip.0", "skip_conv"),
        ("merge.shortcut", "out_conv.downsample"),
        ("merge", "out_conv"),
    )
}
_HEAD = {"decoder.predict.": "decoder.pred."}
_VALUE = {f"memory_encoder.value.{o}": f"value_encoder.fuser.{p}" for o, p in _FUSION.items()}
_COMPRESS = {
    "decoder.compress.shortcut.": "decoder.compress.downsample.",
    "decoder.compress.": "decoder.compress.",
}
_STM_TRUNK = {"stem.": "conv1.", "stages.0.0.": "bn1.", "stages.1.": "res3.", "stages.2.": "res4."}
_FAMILY = {
    "other_objects_channel": True,
    "border": "mean",
    "mask_merging": "aggregate",
}
_IMAGE_KEYS = {
    **_FAMILY,
    "memory_backbone": "resnet18",
    "key_input": "image",
    "key_channels": 64,
    "value_fusion": "cbam",
}

_XMEM = Published(
    "XMem",
    r"key_proj\.[de]_proj\.|decoder\.fuser\.",
    {**_IMAGE_KEYS, "similarity": "anisotropic_l2", "decoder": "xmem", "sensory_channels": 64},
    {
        **_trunk("query_encoder", "key_encoder."),
        **_trunk("memory_encoder", "value_encoder.", first="layer1."),
        **_MASK_STEMS,
        "query_encoder.key.": "key_proj.",
        **_VALUE,
        **{f"decoder.compress.{ours}": f"decoder.fuser.{theirs}" for ours, theirs in _FUSION.items()},
        **_UPSAMPLING,
        **_HEAD,
        "decoder.sensory_update.projections.0.": "decoder.hidden_update.g16_conv.",
        "decoder.sensory_update.projections.1.": "decoder.hidden_update.g8_conv.",
        "decoder.sensory_update.projections.2.": "decoder.hidden_update.g4_conv.",
        "decoder.sensory_update.": "decoder.hidden_update.",
        "deep_update.": "value_encoder.hidden_reinforce.",
    },
    frame_first=("memory_encoder.value.", "decoder.compress."),
)

PUBLISHED: dict[str, Published] = {
    "stm": Published(
        "STM",
        r"(Encoder_[MQ]|KV_[MQ]_r4)\.",
        {"other_objects_channel": True, "similarity": "scaled_dot"},
        {
            "memory_encoder.mask_stem.": "Encoder_M.conv1_m.",
            "memory_encoder.others_stem.": "Encoder_M.conv1_o.",
            **_trunk("memory_encoder", "Encoder_M.", _STM_TRUNK),
            **_trunk("query_encoder", "Encoder_Q.", _STM_TRUNK),
            "memory_encoder.key.": "KV_M_r4.Key.",
            "memory_encoder.value.": "KV_M_r4.Value.",
            "query_encoder.key.": "KV_Q_r4.Key.",
            "query_encoder.value.": "KV_Q_r4.Value.",
            "decoder.compress.": "Decoder.convFM.",
            "decoder.residual.": "Decoder.ResMM.",
            **{
                f"decoder.refine{stride}.{ours}": f"Decoder.RF{level}.{theirs}"
                for level, stride in ((3, 8), (2, 4))
                for theirs, ours in (("convFS.", "skip.0."), ("ResFS.", "skip.1."), ("ResMM.", "merge."))
            },
            "decoder.predict.": "Decoder.pred2.",
        },
    ),
    "mask_propagation": Published(
        "Mask-Propagation",
        r"((mask_)?rgb_encoder|kv_[mq]_f16)\.",
        {**_FAMILY, "similarity": "scaled_dot", "decoder": "mask_propagation"},
        {
            **_trunk("query_encoder", "rgb_encoder."),
            **_trunk("memory_encoder", "mask_rgb_encoder.", first="layer1."),
            **dict.fromkeys(_MASK_STEMS, "mask_rgb_encoder.conv1."),
            "memory_encoder.key.": "kv_m_f16.key_proj.",
            "memory_encoder.value.": "kv_m_f16.val_proj.",
            "query_encoder.key.": "kv_q_f16.key_proj.",
            "query_encoder.value.": "kv_q_f16.val_proj.",
            **_COMPRESS,
            **_UPSAMPLING,
            **{
                f"decoder.{ours}.skip.{i}.": f"decoder.{theirs}.skip_conv{i + 1}."
                for ours, theirs in (("refine8", "up_16_8"), ("refine4", "up_8_4"))
                for i in (0, 1)
            },
            **_HEAD,
        },
        conv_biases=("memory_encoder.trunk.",),
    ),
    "xmem": _XMEM._replace(signature=r"(decoder\.hidden_update|value_encoder\.hidden_reinforce)\."),
    "xmem_no_sensory": _XMEM._replace(
        title="XMem without sensory memory", arguments={**_XMEM.arguments, "sensory_channels": 0}
    ),
    "stcn": Published(
        "STCN",
        r"key_(comp|proj|encoder)\.|value_encoder\.",
        {**_IMAGE_KEYS, "similarity": "l2", "decoder": "stcn"},
        {
            **_trunk("query_encoder", "key_encoder."),
            **_trunk("memory_encoder", "value_encoder.", first="layer1."),
            **_MASK_STEMS,
            "query_encoder.key.": "key_proj.key_proj.",
            "query_encoder.value.": "key_comp.",
            **_VALUE,
            **_COMPRESS,
            **_UPSAMPLING,
            **_HEAD,
        },
        conv_biases=("memory_encoder.trunk.",),
    ),
}


def recognize(names: Iterable[str]) -> str | None:
    """Return the key of `PUBLISHED` whose checkpoint has such names; None for an unknown checkpoint."""
    names = list(names)
    matching = (key for key, layout in PUBLISHED.items() if any(re.match(layout.signature, n) for n in names))
    return next(matching, None)
