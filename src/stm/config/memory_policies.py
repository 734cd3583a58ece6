"""A memory policy by its name, with changes: `every_5`, `diverse,top_k=20`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_type_hints

import yaml

from stm.config.schema import CONF
from stm.memory import MemoryPolicy


def parse_policy(text: str) -> MemoryPolicy:
    """Return the policy of a file in `conf/memory/`, changed by the `key=value` pairs that follow its name.

    Raises:
        ValueError: The name, a key or a value is unknown, or the values exclude each other.
    """
    name, *changes = (part.strip() for part in text.split(","))
    values = _read_policy(name)
    types = get_type_hints(MemoryPolicy)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"--memory {text}: {change!r} must be key=value, such as top_k=20")
        if key not in types:
            raise ValueError(f"--memory {text}: unknown key {key!r}.{_did_you_mean(key, types)}")
        values[key] = _parse_value(value, types[key], f"--memory {text}: {key}={value}")
    return MemoryPolicy(**values)


def policy_names() -> list[str]:
    """Return the names of the files in `conf/memory/`."""
    return sorted(path.stem for path in (CONF / "memory").glob("*.yaml"))


def _read_policy(name: str) -> dict[str, Any]:
    names = policy_names()
    if name not in names:
        raise ValueError(
            f"--memory {name or repr(name)} does not exist.{_did_you_mean(name, names)} "
            f"The policies are {', '.join(names)}"
        )
    own = yaml.safe_load((CONF / "memory" / f"{name}.yaml").read_text(encoding="utf-8"))
    inherited: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        inherited |= _read_policy(base)
    own.pop("_target_", None)
    return inherited | own


def _parse_value(text: str, annotation: Any, place: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{place}: not a valid YAML value") from error
    types = getattr(annotation, "__args__", (annotation,))
    accepted = (*types, int) if float in types else types
    if isinstance(value, bool) != (bool in types) or not isinstance(value, accepted):
        names = ("null" if kind is type(None) else kind.__name__ for kind in types)
        raise ValueError(f"{place}: must be {' or '.join(names)}")
    return value


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {matches[0]}?" if matches else ""
