"""The command line: help for what is mistyped, and a run's mistakes in one message."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString, Sweep
from hydra.errors import CompactHydraException, HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, ValueNode

from stm.config.resolvers import folder_name, run_of
from stm.config.schema import CONF

RUNNING = {"-m", "--multirun"}
"""Flags under which the program runs; the others show something."""
UNNAMED = {"name", "sweep", "experiment", "data.root", "benchmark.root", "logger", "trainer", "launcher"}
"""Keys that don't name a sweep's folders unless they are swept."""


def check_command_line(config_name: str, arguments: Sequence[str] | None = None) -> None:
    """Stop with one clear message where an override names an unknown group, choice or key.

    Args:
        config_name: 'train' or 'evaluate'.
        arguments: the command line; `sys.argv` by default.

    Raises:
        SystemExit: with the message, and the nearest names that exist.
    """
    own = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        overrides = OverridesParser.create().parse_overrides(list(_overrides(arguments)))
        with initialize_config_dir(str(CONF), version_base="1.3"):
            mistake = _mistake(config_name, overrides)
            if mistake is None and not any(flag.startswith("-") for flag in set(arguments) - RUNNING):
                mistake = _missing(config_name, overrides)
    except HydraException:
        return  # a broken grammar, or a composition that fails for another reason: Hydra says it best
    if mistake:
        raise SystemExit(f"{config_name}.py: {mistake}")
    if own:  # Hydra knows no free-form mapping: a key that is not yet in `final_benchmark` needs ++ there
        words = [f"++{word}" if word.startswith("final_benchmark.") else word for word in arguments]
        sweep = next((str(o.value()) for o in overrides if o.key_or_group == "sweep"), None)
        if RUNNING & set(words) or sweep:  # argparse takes overrides from one place only: behind the flag
            at = next((place for place, word in enumerate(words) if "=" in word), len(words))
            words[at:at] = _folders_of_a_sweep(config_name, overrides, sweep)
        if RUNNING & set(words):
            words = ["-m", *(word for word in words if word not in RUNNING)]
        sys.argv[1:] = words


def _folders_of_a_sweep(config_name: str, overrides: Sequence[Override], sweep: str | None) -> list[str]:
    """Hydra's own overrides for the names of a sweep's folder and of its jobs', where nothing else is said.

    What all jobs share is left out of their names. A sweep of evaluations is named by its checkpoints.
    """
    given = {override.key_or_group: override for override in overrides}
    swept = {key for key, override in given.items() if override.is_sweep_override()}
    alike = {key for key, override in given.items() if not override.is_hydra_override()}
    if sweep:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(config_name, overrides=[f"sweep={sweep}"], return_hydra_config=True)
        swept |= set(config.hydra.sweeper.params or {}) - alike
    exclude = ",".join(sorted((alike | UNNAMED) - swept))
    words = [f"hydra.job.config.override_dirname.exclude_keys=[{exclude}]"]
    if (
        sweep
        and config_name == "evaluate"
        and not {"name", "hydra.sweep.dir", "hydra.run.dir"} & given.keys()
    ):
        runs = "+".join(run_of(path or "") for path in _values(given["checkpoint"]))
        words.append(f"hydra.sweep.dir='${{output_root}}/{folder_name(f'{sweep}_{runs}')}'")
    return words


def _overrides(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments that are overrides: neither flags nor the values of flags that take one."""
    skip = False
    for argument in arguments:
        if not argument.startswith("-") and not skip:
            yield argument
        skip = argument in (
            "-c",
            "--cfg",
            "-cn",
            "--config-name",
            "-cp",
            "--config-path",
            "-cd",
            "--config-dir",
            "--package",
            "-p",
        )


def _mistake(config_name: str, overrides: Sequence[Override]) -> str | None:
    groups = {str(p.relative_to(CONF)) for p in CONF.rglob("*") if p.is_dir()}
    keys: list[Override] = []
    choices: list[str] = []
    for override in overrides:
        name = override.key_or_group
        if name == "hydra" or name.startswith(("hydra.", "hydra/")) or override.is_delete():
            continue
        if name not in groups:
            keys.append(override)
            continue
        available = sorted(p.stem for p in (CONF / name).glob("*.yaml"))
        chosen = _values(override, available)
        if not chosen:
            return f"{override.input_line} matches no choice.\n" + _listed(f"Choices of {name}", available)
        for choice in chosen:
            if choice is None:
                return f"{name}=null is no choice: leave it out; a choice made by default goes by ~{name}"
            if choice not in available:
                return f"{name}={choice} does not exist.{_did_you_mean(str(choice), available)}\n" + _listed(
                    f"Choices of {name}", available
                )
        choices.append(f"{name}={chosen[0]}")
    config = compose(config_name, overrides=choices)
    known = dict(_nodes(config))
    for override in keys:
        name = override.key_or_group
        if override.is_add() or _open(config, name):
            continue
        if isinstance(override.value(), Glob):
            return f"{override.input_line}: a glob takes from the files of a group, {name} is none"
        if name in known:
            if wrong := _wrong_type(override, known[name]):
                return wrong
            continue
        return (
            f"there is no key or group {name!r}.{_did_you_mean(name, known.keys() | groups)}\n"
            f"`python {config_name}.py --help` lists the groups, `--cfg job` shows every key; "
            f"a new key needs +{name}=..."
        )
    return None


