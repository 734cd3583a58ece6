"""The command line: did-you-mean messages for overrides, and user errors without a traceback."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import CompactHydraException, HydraException, InstantiationException
from omegaconf import OmegaConf

from stm.config.environment import program_name
from stm.config.resolvers import override_values
from stm.config.schema import CONF

RUN_FLAGS = {"-m", "--multirun"}
"""Flags with which the program runs; the others print something."""
FLAGS_WITH_VALUE = {
    *("-c", "--cfg", "-cn", "--config-name", "-cp", "--config-path", "-cd", "--config-dir", "-p", "--package")
}


def check_command_line(config_name: str, arguments: Sequence[str] | None = None) -> None:
    """Exit with one message where an override names an unknown group, choice or key.

    Args:
        config_name: 'train' or 'evaluate'.
        arguments: The command line; `sys.argv` by default.

    Raises:
        SystemExit: An override is wrong; the message names the closest valid ones.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        overrides = OverridesParser.create().parse_overrides(list(_overrides(arguments)))
        with initialize_config_dir(str(CONF), version_base="1.3"):
            message = _split_overrides(arguments) or _wrong_override(config_name, overrides)
            if message is None and not any(flag.startswith("-") for flag in set(arguments) - RUN_FLAGS):
                message = _missing_keys(config_name, overrides)
    except HydraException:
        return  # a syntax error, or a composition that fails for another reason: Hydra's own message is best
    if message:
        raise SystemExit(f"{program_name().removeprefix('python ')}: {message}")


def _overrides(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments that are overrides: neither flags nor values of flags."""
    previous = ""
    for argument in arguments:
        if not argument.startswith("-") and previous not in FLAGS_WITH_VALUE:
            yield argument
        previous = argument


def _split_overrides(arguments: Sequence[str]) -> str | None:
    """Return a message where -m stands between overrides, which Hydra's argument parser rejects."""
    for place, flag in enumerate(arguments):
        parts = arguments[:place], arguments[place + 1 :]
        if flag in RUN_FLAGS and all(any("=" in word for word in part) for part in parts):
            words = " ".join([*parts[0], *parts[1]])
            return f"{flag} must stand before or after all overrides: {program_name()} {flag} {words}"
    return None


def _wrong_override(config_name: str, overrides: Sequence[Override]) -> str | None:
    """Return a message for the first override of an unknown group, choice or key, or of a wrong type."""
    groups = {str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()}
    keys: list[Override] = []
    choices: list[str] = []
    for override in overrides:
        name = override.key_or_group
        if name == "hydra" or name.startswith(("hydra.", "hydra/")) or override.is_delete():
            continue
        if name not in groups:
            keys.append(override)
        elif message := _wrong_choice(override):
            return message
        else:
            choices.append(f"{name}={override_values(override, _group_files(name))[0]}")
    values = _flatten(_composed(config_name, choices))
    for override in keys:
        if message := _wrong_key(override, values, groups):
            return message
    return None


def _group_files(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _wrong_choice(override: Override) -> str | None:
    name = override.key_or_group
    available = _group_files(name)
    selected = override_values(override, available)
    listed = f"Choices of {name}: {', '.join(available)}"
    if not selected:
        return f"{override.input_line} matches no choice.\n{listed}"
    for choice in selected:
        if choice is None:
            return f"{name}=null: must be a file of the group; omit it, or remove a default with ~{name}"
        if choice not in available:
            return f"{name}={choice} does not exist.{_did_you_mean(choice, available)}\n{listed}"
    return None


def _wrong_key(override: Override, values: Mapping[str, Any], groups: set[str]) -> str | None:
    name = override.key_or_group
    if override.is_add():
        return None
    if name.startswith("final_benchmark.") and "final_benchmark" in values:  # its keys are the benchmark's
        if values["final_benchmark"] is None:
            return f"{override.input_line}: final_benchmark is null in this configuration"
        return None
    if isinstance(override.value(), Glob):
        return f"{override.input_line}: a glob must select files of a group; {name} is a key"
    if name in values:
        return _wrong_type(override, values[name])
    return (
        f"unknown key or group {name!r}.{_did_you_mean(name, values.keys() | groups)}\n"
        f"`{program_name()} --help` lists the groups, `--cfg job` shows every key; "
        f"a new key needs +{name}=..."
    )


def _wrong_type(override: Override, current: Any) -> str | None:
    """Return a message where text replaces a number or a switch; `trainer` accepts 'auto' for numbers."""
    name, value = override.key_or_group, override.value()
    expected = {bool: "true or false", int: "a number", float: "a number"}.get(type(current))
    if expected is None or name.startswith("trainer."):
        return None
    for item in value.list if isinstance(value, ChoiceSweep) else [value]:
        item = item.text if isinstance(item, QuotedString) else item
        fits = isinstance(item, bool) if isinstance(current, bool) else type(item) in (int, float)
        if isinstance(item, str | int | float) and not fits and "${" not in str(item):
            return f"{name}={item}: must be {expected}, such as {str(current).lower()}"
    return None


def _missing_keys(config_name: str, overrides: Sequence[Override]) -> str | None:
    """Return a message where a key without a default was not given."""
    given = {override.key_or_group for override in overrides}
    chosen = [o for o in overrides if (CONF / o.key_or_group).is_dir() and not o.is_sweep_override()]
    values = _flatten(_composed(config_name, [str(override.input_line) for override in chosen]))
    missing = {name for name, value in values.items() if value == "???"} - given
    return f"{' and '.join(sorted(missing))} must be given, as {min(missing)}=..." if missing else None


def _composed(config_name: str, overrides: list[str]) -> dict[str, Any]:
    config = OmegaConf.to_container(compose(config_name, overrides=overrides))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every key as the command line writes it, with its value; mappings come before their own keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat[f"{prefix}{key}"] = value
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
    return flat


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    known = sorted(key for key in known if not key.endswith("_"))
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    leaf = name.rsplit(".", 1)[-1]
    matches += [key for key in known if key.rsplit(".", 1)[-1] == leaf and key not in matches][:3]
    return f" Did you mean {' or '.join(matches)}?" if matches else ""


class UserError(CompactHydraException):
    """A user's mistake, which Hydra prints without a traceback."""


@contextmanager
def user_errors_without_traceback(program: str) -> Iterator[None]:
    """Raise a user's mistake as an error that has no traceback; other errors keep theirs.

    `JobRecord` records it; in a sweep the other jobs still run. HYDRA_FULL_ERROR=1 keeps every traceback.
    """
    try:
        yield
    except Exception as error:
        message = user_error_message(error)
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise UserError(f"{program}: {message}") from error


def user_error_message(error: BaseException) -> str | None:
    """Return the message of a user's mistake, a missing file or a rejected value; None for other errors."""
    if isinstance(error, InstantiationException):
        key = re.search(r"^full_key: (.+)$", str(error), re.MULTILINE)
        while isinstance(error, InstantiationException) and error.__cause__ is not None:
            error = error.__cause__
        is_clear = isinstance(error, ValueError | OSError | InstantiationException)
        kind = "" if is_clear else f"{type(error).__name__}: "
        return f"{key[1] if key else 'configuration'}: {kind}{error}"
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError):
        return str(error)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    if isinstance(error, ValueError | MemoryError) and modules[-1].startswith("stm."):
        return str(error)
    # compared by name, as importing Lightning takes seconds
    if type(error).__name__ == "MisconfigurationException":
        return str(error)
    return None
