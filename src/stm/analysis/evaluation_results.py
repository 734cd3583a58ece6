"""A finished evaluation opened again from its folder: its videos, their scores frame by frame, its masks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from stm.evaluation.scores import SequenceScores
from stm.masks import read_mask
from stm.video import Video

if TYPE_CHECKING:
    from stm.evaluation.evaluate import Benchmark
    from stm.memory import MemoryPolicy
    from stm.network import STM


@dataclass(frozen=True)
class EvaluationResults:
    """An evaluation's folder, read when asked.

    Args:
        folder: holds `scores.json`, `sequences/`, `masks/`.
    """

    folder: Path

    @cached_property
    def values(self) -> dict[str, Any]:
        """`scores.json`."""
        return json.loads((self.folder / "scores.json").read_text())

    @cached_property
    def sequences(self) -> dict[str, SequenceScores]:
        """Name -> scores of each object on each frame."""
        found = {}
        for path in sorted((self.folder / "sequences").glob("*.json")):
            values = json.loads(path.read_text())
            values.pop("settings")
            found[values["name"]] = SequenceScores.from_dict(values)
        return found

    @cached_property
    def j(self) -> dict[tuple[str, int, int], float]:
        """(sequence, object, frame) -> J."""
        return {
            (name, row.object, t): j
            for name, sequence in self.sequences.items()
            for row in sequence.objects
            for t, j in zip(row.frames, row.j, strict=True)
        }

    def mean_j(self, name: str) -> dict[int, float]:
        """Frame -> J of a sequence, the mean over its objects."""
        values: dict[int, list[float]] = {}
        for row in self.sequences[name].objects:
            for t, j in zip(row.frames, row.j, strict=True):
                values.setdefault(t, []).append(j)
        return {t: float(np.mean(values[t])) for t in sorted(values)}

    def ranked(self) -> list[str]:
        """Names of the scored sequences, the worst first."""
        means = {name: self.mean_j(name) for name in self.sequences}
        return sorted((n for n in means if means[n]), key=lambda n: float(np.mean(list(means[n].values()))))

    def shown(self) -> dict[str, str]:
        """The worst, the middle and the best sequence that are there; without truth, the first three."""
        chosen = {f"number {n}": name for n, name in enumerate(list(self.sequences)[:3], start=1)}
        if ranked := self.ranked():
            chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
        return {which: name for which, name in chosen.items() if name in self.videos}

    def mask(self, video: Video, t: int) -> np.ndarray:
        """The predicted labels of a frame, uint8 (H, W)."""
        return read_mask(self.folder / "masks" / video.name / f"{video.frame_names[t]}.png")

    @cached_property
    def job(self) -> Path | None:
        """The folder of the job: of the evaluation itself, or of the training that ended with it."""
        here = (self.folder, self.folder.parent)
        return next((folder for folder in here if (folder / ".hydra" / "config.yaml").exists()), None)

    @property
    def configuration(self) -> DictConfig | None:
        """What the job was made of; None where it is not written."""
        return None if self.job is None else _loaded(self.job / ".hydra" / "config.yaml")

    @cached_property
    def benchmark(self) -> Benchmark | None:
        """Its videos again; None where the configuration or the data are no longer there."""
        from stm.evaluation import benchmarks  # which imports torch: scores alone need none

        config = self.configuration
        if config is None or self.job is None:
            return None
        if self.job != self.folder:  # a training's end: its `test`, or one of its `also`
            further = OmegaConf.select(config, f"extra_benchmarks.{self.folder.name.rsplit('_', 1)[0]}")
            changes = (config.get("test") or {}) if further is None else further
            config.benchmark = OmegaConf.merge(config.benchmark if further is None else {}, changes)
        try:
            values: dict[str, Any] = OmegaConf.to_container(config.benchmark, resolve=True)  # type: ignore[assignment]
            if "root" in values:
                values["root"] = self._began_in / values["root"]
            return benchmarks.rebuilt(values)
        except (OSError, ValueError):
            return None

    @cached_property
    def policy(self) -> MemoryPolicy:
        """Which frames were remembered."""
        from stm.memory import MemoryPolicy

        return MemoryPolicy(**self.values["settings"]["policy"])

    @cached_property
    def network(self) -> STM:
        """The network that was evaluated, on a GPU where there is one.

        Raises:
            FileNotFoundError: its checkpoint is no longer there.
            ValueError: there is another one in its place.
        """
        import torch

        from stm.network import fingerprint, for_inference, load

        path, wanted = self._checkpoint, self.values["settings"]["checkpoint"]
        if path is None or not path.exists():
            raise FileNotFoundError(f"{self.folder}: its checkpoint {path or wanted} is no longer there")
        if fingerprint(path) != wanted:
            raise ValueError(f"{self.folder}: {wanted} was evaluated, {path} is {fingerprint(path)} now")
        return for_inference(load(path).to("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def _checkpoint(self) -> Path | None:
        """Where the evaluated weights were; a training's end evaluates its best, or its last."""
        config = self.configuration
        if config is None or self.job is None:
            return None
        if config.get("checkpoint"):
            return self._began_in / config.checkpoint
        name = self.values["settings"]["checkpoint"].split(" ")[0]
        return self.job / "checkpoints" / name

    @property
    def _began_in(self) -> Path:
        """The working folder of the job, which its relative paths begin at."""
        path = (self.job or self.folder) / ".hydra" / "hydra.yaml"
        return Path(_loaded(path).hydra.runtime.cwd) if path.exists() else Path()

    @cached_property
    def videos(self) -> dict[str, Video]:
        """Name -> video, those that were scored and are there."""
        videos: Sequence[Video] = self.benchmark.videos if self.benchmark else ()
        return {video.name: video for video in videos if video.name in self.sequences}

    def fingerprint(self) -> str | None:
        """Of the data: each video's name, frames' names, and pixels and masks where an object enters."""
        if not self.videos:
            return None
        digest = hashlib.sha256()
        for name in sorted(self.videos):
            video = self.videos[name]
            digest.update("\n".join([name, *video.frame_names, ""]).encode())
            for t in sorted(set(video.first_frames.values())):
                given = video.prompt_mask(t)
                assert given is not None
                digest.update(video.frame(t).tobytes() + given.tobytes())
        return f"sha256:{digest.hexdigest()[:16]}"


def _loaded(path: Path) -> DictConfig:
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config
