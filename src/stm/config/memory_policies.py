"""A memory policy by its name, with changes: `every_5`, `diverse,top_k=20`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_type_hints

import yaml

from stm.config.schema import CONF
from stm.memory import MemoryPolicy


def parse_policy(text: str) -> MemoryPolicy:
    """The policy of a file in `conf/memory/`, its values changed by what follows, `key=value` each.

    Raises:
        ValueError: there is no such name or value, or the values exclude each other.
    """
    name, *changes = (part.strip() for part in text.split(","))
    values = _file(name)
    kinds = get_type_hints(MemoryPolicy)
    for change in changes:
        key, equals, given = change.partition("=")
        if not equals:
            raise ValueError(f"--memory {text}: {change!r} is no key=value, such as top_k=20")
        if key not in kinds:
            raise ValueError(f"--memory {text}: there is no value {key!r}.{_meant(key, kinds)}")
        values[key] = _value(given, kinds[key], f"--memory {text}: {key}={given}")
    return MemoryPolicy(**values)


def policy_names() -> list[str]:
    """The policies that there are."""
    return sorted(path.stem for path in (CONF / "memory").glob("*.yaml"))


def _file(name: str) -> dict[str, Any]:
    """The values of a file, over those that it begins with."""
    if name not in policy_names():
        raise ValueError(
            f"--memory {name} does not exist.{_meant(name, policy_names())} There are {', '.join(policy_names())}"
        )
    path = CONF / "memory" / f"{name}.yaml"
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    begun: dict[str, Any] = {}
    for other in own.pop("defaults", []):
        begun |= _file(other)
    own.pop("_target_", None)
    return begun | own


def _value(given: str, kind: Any, told: str) -> Any:
    try:
        value = yaml.safe_load(given)
    except yaml.YAMLError as error:
        raise ValueError(f"{told}: cannot be read") from error
    kinds = getattr(kind, "__args__", (kind,))
    if isinstance(value, bool) != (bool in kinds):
        fits = False
    else:
        fits = isinstance(value, (*kinds, int) if float in kinds else kinds)
    if not fits:
        wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise ValueError(f"{told}: must be {wanted}")
    return value


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""
