"""Stored scores of videos, from which an interrupted evaluation resumes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stm import __version__
from stm.atomic_io import has_content, write_atomically
from stm.evaluation.scores import SequenceScores
from stm.masks import mask_files
from stm.video import Video

log = logging.getLogger(__name__)


class ResultStore:
    """Scores of videos in files of an evaluation's folder.

    Scores are reused only for the same settings, version of the package and `Video.fingerprint`.

    Args:
        output: the evaluation's folder.
        settings: what is evaluated and how; recorded in each file.
        baselines: a video without the baselines' scores does not count as finished.
        reuse: whether to reuse stored scores at all.

    Raises:
        ValueError: the folder holds results of other settings.
    """

    def __init__(
        self, output: Path, settings: Mapping[str, Any], baselines: bool, reuse: bool = True
    ) -> None:
        self.output, self.settings, self.baselines, self.reuse = output, settings, baselines, reuse
        for path in sorted((output / "sequences").glob("*.json")):
            self._read(path)

    def write(self, video: Video, sequence: SequenceScores) -> None:
        """Store the scores of a video."""
        values = {"settings": self.settings, "data": _data_key(video), **sequence.to_dict()}
        write_atomically(self._path(sequence.name), json.dumps(values))

    def read(self, video: Video) -> SequenceScores | None:
        """Return the scores of a video; None if they are missing or incomplete, or its data has changed."""
        path = self._path(video.name)
        if not self.reuse or not path.exists():
            return None
        stored = self._read(path)
        if stored is None:
            return None
        sequence, data = stored
        if data != _data_key(video):
            log.info("%s: frames, masks or the package changed since %s was written", video.name, path)
            return None
        masks = self.output / "masks" / video.name
        has_masks = all(
            has_content(path) for t in video.output_frames for path in mask_files(masks, video, t).values()
        )
        return sequence if has_masks and (sequence.baselines or not self.baselines) else None

    def discard(self, video: Video) -> None:
        """Delete the scores of a video, whose masks are about to be overwritten."""
        self._path(video.name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.output / "sequences" / f"{name}.json"

    def _read(self, path: Path) -> tuple[SequenceScores, str | None] | None:
        """Return scores and data of a file; None if it was lost, as a crash of the machine may leave it."""
        try:
            values = json.loads(path.read_text())
        except ValueError:
            values = None
        if not isinstance(values, dict) or "settings" not in values:
            log.warning("%s is broken: its video is evaluated again", path)
            return None
        recorded = values.pop("settings")
        differing = [
            f"{key} {recorded.get(key)} != {self.settings.get(key)}"
            for key in {**self.settings, **recorded}
            if recorded.get(key) != self.settings.get(key)
        ]
        if differing:
            raise ValueError(
                f"{path} comes from other settings ({'; '.join(differing)}): choose another output folder "
                f"(name=NEW_NAME), or delete {self.output} to start again"
            )
        data = values.pop("data", None)
        return SequenceScores.from_dict(values), data


def _data_key(video: Video) -> str:
    return f"{video.fingerprint()} stm-vos {__version__}"
