"""Objects followed through a video: masks, confidence and a film, and going on where it was interrupted."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from stm.atomic_io import write_atomically
from stm.cli.options import bundled_notice, load_network
from stm.cli.progress import Progress
from stm.data.file_inspection import read_mask_prompt
from stm.data.video_files import Frames, open_frames
from stm.evaluation.prefetch import BackgroundPool, background_pool, default_workers, prefetch
from stm.inference import Confidence, Segmenter
from stm.inference.resize import resize_frame, resize_mask, shrunk_shape
from stm.masks import object_ids, read_mask, write_mask
from stm.memory import MemoryPolicy
from stm.network import BUNDLED_CHECKPOINT, fingerprint
from stm.visualization import FASTEST, SLOWEST, overlay, write_video

COLUMNS = ("frame", "name", "object", "score", "mean_probability", "area")
STATE = "going_on.pth"
SHARE = 20
"""The time between two times that the memory is saved is at least so many times what saving takes."""


def parse_masks(words: Sequence[str]) -> dict[int, Path]:
    """Frame -> mask file, from words such as `M.png` and `37:M.png`.

    Raises:
        ValueError: two masks are given for one frame.
    """
    found: dict[int, Path] = {}
    for word in words:
        match = re.fullmatch(r"(\d+):(.+)", word)
        t, path = (int(match[1]), match[2]) if match else (0, word)
        if t in found:
            raise ValueError(f"--mask {word}: frame {t} has the mask {found[t]} already")
        found[t] = Path(path)
    return found


def track_video(
    video: Path,
    mask_files: Mapping[int, Path],
    weights: Path | None,
    output: Path,
    policy: MemoryPolicy,
    *,
    size: int,
    device: str,
    film: bool,
    save_every: float,
) -> None:
    """Segment a video into `output`; what an interrupted run has done is not done again.

    Without weights, with the demonstration network.

    Raises:
        FileNotFoundError, ValueError: a file is missing or not what it should be, or `output` has results of
            other settings.
    """
    frames = open_frames(video)
    given = {}
    for t, path in sorted(mask_files.items()):
        if t >= len(frames):
            raise ValueError(
                f"--mask {t}:{path}: the video has {len(frames)} frames, the last is {len(frames) - 1}"
            )
        given[t] = read_mask_prompt(path, frames.size, video)
    network = load_network(weights, device)
    notice = bundled_notice(weights)
    settings = {
        "video": f"{video.name}, {len(frames)} frames of {frames.size[1]}x{frames.size[0]}",
        "masks": {str(t): hashlib.sha256(mask.tobytes()).hexdigest()[:16] for t, mask in given.items()},
        "weights": fingerprint(weights or BUNDLED_CHECKPOINT),
        "memory": asdict(policy),
        "size": size,
    }
    begun = _begun(output, settings)
    state, first = output / STATE, min(given)
    if begun and begun["status"] == "ok":
        told = begun
    else:
        if begun and state.exists():
            segmenter = Segmenter.load(state, network)
        else:
            segmenter = Segmenter(network, policy, len(frames) - first)
        _tidy(output)
        _write_told(output, {"tool": "stm", "status": "running", "settings": settings})
        measured = _segment(frames, given, segmenter, first, output, size, save_every)
        told = {"tool": "stm", "status": "ok", **notice, "settings": settings, **measured}
        told |= _summary(output)
        _write_told(output, told)
        state.unlink(missing_ok=True)
    if film and not (output / "overlay.mp4").exists():
        with Progress("overlay", len(frames)) as progress:
            pictures = _overlaid(frames, output, progress)
            fps = min(max(frames.fps or 24, SLOWEST), FASTEST)
            write_video(output / "overlay.mp4", pictures, fps)
    print(f"{output}: {_in_words(told)}")


def _begun(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What `track.json` of an earlier run says, if there was one with the same settings."""
    path = output / "track.json"
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output}: is a file, a folder is wanted")
    if not path.exists():
        if (output / "masks").exists():
            raise ValueError(f"--output {output}: holds masks that are not from here; give another folder")
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        earlier = told["settings"]
        other = [key for key, value in settings.items() if earlier.get(key) != value]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is not from here ({error!r}); give another --output") from error
    if other:
        raise ValueError(
            f"--output {output}: holds results of other settings, {other[0]}: {earlier.get(other[0])} "
            f"(here {settings[other[0]]}); give another folder"
        )
    return told


