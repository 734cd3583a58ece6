"""Tracking of objects through a video: masks, confidences and an overlay; resumes where it was interrupted."""

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

from stm.atomic_io import write_atomically
from stm.cli.options import bundled_notice, load_network
from stm.cli.progress import Progress
from stm.data.file_inspection import read_mask_prompt
from stm.data.video_files import Frames, open_frames
from stm.evaluation.prefetch import BackgroundPool, background_pool, default_workers, prefetch
from stm.inference import PreparedFrame, Segmenter
from stm.masks import read_mask, write_mask
from stm.memory import MemoryPolicy
from stm.network import BUNDLED_CHECKPOINT, fingerprint
from stm.visualization import MAX_FPS, MIN_FPS, overlay, write_video

COLUMNS = ("frame", "name", "object", "score", "mean_probability", "area")
STATE = "resume.pth"
SHARE = 20
"""The memory is saved again after at least this many times the time that saving takes."""


def parse_masks(arguments: Sequence[str]) -> dict[int, Path]:
    """Return frame -> mask file, from arguments such as `M.png` and `37:M.png`.

    Raises:
        ValueError: two masks are given for one frame.
    """
    masks: dict[int, Path] = {}
    for argument in arguments:
        match = re.fullmatch(r"(\d+):(.+)", argument)
        t, path = (int(match[1]), match[2]) if match else (0, argument)
        if t in masks:
            raise ValueError(f"--mask {argument}: frame {t} has the mask {masks[t]} already")
        masks[t] = Path(path)
    return masks


def track_video(
    video: Path,
    mask_files: Mapping[int, Path],
    weights: Path | None,
    output: Path,
    policy: MemoryPolicy,
    *,
    size: int,
    device: str,
    write_overlay: bool,
    save_every: float,
) -> None:
    """Segment a video into the folder `output`; resume there after an interruption.

    Args:
        video: a video file, or a folder of frames.
        mask_files: frame -> file of the mask given at it.
        weights: a checkpoint; None for the bundled network.
        output: the folder for all results.
        policy: which frames are remembered.
        size: larger frames are shrunk to this short side for the network, in pixels.
        device: see `stm.cli.options.load_network`.
        write_overlay: write overlay.mp4.
        save_every: seconds between two saved states.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not what it should be, or `output` holds results of other settings.
    """
    frames = open_frames(video)
    prompts = {}
    for t, path in sorted(mask_files.items()):
        if t >= len(frames):
            raise ValueError(
                f"--mask {t}:{path}: the video has {len(frames)} frames, the last is {len(frames) - 1}"
            )
        prompts[t] = read_mask_prompt(path, frames.size, video)
    network = load_network(weights, device)
    notice = bundled_notice(weights)
    settings = {
        "video": f"{video.name}, {len(frames)} frames of {frames.size[1]}x{frames.size[0]}",
        "masks": {str(t): hashlib.sha256(mask.tobytes()).hexdigest()[:16] for t, mask in prompts.items()},
        "weights": fingerprint(weights or BUNDLED_CHECKPOINT),
        "memory": asdict(policy),
        "size": size,
    }
    earlier = _earlier_run(output, settings)
    state, first = output / STATE, min(prompts)
    if earlier and earlier["status"] == "ok":
        record = earlier
    else:
        if earlier and state.exists():
            segmenter = Segmenter.load(state, network)
        else:
            segmenter = Segmenter(network, policy, len(frames) - first, min(size, *frames.size))
        _remove_partial_files(output)
        _write_record(output, {"tool": "stm", "status": "running", "settings": settings})
        measured = _segment(frames, prompts, segmenter, first, output, save_every)
        record = {"tool": "stm", "status": "ok", **notice, "settings": settings, **measured}
        record |= _summary(output)
        _write_record(output, record)
        state.unlink(missing_ok=True)
    if write_overlay and not (output / "overlay.mp4").exists():
        with Progress("overlay", len(frames)) as progress:
            fps = min(max(frames.fps or 24, MIN_FPS), MAX_FPS)
            write_video(output / "overlay.mp4", _overlaid(frames, output, progress), fps)
    print(f"{output}: {_describe(record)}")


