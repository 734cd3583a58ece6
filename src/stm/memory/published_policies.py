"""Memory policies of published networks, from the settings that their authors name."""

from __future__ import annotations

from typing import Any

from stm.memory.policy import MemoryPolicy

_COUNTED = {"previous": False, "every": 5, "every_from": "last"}
_XMEM = {**_COUNTED, "top_k": 30, "long_term": 10000, "decay": 1.0}
_POLICIES: dict[str, dict[str, Any]] = {
    "stm": {},
    "mask_propagation": {**_COUNTED, "previous": True, "top_k": 50},
    "stcn": {**_COUNTED, "top_k": 20},
    "xmem": _XMEM,
    "xmem_no_sensory": _XMEM,
}
_SETTINGS = {"mem_every": "every", "top_k": "top_k", "include_last": "previous"}
_XMEM_SETTINGS = {
    "mem_every": "every",
    "top_k": "top_k",
    "deep_update_every": "deep_update_every",
    "min_mid_term_frames": "min_working_frames",
    "max_mid_term_frames": "max_working_frames",
    "max_long_term_elements": "long_term",
    "num_prototypes": "num_prototypes",
    "enable_long_term": None,
    "count_long_term_usage": None,
}
"""Their names -> ours; None for what has no field of its own."""


def published_policy(name: str, **settings: Any) -> MemoryPolicy:
    """Return the memory policy that the authors of a published network evaluate with.

    Args:
        name: 'stm', 'mask_propagation', 'stcn', 'xmem' or 'xmem_no_sensory'.
        settings: changes under the authors' names: `mem_every`, `top_k`, `include_last`; for XMem instead of
            the last `deep_update_every` (-1 for every memory frame), `min_mid_term_frames`,
            `max_mid_term_frames`, `max_long_term_elements`, `num_prototypes`, `enable_long_term` (False for a
            working memory that grows) and `count_long_term_usage`, which is ignored: the published code turns
            it off only where nothing is ever evicted.

    Raises:
        ValueError: an unknown name or setting, or a value that `MemoryPolicy` rejects.
    """
    if name not in _POLICIES:
        raise ValueError(f"name={name}: must be one of {', '.join(_POLICIES)}")
    values, ours = dict(_POLICIES[name]), _XMEM_SETTINGS if "xmem" in name else _SETTINGS
    for setting, value in settings.items():
        if setting not in ours:
            raise ValueError(f"{setting}={value}: must be one of the settings of {name}: {', '.join(ours)}")
        if (field := ours[setting]) is not None:
            values[field] = value
    if (every := settings.get("deep_update_every")) is not None:
        values["deep_update_every"] = None if every < 0 else max(1, every)
    if not settings.get("enable_long_term", True):
        values["long_term"] = None
    return MemoryPolicy(**values)
