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
_SETTINGS = {
    "mem_every": "every",
    "top_k": "top_k",
    "include_last": "previous",
    "deep_update_every": "deep_update_every",
    "min_mid_term_frames": "min_working_frames",
    "max_mid_term_frames": "max_working_frames",
    "max_long_term_elements": "long_term",
    "num_prototypes": "num_prototypes",
}


def published_policy(
    name: str, enable_long_term: bool = True, count_long_term_usage: bool = True, **settings: Any
) -> MemoryPolicy:
    """Return the memory policy that the authors of a published network evaluate with.

    Args:
        name: 'stm', 'mask_propagation', 'stcn', 'xmem' or 'xmem_no_sensory'.
        enable_long_term: False for a working memory of XMem that grows.
        count_long_term_usage: ignored; the published code turns it off only where nothing is ever evicted.
        settings: changes under the authors' names: `mem_every`, `top_k`, `include_last`, `deep_update_every`
            (-1 for every memory frame), `min_mid_term_frames`, `max_mid_term_frames`,
            `max_long_term_elements`, `num_prototypes`.

    Raises:
        ValueError: an unknown name or setting, or a value that `MemoryPolicy` rejects.
    """
    if name not in _POLICIES:
        raise ValueError(f"name={name}: must be one of {', '.join(_POLICIES)}")
    values = dict(_POLICIES[name])
    for setting, value in settings.items():
        if setting not in _SETTINGS:
            known = ", ".join([*_SETTINGS, "enable_long_term", "count_long_term_usage"])
            raise ValueError(f"{setting}={value}: must be one of the settings {known}")
        is_off = setting == "deep_update_every" and value < 0
        values[_SETTINGS[setting]] = None if is_off else value
    if not enable_long_term:
        values["long_term"] = None
    return MemoryPolicy(**values)
