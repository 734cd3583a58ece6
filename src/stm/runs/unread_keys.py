"""Check that something reads each key of a group of the configuration."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from stm.config.schema import CONF


def refuse_unread_keys(config: DictConfig, group: str, arguments: Collection[str] = ()) -> None:
    """Refuse a key of a group that is neither an argument of the group's object nor read by an interpolation.

    A value of the group's own file may be unread, such as `data.root` where `data.images` and `data.masks`
    replace what it is part of.

    Raises:
        ValueError: nothing reads a key that was given a value.
    """
    given = {key: value for key, value in config[group].items() if value is not None}
    values, defaults = OmegaConf.to_container(config[group]), _defaults(group)
    assert isinstance(values, dict)
    unread = [key for key in given if key not in arguments and not is_read(config, f"{group}.{key}")]
    for key in unread:
        if key in defaults and values[key] == defaults[key]:
            continue
        known = {*given, *arguments} - {"_target_", *unread}
        raise ValueError(
            f"{group}.{key}={given[key]}: nothing reads this key; must be one of {', '.join(sorted(known))} "
            f"(~{group}.{key} removes it)"
        )


def _defaults(group: str) -> dict[str, Any]:
    """Return the content of the selected file of this package, interpolations as they are."""
    file = CONF / group / f"{HydraConfig.get().runtime.choices[group]}.yaml"
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(file))) if file.exists() else {}


def is_read(config: DictConfig, key: str) -> bool:
    """Return whether an interpolation reads a key, so that the rest cannot be resolved without it."""
    rest = config.copy()
    OmegaConf.update(rest, key, "???")
    try:
        OmegaConf.to_container(rest, resolve=True)
    except InterpolationResolutionError:
        return True
    return False
