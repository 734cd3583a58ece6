"""The command line: messages for wrong overrides, with the closest valid ones."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString, Sweep
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stm.config.environment import program_name
from stm.config.resolvers import override_values, quote_override
from stm.config.schema import CONF

RUN_FLAGS = {"-m", "--multirun"}
"""Flags with which the program runs; the others print something."""
PRINT_FLAGS = {"-c", "--cfg"}
"""Flags that print the configuration."""
FLAGS_WITH_VALUE = {
    *("-c", "--cfg", "-cn", "--config-name", "-cp", "--config-path", "-cd", "--config-dir", "-p", "--package")
}

OPTIONAL = ("logger", "callbacks", "launcher", "experiment", "sweep", "debug")
"""Groups that `~group` may remove."""
SEVERAL = ("logger", "callbacks")
"""Groups of several objects, of which `group=[one,other]` takes several files."""


def check_command_line(config_name: str, arguments: Sequence[str] | None = None) -> None:
    """Exit with one message where an override names an unknown group, choice or key.

    Args:
        config_name: 'train' or 'evaluate'.
        arguments: The command line; `sys.argv` by default.

    Raises:
        SystemExit: An override is wrong; the message names the closest valid ones.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    message = _unparsable(arguments)
    if message is None:
        overrides = OverridesParser.create().parse_overrides(list(_overrides(arguments)))
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                message = _wrong_flags(arguments, overrides) or _wrong_override(config_name, overrides)
                message = message or _composition_error(config_name, overrides)
                if message is None and not any(flag.startswith("-") for flag in set(arguments) - RUN_FLAGS):
                    message = _missing_keys(config_name, overrides)
                    message = _unused_launcher(config_name, arguments, overrides) or message
        except HydraException:
            return  # a composition that fails without these overrides: Hydra's own message is best
    if message:
        raise SystemExit(f"{program_name().removeprefix('python ')}: {message}")


