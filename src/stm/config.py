"""The schema of the two entry points' configuration, and help for a mistyped command line.

The groups under `conf/` hold the arguments of the objects they build; there, the objects' signatures are the
schema.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf

CONF = Path(__file__).parents[2] / "conf"


@dataclass
class TrainConfig:
    """What `train.py` needs.

    Attributes:
        name: the run's folder below `output_root`; give one to be able to resume.
        output_root: where runs are written.
        seed: of the clips and of the network's first weights.
        steps: optimizer steps of the whole run.
        batch_size: clips of a batch over all devices together.
        validate_every: optimizer steps between two validations on whole videos.
        save_every: optimizer steps between two checkpoints `last.ckpt`.
        monitor: the metric that picks `best.ckpt`.
        init: checkpoint whose weights the run begins with, such as the pre-training's.
        resume: 'auto' goes on with the run folder's last checkpoint, a path with that one.
        threads: CPU threads of torch; null leaves torch's choice.
        test: benchmark keys that differ for the evaluation at the end; null leaves that evaluation out.
    """

    name: str = MISSING
    output_root: str = "runs"
    seed: int = 1
    steps: int = MISSING
    batch_size: int = 4
    validate_every: int = 1000
    save_every: int = 500
    monitor: str = "val/J&F"
    init: str | None = None
    resume: str | None = None
    threads: int | None = None
    test: dict[str, Any] | None = field(default_factory=dict)
    backbone: Any = MISSING
    network: Any = MISSING
    memory: Any = MISSING
    loss: Any = MISSING
    data: Any = MISSING
    benchmark: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    trainer: Any = MISSING
    logger: Any = None
    callbacks: Any = None


@dataclass
class EvaluateConfig:
    """What `evaluate.py` needs.

    Attributes:
        checkpoint: of ours, or the authors' published one.
        name: the evaluation's folder below `output_root`; the same name goes on where it was interrupted.
        output_root: where evaluations are written.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
        threads: CPU threads of torch; null leaves torch's choice.
        overlays: write a picture of each sequence.
        video: write an mp4 of each sequence.
        submission: 'davis' or 'youtube' to zip the masks as that server wants them.
    """

    checkpoint: str = MISSING
    name: str = MISSING
    output_root: str = "runs/evaluate"
    device: str = "auto"
    threads: int | None = None
    overlays: bool = True
    video: bool = False
    submission: str | None = None
    memory: Any = MISSING
    benchmark: Any = MISSING


ConfigStore.instance().store(name="train_schema", node=TrainConfig)
ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)


def run_of(checkpoint: str) -> str:
    """A checkpoint's short name: `runs/main/checkpoints/best.ckpt` -> `main-best`, else the file's stem."""
    path = Path(checkpoint)
    return f"{path.parents[1].name}-{path.stem}" if path.parent.name == "checkpoints" else path.stem


OmegaConf.register_new_resolver("run_of", run_of, replace=True)


def check_command_line(config_name: str, arguments: Sequence[str] | None = None) -> None:
    """Stop with one clear message where an override names an unknown group, choice or key.

    Args:
        config_name: 'train' or 'evaluate'.
        arguments: the command line; `sys.argv` by default.

    Raises:
        SystemExit: with the message, and the nearest names that exist.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        overrides = OverridesParser.create().parse_overrides(list(_overrides(arguments)))
        with initialize_config_dir(str(CONF), version_base="1.3"):
            mistake = _mistake(config_name, overrides)
    except HydraException:
        return  # a broken grammar, or a composition that fails for another reason: Hydra says it best
    if mistake:
        raise SystemExit(f"{config_name}.py: {mistake}")


def _overrides(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments that are overrides: neither flags nor the values of flags that take one."""
    skip = False
    for argument in arguments:
        if not argument.startswith("-") and not skip:
            yield argument
        skip = argument in (
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
        for choice in _values(override):
            if choice is not None and choice not in available:
                return f"{name}={choice} does not exist.{_did_you_mean(str(choice), available)}\n" + _listed(
                    f"Choices of {name}", available
                )
        choices.append(f"{name}={next(iter(_values(override)))}")
    config = compose(config_name, overrides=choices)
    known = set(_flat_keys(config))
    for override in keys:
        name = override.key_or_group
        if override.is_add() or name in known or any(key.startswith(f"{name}.") for key in known):
            continue
        if _open(config, name):
            continue
        return (
            f"there is no key or group {name!r}.{_did_you_mean(name, known | groups)}\n"
            f"`python {config_name}.py --help` lists the groups, `--cfg job` shows every key; "
            f"a new key needs +{name}=..."
        )
    return None


def _values(override: Override) -> list[str | None]:
    value = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    return [None if value is None else str(value) for value in values]


def _flat_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in config:
        name = f"{prefix}{key!s}"
        yield name
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            yield from _flat_keys(node, f"{name}.")


def _open(config: DictConfig, name: str) -> bool:
    """Is the key below a free-form mapping, such as `test.split`?"""
    return name.split(".")[0] == "test" and "test" in config


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    leaf = name.rsplit(".", 1)[-1]
    near += [k for k in known if k.rsplit(".", 1)[-1] == leaf and k not in near][:3]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _listed(title: str, names: Sequence[str]) -> str:
    return f"{title}: {', '.join(names)}"
