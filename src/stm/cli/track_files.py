"""The files of `stm track`: track.json, confidence.csv, masks, the saved state."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stm.atomic_io import has_content, write_atomically

COLUMNS = ("frame", "name", "object", "score", "mean_probability", "area")
STATE = "resume.pth"


def earlier_run(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return `track.json` of an earlier run with the same settings, if there is one."""
    path = output / "track.json"
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output}: must be a folder; it is a file")
    if not path.exists():
        if (output / "masks").exists():
            raise ValueError(f"--output {output}: holds masks of another program; choose another folder")
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        earlier = record["settings"]
        differing = [key for key, value in settings.items() if earlier.get(key) != value]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: was not written by stm track ({error!r}); choose another --output"
        ) from error
    if differing:
        key = differing[0]
        if key in ("frames", "masks") and earlier.get("video") == settings["video"]:
            what = f"the {key} have changed since its results were computed"
        else:
            what = f"holds results of other settings, {key}: {earlier.get(key)} (now {settings[key]})"
        raise ValueError(f"--output {output}: {what}; choose another folder, or start anew with --fresh")
    return record


class ConfidenceRows:
    """The rows of `confidence.csv`; those of an earlier run from frame `start` on are dropped."""

    def __init__(self, path: Path, start: int) -> None:
        kept = read_rows(path, start) if path.exists() else []
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([COLUMNS, *kept])
        write_atomically(path, text.getvalue())
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def __enter__(self) -> ConfidenceRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, *row: object) -> None:
        """Append a row with the values of `COLUMNS`."""
        self._writer.writerow(row)

    def flush(self) -> None:
        """Write all rows to disk."""
        self._file.flush()


def read_rows(path: Path, before: int | None = None) -> list[list[str]]:
    """Return the rows of `confidence.csv` of frames before one; a last row that was cut short is dropped."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)][1:]
    return [row for row in rows if before is None or int(row[0]) < before]


def summarize_objects(output: Path) -> dict[str, Any]:
    """Return each object's mean score and the frames in which it is not found."""
    scores: dict[str, dict[int, float]] = {}
    for frame, _, label, score, *_ in read_rows(output / "confidence.csv"):
        scores.setdefault(label, {})[int(frame)] = float(score)
    return {
        "objects": {
            label: {
                "enters": min(of_frame),
                "mean_score": float(np.mean(list(of_frame.values()))),
                "lowest_score": min(of_frame.values()),
                "not_found": [t for t, score in of_frame.items() if score == 0],
            }
            for label, of_frame in scores.items()
        }
    }


def remove_partial_files(output: Path) -> None:
    """Remove files that a killed run left half-written."""
    for part in [*output.glob(".*.part"), *output.glob("masks/.*.part")]:
        part.unlink()


def write_record(output: Path, record: Mapping[str, Any]) -> None:
    """Write track.json."""
    write_atomically(output / "track.json", json.dumps(record, indent=1) + "\n")


def delete_results(output: Path) -> None:
    """Delete what an earlier run wrote, if it was `stm track`; other files stay."""
    if (output / "track.json").is_file():
        shutil.rmtree(output / "masks", ignore_errors=True)
        for name in ("track.json", "confidence.csv", "overlay.mp4", STATE):
            (output / name).unlink(missing_ok=True)


def has_masks(output: Path, names: Sequence[str]) -> bool:
    """Return whether the masks of these frames exist."""
    return all(has_content(output / "masks" / f"{name}.png") for name in names)