def _values(override: Override, choices: Sequence[str] = ()) -> list[str | None]:
    """All that the key is to be, one after the other; a glob takes from `choices`."""
    value = override.value()
    if isinstance(value, Glob):
        return list(value.filter(list(choices)))
    if isinstance(value, Sweep) and not isinstance(value, ChoiceSweep):
        return [str(override.input_line).partition("=")[2]]
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    values = [value.text if isinstance(value, QuotedString) else value for value in values]
    return [None if value is None else str(value) for value in values]


def _wrong_type(override: Override, node: Any) -> str | None:
    """Text where the configuration has a number or a switch? (Lightning takes 'auto' for some.)"""
    name, value = override.key_or_group, override.value()
    now = node._value() if isinstance(node, ValueNode) and not node._is_interpolation() else None
    told = {bool: "true or false", int: "a number", float: "a number"}.get(type(now))
    if told is None or name.startswith("trainer."):
        return None
    for given in value.list if isinstance(value, ChoiceSweep) else [value]:
        given = given.text if isinstance(given, QuotedString) else given
        fits = isinstance(given, bool) if isinstance(now, bool) else type(given) in (int, float)
        if isinstance(given, str | int | float) and not fits and "${" not in str(given):
            return f"{name}={given}: must be {told}, such as {str(now).lower()}"
    return None


def _missing(config_name: str, overrides: Sequence[Override]) -> str | None:
    """A key that has no default and was not given?"""
    given = {override.key_or_group for override in overrides}
    chosen = [o for o in overrides if (CONF / o.key_or_group).is_dir() and not o.is_sweep_override()]
    nodes = _nodes(compose(config_name, overrides=[str(o.input_line) for o in chosen]))
    missing = {name for name, node in nodes if node is not None and node._is_missing()} - given
    return f"{' and '.join(sorted(missing))} must be given, as {min(missing)}=..." if missing else None


def _nodes(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key as the command line writes it, with its node."""
    for key in config:
        name, node = f"{prefix}{key!s}", config._get_node(key)
        yield name, node
        if isinstance(node, DictConfig) and not (
            node._is_none() or node._is_interpolation() or node._is_missing()
        ):
            yield from _nodes(node, f"{name}.")


def _open(config: DictConfig, name: str) -> bool:
    """Is the key below a free-form mapping, such as `final_benchmark.split`?"""
    return name.split(".")[0] == "final_benchmark" and "final_benchmark" in config


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    known = sorted(key for key in known if not key.endswith("_"))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    leaf = name.rsplit(".", 1)[-1]
    near += [k for k in known if k.rsplit(".", 1)[-1] == leaf and k not in near][:3]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _listed(title: str, names: Sequence[str]) -> str:
    return f"{title}: {', '.join(names)}"


class UserError(CompactHydraException):
    """A user's mistake, told by its message alone."""


@contextmanager
def user_errors_without_traceback(program: str) -> Iterator[None]:
    """End a run that fails by its user's mistake with the message alone; other errors keep their traceback.

    In a sweep the other jobs still run. HYDRA_FULL_ERROR=1 shows every traceback.
    """
    try:
        yield
    except Exception as error:
        message = user_error_message(error)
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        message = f"{program}: {message}"
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise UserError(message) from error
        raise SystemExit(f"{message}\n(HYDRA_FULL_ERROR=1 shows where.)") from error


def user_error_message(error: BaseException) -> str | None:
    """The message, if it is one: a missing file, or a value that this package refuses."""
    if isinstance(error, InstantiationException):
        key = re.search(r"^full_key: (.+)$", str(error), re.MULTILINE)
        while isinstance(error, InstantiationException) and error.__cause__ is not None:
            error = error.__cause__
        told = isinstance(error, ValueError | OSError | InstantiationException)
        return f"{key[1] if key else 'configuration'}: {'' if told else type(error).__name__ + ': '}{error}"
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError):
        return str(error)
    ours = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)][-1:]
    if isinstance(error, ValueError | MemoryError) and ours[0].startswith("stm."):
        return str(error)
    # known by name, as importing takes long: Lightning's, and that of stm.evaluation.shards
    if type(error).__name__ in ("MisconfigurationException", "DeadRank"):
        return str(error)
    return None
