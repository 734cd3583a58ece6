"""Check of a configuration's values against the type hints of the objects that they configure."""

from __future__ import annotations

import math
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
_LISTS = (list, tuple, set, frozenset)


def check_argument_types(config: DictConfig) -> None:
    """Check the arguments of this package's objects in a configuration.

    Raises:
        ValueError: A value does not have the type of its argument, such as a word where a list is needed, or
            a number is not finite.
    """
    values = OmegaConf.to_container(config, resolve=True)
    for key, value in _numbers(values):
        if not math.isfinite(value):
            raise ValueError(f"{key}={value}: must be a finite number")
    for place, node in _objects(values):
        for key, value in node.items():
            hint = _hints(node["_target_"]).get(key)
            if hint is not None and value != "???" and not _fits(value, hint):
                example = f", such as {place}{key}=[{value}]" if _is_list(hint) and _is_plain(value) else ""
                raise ValueError(f"{place}{key}={value}: must be {_describe(hint)}{example}")


def _numbers(node: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield the path and the value of every number with a fraction."""
    if isinstance(node, float):
        yield place, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _numbers(value, f"{place}.{key}" if place else str(key))


def _objects(node: Any, place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the path, with a final dot, and the arguments of every object of this package."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        if str(node.get("_target_", "")).startswith("stm."):
            yield place, node
        for key, value in node.items():
            yield from _objects(value, f"{place}{key}.")


def _hints(target: str) -> dict[str, Any]:
    """Return the type hints of a target's arguments; the one of its result may name a type not imported."""
    built: Any = get_object(target)
    function = vars(built).get("__init__") if isinstance(built, type) else built
    annotations = {
        key: hint for key, hint in getattr(function, "__annotations__", {}).items() if key != "return"
    }
    namespace = getattr(function, "__globals__", {})
    return get_type_hints(types.SimpleNamespace(__annotations__=annotations), namespace)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(value, dict) and "_target_" in value:
        return True  # an object, whose arguments are checked by themselves
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if hint is Path:
        return isinstance(value, str)
    if _is_list(hint):
        items = [argument for argument in arguments if argument is not Ellipsis]
        # a name that consists of digits is a number in YAML
        item = items[0] | int if items == [str] else Union[tuple(items)] if items else Any  # noqa: UP007
        return isinstance(value, list) and all(_fits(element, item) for element in value)
    return isinstance(value, dict) if isinstance(origin, type) and issubclass(origin, Mapping) else True


def _is_list(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return origin in _LISTS or (
        isinstance(origin, type) and origin in (Sequence, Collection) and origin is not str
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_describe, get_args(hint))))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if _is_list(hint):
        return f"a list of {_describe(get_args(hint)[0])}" if get_args(hint) else "a list"
    return "a path" if hint is Path else NAMES.get(hint, "keys with values")