def _overrides(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments that are overrides: neither flags nor values of flags."""
    previous = ""
    for argument in arguments:
        if not argument.startswith("-") and previous not in FLAGS_WITH_VALUE:
            yield argument
        previous = argument


def _unparsable(arguments: Sequence[str]) -> str | None:
    """Return a message for the first override that Hydra's grammar rejects, with quotes as a hint."""
    parser = OverridesParser.create()
    for argument in _overrides(arguments):
        try:
            parser.parse_overrides([argument])
        except OverrideParseException:
            key, equals, value = argument.partition("=")
            if not equals:
                return f"{argument}: must be KEY=VALUE or GROUP=CHOICE (`{program_name()} --help`)"
            return (
                f"{argument}: the value has characters that Hydra reads as syntax; put it in quotes:\n"
                + shlex.quote(f"{key}={quote_override(value)}")
            )
    return None


def _wrong_flags(arguments: Sequence[str], overrides: Sequence[Override]) -> str | None:
    """Return a message where -m is between overrides, or several runs beside --cfg, which Hydra rejects."""
    is_sweep = RUN_FLAGS & set(arguments) or any(override.is_sweep_override() for override in overrides)
    if is_sweep and PRINT_FLAGS & {word.partition("=")[0] for word in arguments}:
        return "--cfg prints the configuration of one run: omit -m, and give each key one value"
    for place, flag in enumerate(arguments):
        parts = arguments[:place], arguments[place + 1 :]
        if flag in RUN_FLAGS and all(any("=" in word for word in part) for part in parts):
            words = " ".join([*parts[0], *parts[1]])
            return f"{flag} must come before or after all overrides: {program_name()} {flag} {words}"
    return None


def _wrong_override(config_name: str, overrides: Sequence[Override]) -> str | None:
    """Return a message for the first override of an unknown group, choice or key, or of a wrong type."""
    groups = {str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()}
    keys: list[Override] = []
    choices: list[str] = []
    for override in overrides:
        name = override.key_or_group
        if name == "hydra" or name.startswith(("hydra.", "hydra/")):
            continue
        if override.is_delete():
            if name in OPTIONAL or "." in name:
                continue
            return f"{override.input_line}: {name} must have a value; {name}=... selects another"
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
    value = override.value()
    if name in SEVERAL and isinstance(value, list):
        selected: list[str | None] = [str(choice) for choice in value]
    else:
        selected = override_values(override, available)
    listed = f"Choices of {name}: {', '.join(available)}"
    if not selected:
        return f"{override.input_line} matches no choice.\n{listed}"
    for choice in selected:
        if choice is None:
            hint = f", or remove a default with ~{name}" if name in OPTIONAL else ""
            return f"{name}=null: must be a file of the group; omit it{hint}\n{listed}"
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
    """Return a message for a value of another kind than the current one: a number, a switch, a list or keys.

    `trainer` accepts 'auto' for numbers, and lists of devices; `data.crop` a number or [height, width].
    """
    name, value = override.key_or_group, override.value()
    kind, expected, example = _kind_of(current)
    if kind is None or name.startswith("trainer.") or name == "data.crop":
        return None
    for item in value.list if isinstance(value, ChoiceSweep) else [value]:
        item = item.text if isinstance(item, QuotedString) else item
        is_other = item is None or isinstance(item, Sweep) or "${" in str(item)  # checked after composition
        if not is_other and _kind_of(item)[0] is not kind:
            example = example or (f"[{item}]" if kind is list else str(current).lower())
            text = str(override.input_line).partition("=")[2] if isinstance(item, list | dict) else item
            return f"{name}={text}: must be {expected}, such as {example}"
    return None


def _kind_of(value: Any) -> tuple[type | None, str, str]:
    """Return a value's kind, which other values of its key must have, in words, and an example."""
    if isinstance(value, bool):
        return bool, "true or false", ""
    if isinstance(value, int | float):
        return float, "a number", ""
    if isinstance(value, list):
        return list, "a list", ""
    return (dict, "keys with values", "{key: value}") if isinstance(value, dict) else (None, "text", "")


def _composition_error(config_name: str, overrides: Sequence[Override]) -> str | None:
    """Return a message where the configuration does not compose, such as for text where a number belongs."""
    words = [word for override in overrides if (word := _first_value(override))]
    try:
        compose(config_name, overrides=words)
    except (HydraException, OmegaConfBaseException, AssertionError) as error:
        causes = [str(error).splitlines()[0] if str(error) else type(error).__name__]
        if error.__cause__ is not None:
            causes.append(
                str(error.__cause__).splitlines()[0].replace("is not Optional", "must have a value")
            )
        return (
            ": ".join(causes).removeprefix("Error merging override ").removeprefix("Error parsing override ")
        )
    return None


def _first_value(override: Override) -> str | None:
    """Return an override with the first of its values; None where that is not known yet."""
    line = str(override.input_line)
    if not override.is_sweep_override():
        return line
    if isinstance(override.value(), Glob):
        choices = override_values(override, _group_files(override.key_or_group))
        return f"{line.partition('=')[0]}={choices[0]}"
    if not override.is_discrete_sweep():
        return None
    return f"{line.partition('=')[0]}={next(iter(override.sweep_string_iterator()))}"


def _unused_launcher(config_name: str, arguments: Sequence[str], overrides: Sequence[Override]) -> str | None:
    """Return a message where a launcher is selected for a single run, which Hydra starts in this process."""
    launcher = next((o for o in overrides if o.key_or_group == "launcher" and not o.is_delete()), None)
    if launcher is None or RUN_FLAGS & set(arguments):
        return None
    words = [word for override in overrides if (word := _first_value(override))]
    if compose(config_name, words, return_hydra_config=True).hydra.mode is not None:
        return None  # a sweep; or RUN, as in the command that repeats one of its jobs
    return f"{launcher.input_line}: a launcher needs -m or sweep=NAME; without them, the run starts here"


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