def _earlier_run(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
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
        raise ValueError(
            f"--output {output}: holds results of other settings, {key}: {earlier.get(key)} "
            f"(now {settings[key]}); choose another folder"
        )
    return record


def _prepared(
    frames: Frames, prompts: Mapping[int, np.ndarray], segmenter: Segmenter, first: int, start: int
) -> Iterator[tuple[int, PreparedFrame | None]]:
    """Yield the frames from `start` on, ready for the segmenter; None before the first mask."""
    for t, frame in enumerate(frames.read(start), start):
        yield t, None if t < first else segmenter.prepare(frame, prompts.get(t))


@torch.inference_mode()
def _segment(
    frames: Frames,
    prompts: Mapping[int, np.ndarray],
    segmenter: Segmenter,
    first: int,
    output: Path,
    save_every: float,
) -> dict[str, Any]:
    """Segment the remaining frames; return what that took."""
    start = first + segmenter.t + 1 if segmenter.t >= 0 else 0
    began = saved = perf_counter()
    pause, peak_bytes, done = save_every, segmenter.memory_bytes(), 0
    device = segmenter.network.mean.device
    workers = default_workers(device)
    prepared = prefetch(_prepared(frames, prompts, segmenter, first, start), 3 if workers else 0)
    with (
        Progress(frames.path.name, len(frames), start) as progress,
        _Rows(output / "confidence.csv", start) as rows,
        background_pool(workers) as pool,
        closing(prepared),
    ):
        for t, frame in prepared:
            path = output / "masks" / f"{frames.names[t]}.png"
            if frame is None:
                pool.submit(write_mask, path, np.zeros(frames.size, np.uint8))
            else:
                labels = segmenter.labels(segmenter.step(frame))
                areas = np.bincount(labels.ravel(), minlength=256)
                for label, (inside, score) in segmenter.confidence().items():
                    rows.add(t, frames.names[t], label, f"{score:.4f}", f"{inside:.4f}", areas[label])
                pool.submit(write_mask, path, labels)
            peak_bytes = max(peak_bytes, segmenter.memory_bytes())
            progress.advance(f"memory {peak_bytes / 2**20:.0f} MB")
            if t >= first and perf_counter() - saved > pause:
                pause, saved = _save(segmenter, pool, rows, output / STATE, save_every)
            done += 1
    seconds = perf_counter() - began
    return {
        "timing": {
            "frames": done,
            "seconds": seconds,
            "frames_per_second": done / seconds,
            "device": str(device),
        },
        "memory_bytes": peak_bytes,
    }


def _save(
    segmenter: Segmenter, pool: BackgroundPool, rows: _Rows, path: Path, every: float
) -> tuple[float, float]:
    """Save the memory once all earlier masks are on disk; return the next pause in seconds, and the time."""
    began = perf_counter()
    pool.wait()
    rows.flush()
    segmenter.save(path)
    now = perf_counter()
    return max(every, SHARE * (now - began)), now


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
    """Return the rows of `confidence.csv` of frames before one; a last row that was cut short is dropped."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)][1:]
    return [row for row in rows if before is None or int(row[0]) < before]


def _summary(output: Path) -> dict[str, Any]:
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


def _describe(record: Mapping[str, Any]) -> str:
    timing, objects = record["timing"], record["objects"]
    scores = ", ".join(f"object {label} {o['mean_score']:.2f}" for label, o in objects.items())
    return (
        f"{timing['frames']} frames, {timing['frames_per_second']:.1f} a second on {timing['device']}; "
        f"mean score: {scores}"
    )


def _overlaid(frames: Frames, output: Path, progress: Progress) -> Iterator[np.ndarray]:
    for name, frame in zip(frames.names, frames.read(), strict=False):
        yield overlay(frame, read_mask(output / "masks" / f"{name}.png"))
        progress.advance()


def _remove_partial_files(output: Path) -> None:
    """Remove files that a killed run left half-written."""
    for part in [*output.glob(".*.part"), *output.glob("masks/.*.part")]:
        part.unlink()


def _write_record(output: Path, record: Mapping[str, Any]) -> None:
    write_atomically(output / "track.json", json.dumps(record, indent=1) + "\n")