@torch.inference_mode()
def _segment(
    frames: Frames,
    given: Mapping[int, np.ndarray],
    segmenter: Segmenter,
    first: int,
    output: Path,
    size: int,
    save_every: float,
) -> dict[str, Any]:
    """Segment what is left, and what that took."""
    start = first + segmenter.t + 1 if segmenter.t >= 0 else 0
    began = saved = perf_counter()
    pause, most_bytes, done = save_every, segmenter.memory_bytes(), 0
    device = segmenter.network.mean.device
    workers = default_workers(device)
    coming = prefetch(frames.read(start), 3 if workers else 0)
    with (
        Progress(frames.path.name, len(frames), start) as progress,
        _Rows(output / "confidence.csv", start) as rows,
        background_pool(workers) as later,
        closing(coming),
    ):
        for t, frame in enumerate(coming, start):
            mask = given.get(t)
            path = output / "masks" / f"{frames.names[t]}.png"
            if t < first:
                later.submit(write_mask, path, np.zeros(frames.size, np.uint8))
            else:
                labels, confidence = _step(segmenter, frame, mask, size)
                areas = np.bincount(labels.ravel(), minlength=256)
                for label, (inside, score) in confidence.items():
                    rows.add(t, frames.names[t], label, f"{score:.4f}", f"{inside:.4f}", areas[label])
                later.submit(write_mask, path, labels)
            most_bytes = max(most_bytes, segmenter.memory_bytes())
            progress.advance(f"memory {most_bytes / 2**20:.0f} MB")
            if t >= first and perf_counter() - saved > pause:
                pause, saved = _save(segmenter, later, rows, output / STATE, save_every)
            done += 1
    seconds = perf_counter() - began
    return {
        "timing": {
            "frames": done,
            "seconds": seconds,
            "frames_per_second": done / seconds,
            "device": str(device),
        },
        "memory_bytes": most_bytes,
    }


def _save(
    segmenter: Segmenter, later: BackgroundPool, rows: _Rows, path: Path, every: float
) -> tuple[float, float]:
    """Save the memory once all before it is on disk; the pause until the next time, and now."""
    began = perf_counter()
    later.settle()
    rows.flush()
    segmenter.save(path)
    now = perf_counter()
    return max(every, SHARE * (now - began)), now


def _step(
    segmenter: Segmenter, frame: np.ndarray, mask: np.ndarray | None, size: int
) -> tuple[np.ndarray, dict[int, Confidence]]:
    """Labels of a frame at its own size, as given where they are given, and the confidence."""
    probabilities = segmenter.step(
        resize_frame(frame, shrunk_shape(frame, size)),
        None if mask is None else resize_mask(mask, shrunk_shape(mask, size)),
    )
    confidence = segmenter.confidence(probabilities)
    if probabilities.shape[-2:] != frame.shape[:2]:
        at_size = F.interpolate(probabilities[None], frame.shape[:2], mode="bilinear", align_corners=False)
        probabilities = at_size[0]
    labels = segmenter.labels(probabilities)
    if mask is not None:  # resizing blurred it
        labels = np.where(np.isin(labels, object_ids(mask)), 0, labels)
        labels = np.where(np.isin(mask, object_ids(mask)), mask, labels)
    return labels, confidence


class _Rows:
    """The rows of `confidence.csv`; those of an earlier run from frame `start` on are dropped."""

    def __init__(self, path: Path, start: int) -> None:
        kept = read_rows(path, start) if path.exists() else []
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([COLUMNS, *kept])
        write_atomically(path, text.getvalue())
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, *row: object) -> None:
        self._writer.writerow(row)

    def flush(self) -> None:
        self._file.flush()


def read_rows(path: Path, before: int | None = None) -> list[list[str]]:
    """The rows of `confidence.csv`, of the frames before one; the last may have been cut short."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)][1:]
    return [row for row in rows if before is None or int(row[0]) < before]


def _summary(output: Path) -> dict[str, Any]:
    """Of each object, its mean score and the frames in which it is not found."""
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


def _in_words(told: Mapping[str, Any]) -> str:
    timing, objects = told["timing"], told["objects"]
    scores = ", ".join(f"object {label} {o['mean_score']:.2f}" for label, o in objects.items())
    return (
        f"{timing['frames']} frames, {timing['frames_per_second']:.1f} a second on {timing['device']}; "
        f"mean score: {scores}"
    )


def _overlaid(frames: Frames, output: Path, progress: Progress) -> Iterator[np.ndarray]:
    for name, frame in zip(frames.names, frames.read(), strict=False):
        yield overlay(frame, read_mask(output / "masks" / f"{name}.png"))
        progress.advance("")


def _tidy(output: Path) -> None:
    """Remove what a killed run had half-written."""
    for part in [*output.glob(".*.part"), *output.glob("masks/.*.part")]:
        part.unlink()


def _write_told(output: Path, told: Mapping[str, Any]) -> None:
    write_atomically(output / "track.json", json.dumps(told, indent=1) + "\n")
