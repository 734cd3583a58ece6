"""How the job in a folder ended, and with which configuration: a result counts only for exactly its own."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from stm.config.resolvers import is_neutral
from stm.config.schema import JOB
from stm.config.user_errors import UserError
from stm.evaluation.scores import Scores

log = logging.getLogger(__name__)

CONFIG = Path(".hydra") / "config.yaml"
"""A job's configuration in its folder, as Hydra writes it."""


class Score(float):
    """A job's score, which also has the heading of its measure, such as `J&F`."""

    def __new__(cls, value: float, measure: str) -> Score:
        """Build a score from its value, 0..1, and measure."""
        score = super().__new__(cls, value)
        score.measure = measure
        return score

    measure: str

    def __reduce__(self) -> tuple[type[Score], tuple[float, str]]:
        """Return what a launcher's process sends back."""
        return Score, (float(self), self.measure)


def headline_score(scores: Scores) -> Score | None:
    """Return the headline measure of an evaluation; None without ground truth."""
    value = scores.headline
    return None if value is None else Score(value, scores.protocol.headline_heading)


def read_record(folder: Path) -> dict[str, Any]:
    """Return how the job of a folder ended; its status is 'unfinished' where it has not, or that is lost."""
    try:
        return json.loads((folder / JOB).read_text())
    except FileNotFoundError:
        return {"status": "unfinished", "error": ""}
    except ValueError:
        log.warning("%s is broken: the job counts as unfinished", folder / JOB)
        return {"status": "unfinished", "error": ""}


def is_finished(folder: Path, config: DictConfig | None) -> bool:
    """Return whether a job with the same configuration has completed in this folder."""
    record = read_record(folder)
    return record["status"] == "completed" and record.get("configuration") == configuration_fingerprint(
        config
    )


def finished_score(folder: Path) -> Score | None:
    """Return the score of a finished job."""
    record = read_record(folder)
    return None if record["score"] is None else Score(record["score"], record.get("measure", "score"))


def configuration_fingerprint(config: DictConfig | ListConfig | None) -> str:
    """Return a hash of a configuration, without the keys that cannot change a score.

    Interpolations are not resolved, as their targets are hashed anyway.
    """
    values = {} if config is None else OmegaConf.to_container(config)
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items() if not is_neutral(str(key))}
    return hashlib.sha256(OmegaConf.to_yaml(plain, sort_keys=True).encode()).hexdigest()[:16]


def refuse_other_settings(folder: Path, config: DictConfig) -> None:
    """Refuse to start a job in the folder of one that finished with other settings.

    Raises:
        UserError: The folder has such a job; the message names the settings that differ.
    """
    if read_record(folder)["status"] == "completed" and not is_finished(folder, config):
        raise other_settings_error(folder, changed_settings(folder, config))


def other_settings_error(folder: Path, changes: Sequence[str]) -> UserError:
    """Return the error for a folder whose job has finished with other settings, given as `key=value`."""
    differing = f" ({', '.join(changes[:4])}{', ...' if len(changes) > 4 else ''})" if changes else ""
    return UserError(
        f"{folder}: a job with other settings{differing} has finished here; choose another folder with "
        f"name=NEW_NAME, or delete {folder.parent}"
    )


def changed_settings(folder: Path, config: DictConfig, searched: Sequence[str] = ()) -> list[str]:
    """Return `key=value` of the settings of a folder's job that differ from a configuration.

    Args:
        folder: Folder of the job.
        config: The configuration to compare with.
        searched: Keys and groups that may differ.
    """
    try:
        previous = OmegaConf.load(folder / CONFIG)
    except FileNotFoundError:
        return []
    before, now = _flatten(OmegaConf.to_container(previous)), _flatten(OmegaConf.to_container(config))
    return [
        f"{key}={before.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and not is_neutral(key)
        and not any(key == name or key.startswith(f"{name}.") for name in searched)
    ]


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix.removesuffix("."): values}
    return {k: v for key, value in values.items() for k, v in _flatten(value, f"{prefix}{key}.").items()}
