"""Results of a finished evaluation, read from its folder: scores, masks, videos and network."""

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
from stm.masks import read_labels
from stm.video import Video

if TYPE_CHECKING:
    from stm.evaluation.evaluate import Benchmark
    from stm.memory import MemoryPolicy
    from stm.network import STM


@dataclass(frozen=True)
class EvaluationResults:
    """Results of an evaluation, read from its folder on first use.

    Args:
        folder: Folder with `scores.json`, `sequences/` and `masks/`.
    """

    folder: Path

    @cached_property
    def values(self) -> dict[str, Any]:
        """Contents of `scores.json`."""
        return json.loads((self.folder / "scores.json").read_text())

    @cached_property
    def sequences(self) -> dict[str, SequenceScores]:
        """Name -> scores of each object in each frame; files of earlier evaluations are ignored.

        Raises:
            ValueError: The evaluation is unfinished, or another version of the package wrote it.
        """
        sequences: dict[str, SequenceScores] = {}
        if "masks" in self.values["settings"]:  # of another program, whose scores are in `scores.json` alone
            return sequences
        paths = [self.folder / "sequences" / f"{name}.json" for name in sorted(self.values.get("videos", ()))]
        if not paths or not all(path.is_file() for path in paths):
            raise ValueError(f"{self.folder}: the evaluation is unfinished; its command completes it")
        for path in paths:
            values = json.loads(path.read_text())
            for key in ("settings", "data"):  # what the scores were computed from, see `ResultStore`
                values.pop(key, None)
            sequences[values["name"]] = SequenceScores.from_dict(values)
        return sequences

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
        """Return frame -> J of a sequence, averaged over its objects."""
        values: dict[int, list[float]] = {}
        for row in self.sequences[name].objects:
            for t, j in zip(row.frames, row.j, strict=True):
                values.setdefault(t, []).append(j)
        return {t: float(np.mean(values[t])) for t in sorted(values)}

    def ranked(self) -> list[str]:
        """Return the names of the scored sequences in order of increasing mean J."""
        means = {name: self.mean_j(name) for name in self.sequences}
        return sorted((n for n in means if means[n]), key=lambda n: float(np.mean(list(means[n].values()))))

    def examples(self) -> dict[str, str]:
        """Return the worst, median and best sequence, or the first three without scores, if they exist.

        Each sequence is listed once: of two, there is no median, and of one, no best either.
        """
        chosen = {f"number {n}": name for n, name in enumerate(list(self.sequences)[:3], start=1)}
        ranked = self.ranked()
        if len(ranked) > 2:
            chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
        elif ranked:
            chosen = dict(zip(("worst", "best"), ranked, strict=False))
        return {rank: name for rank, name in chosen.items() if name in self.videos}

    def mask(self, video: Video, t: int) -> np.ndarray:
        """Read the predicted labels of a frame, uint8 (H, W)."""
        return read_labels(self.folder / "masks" / video.name, video, t)

    @cached_property
    def job(self) -> Path | None:
        """Folder of the job: of the evaluation itself, or of the training that ended with it."""
        candidates = (self.folder, self.folder.parent)
        return next((folder for folder in candidates if (folder / ".hydra" / "config.yaml").exists()), None)

    @property
    def configuration(self) -> DictConfig | None:
        """Configuration of the job; None if it was not saved."""
        return None if self.job is None else _load_config(self.job / ".hydra" / "config.yaml")

    @cached_property
    def benchmark(self) -> Benchmark | None:
        """The benchmark; None if its configuration or data no longer exist."""
        from stm.evaluation import benchmarks  # imports torch, which reading the scores does not need

        config = self.configuration
        if config is None or self.job is None:
            return None
        if self.job != self.folder:  # one of the evaluations at the end of a training
            name = self.folder.name.rsplit("_", 1)[0].partition("@")[0]
            extra = OmegaConf.select(config, f"extra_benchmarks.{name}")
            if extra is None:
                config.benchmark = OmegaConf.merge(config.benchmark, config.get("final_benchmark") or {})
            else:
                config.benchmark = OmegaConf.merge({}, extra)
        try:
            values: dict[str, Any] = OmegaConf.to_container(config.benchmark, resolve=True)  # type: ignore[assignment]
            for key in {"root", "truth", "unseen_videos"} & values.keys():
                if values[key] is not None:
                    values[key] = self._working_folder / values[key]
            return benchmarks.benchmark_from_config(values)
        except (OSError, ValueError):
            return None

    @cached_property
    def policy(self) -> MemoryPolicy:
        """Memory policy of the evaluation."""
        from stm.memory import MemoryPolicy

        return MemoryPolicy(**self.values["settings"]["policy"])

    @cached_property
    def network(self) -> STM:
        """The evaluated network, on a GPU if there is one.

        Raises:
            FileNotFoundError: The checkpoint no longer exists.
            ValueError: The checkpoint was replaced by another one.
        """
        import torch

        from stm.network import fingerprint, for_inference, load

        checkpoint, expected = self._checkpoint, self.values["settings"]["checkpoint"]
        missing = f"{self.folder}: the checkpoint {checkpoint or expected} no longer exists"
        if checkpoint is None:
            raise FileNotFoundError(missing)
        try:
            actual = fingerprint(checkpoint)
        except FileNotFoundError as error:
            raise FileNotFoundError(missing) from error
        if actual != expected:
            raise ValueError(f"{checkpoint}: must be the evaluated {expected}; got {actual}")
        return for_inference(load(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def _checkpoint(self) -> str | Path | None:
        """Path or address of the evaluated weights; a training evaluates its best or its last checkpoint."""
        config = self.configuration
        if config is None or self.job is None:
            return None
        if config.get("checkpoint"):
            is_address = "://" in config.checkpoint
            return config.checkpoint if is_address else self._working_folder / config.checkpoint
        name = self.values["settings"]["checkpoint"].split(" ")[0]
        return self.job / "checkpoints" / name

    @property
    def _working_folder(self) -> Path:
        """Working folder of the job, to which its paths are relative."""
        path = (self.job or self.folder) / ".hydra" / "hydra.yaml"
        return Path(_load_config(path).hydra.runtime.cwd) if path.exists() else Path()

    @cached_property
    def videos(self) -> dict[str, Video]:
        """Name -> video, for the scored videos that still exist."""
        videos: Sequence[Video] = self.benchmark.videos if self.benchmark else ()
        return {video.name: video for video in videos if video.name in self.sequences}

    def data_fingerprint(self) -> str | None:
        """Return a hash of the content of all scored videos; None if they no longer exist."""
        if not self.videos:
            return None
        prints = "\n".join(self.videos[name].fingerprint() for name in sorted(self.videos))
        return f"sha256:{hashlib.sha256(prints.encode()).hexdigest()[:16]}"


def _load_config(path: Path) -> DictConfig:
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config
