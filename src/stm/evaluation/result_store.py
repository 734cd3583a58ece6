"""Stored scores of videos, from which an interrupted evaluation resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stm.atomic_io import write_atomically
from stm.evaluation.scores import SequenceScores
from stm.video import Video


class ResultStore:
    """Scores of videos in files of an evaluation's folder.

    Args:
        output: the evaluation's folder.
        settings: what is evaluated and how; recorded in each file.
        baselines: a video without the baselines' scores does not count as finished.

    Raises:
        ValueError: the folder holds results of other settings.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], baselines: bool) -> None:
        self.output, self.settings, self.baselines = output, settings, baselines
        for path in sorted((output / "sequences").glob("*.json")):
            self._read(path)

    def write(self, sequence: SequenceScores) -> None:
        """Store the scores of a video."""
        values = {"settings": self.settings, **sequence.to_dict()}
        write_atomically(self._path(sequence.name), json.dumps(values))

    def read(self, one: Video) -> SequenceScores | None:
        """Return the scores of a video; None if it is not finished, or has another number of frames."""
        try:
            sequence = self._read(self._path(one.name))
        except FileNotFoundError:
            return None
        is_complete = sequence.length == len(one) and (sequence.baselines or not self.baselines)
        return sequence if is_complete else None

    def _path(self, name: str) -> Path:
        return self.output / "sequences" / f"{name}.json"

    def _read(self, path: Path) -> SequenceScores:
        values = json.loads(path.read_text())
        recorded = values.pop("settings")
        differing = [
            f"{key} {recorded.get(key)} != {self.settings[key]}"
            for key in self.settings
            if recorded.get(key, self.settings[key]) != self.settings[key]
        ]
        if differing:
            raise ValueError(
                f"{path} comes from other settings ({'; '.join(differing)}): choose another output folder "
                f"(name=NEW_NAME), or delete {self.output} to start again"
            )
        return SequenceScores.from_dict(values)
