"""The configuration as the programs get it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from stm.config.schema import CONF


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@contextmanager
def composed(*overrides: str, name: str = "train", searchpath: Path | None = None) -> Iterator[DictConfig]:
    """The configuration as the program gets it, with Hydra's own at hand for the resolvers."""
    fixed = ["hydra.runtime.output_dir=run", "hydra.job.num=0"]
    if searchpath:
        fixed.append(f"hydra.searchpath=[file://{searchpath}]")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, [*fixed, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    try:
        with open_dict(config):
            config.pop("hydra")
        yield config
    finally:
        HydraConfig.instance().cfg = None


def plain(config: DictConfig) -> dict[str, Any]:
    """Everything resolved, nothing missing."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return values


def without_download(config: DictConfig) -> DictConfig:
    config.backbone.pretrained = False
    return config
