"""Tracking of objects through a video, which resumes after an interruption."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from stm.cli.frame_progress import FrameProgress
from stm.cli.options import bundled_notice, load_network
from stm.cli.track_files import (
    STATE,
    ConfidenceRows,
    delete_results,
    earlier_run,
    has_masks,
    remove_partial_files,
    summarize_objects,
    write_record,
)
from stm.cli.track_prompts import read_prompts
from stm.config.memory_policies import parse_policy
from stm.data.video_files import Frames, open_frames
from stm.evaluation.prefetch import BackgroundPool, background_pool, default_workers, prefetch
from stm.inference import PreparedFrame, Segmenter
from stm.inference.resize import resized_shape
from stm.masks import object_ids, read_mask, write_mask
from stm.memory import MemoryPolicy
from stm.memory.policy import MEGABYTE
from stm.network import BUNDLED_CHECKPOINT, STM, fingerprint
from stm.visualization import MAX_FPS, MIN_FPS, overlay, write_video

LONG_VIDEO = 600
"""Frames beyond which a forecast of the memory is printed, and a bounded policy is the default."""
MIN_BUDGET_MB = 256.0
"""Smallest limit on the memory of a long video."""
MIN_BUDGET_FRAMES = 10
"""Frames that fit at least into the memory of a long video."""
SHARE = 20
"""The memory is saved again after at least this many times the time that saving takes."""


def track_video(
    video: Path,
    masks: Sequence[str],
    weights: Path | None,
    output: Path,
    policy: MemoryPolicy | None,
    *,
    size: int,
    device: str,
    write_overlay: bool,
    save_every: float,
    fresh: bool = False,
) -> int:
    """Segment a video into the folder `output`; resume there after an interruption.

    Args:
        video: a video file, or a folder of frames.
        masks: the given masks, see `stm.cli.track_prompts.read_prompts`.
        weights: a checkpoint; None for the bundled network.
        output: the folder for all results.
        policy: which frames are remembered; None for the one of published weights, else `every_5`, and for
            `budget` in a long video.
        size: larger frames are shrunk to this short side for the network, in pixels.
        device: see `stm.cli.options.load_network`.
        write_overlay: write overlay.mp4.
        save_every: seconds between two saved states.
        fresh: delete earlier results in `output` first.

    Returns:
        The exit code, 1 if the video file was cut short or damaged.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not what it should be, or `output` holds results of other settings.
    """
    frames = open_frames(video)
    prompts = read_prompts(masks, frames)
    network = load_network(weights, device)
    notice = bundled_notice(weights)
    first = min(prompts)
    policy = _choose_policy(policy, network, frames, prompts, size)
    settings = {
        "video": f"{video.name}, {len(frames)} frames of {frames.size[1]}x{frames.size[0]}",
        "frames": frames.fingerprint(),
        "masks": {str(t): hashlib.sha256(mask.tobytes()).hexdigest()[:16] for t, mask in prompts.items()},
        "weights": fingerprint(weights or BUNDLED_CHECKPOINT),
        "memory": asdict(policy),
        "size": size,
    }
    if fresh:
        delete_results(output)
    earlier, state = earlier_run(output, settings), output / STATE
    if earlier and {"missing", "frames"} <= earlier.keys():  # known only after all frames were decoded
        frames.names, frames.missing = frames.names[: earlier["frames"]], earlier["missing"]
    if earlier and earlier["status"] == "ok" and has_masks(output, frames.names):
        record = earlier
        print(f"{output}: all {len(frames)} frames kept from an earlier run (--fresh computes them anew)")
    else:
        segmenter = _resumed(state, network, output, frames, first) if earlier else None
        if segmenter is None:
            segmenter = Segmenter(network, policy, min(size, *frames.size), length=len(frames) - first)
        remove_partial_files(output)
        write_record(output, {"tool": "stm", "status": "running", "settings": settings})
        measured = _segment(frames, prompts, segmenter, first, output, save_every)
        record = {"tool": "stm", "status": "ok", **notice, "settings": settings, **measured}
        record |= summarize_objects(output)
        if frames.missing:
            record |= {"frames": len(frames), "missing": frames.missing}
        write_record(output, record)
        state.unlink(missing_ok=True)
        (output / "overlay.mp4").unlink(missing_ok=True)
    if write_overlay and not (output / "overlay.mp4").exists():
        with FrameProgress("overlay", len(frames)) as progress:
            fps = min(max(frames.fps or 24, MIN_FPS), MAX_FPS)
            write_video(output / "overlay.mp4", _overlaid(frames, output, progress), fps)
    print(f"{output}: {_describe(record)}")
    if frames.missing:
        print(
            f"stm: {video}: {frames.missing}; "
            f"masks of the {len(frames)} frames that it holds are in {output / 'masks'}",
            file=sys.stderr,
        )
    return 1 if frames.missing else 0


def _choose_policy(
    policy: MemoryPolicy | None,
    network: STM,
    frames: Frames,
    prompts: Mapping[int, np.ndarray],
    size: int,
) -> MemoryPolicy:
    """Return the policy; print a forecast of the memory for a long video."""
    chosen = policy or network.policy or parse_policy("every_5")
    length = len(frames) - min(prompts)
    if length <= LONG_VIDEO:
        return chosen
    objects = len({label for mask in prompts.values() for label in object_ids(mask)})
    cells = network.memory_cells(resized_shape(frames.size, min(size, *frames.size)))
    frame_mb = cells * network.cell_bytes(objects) / MEGABYTE
    needed = chosen.peak_frames(length) * frame_mb + chosen.peak_prototypes(length) * frame_mb / cells
    if chosen.max_mb is not None:
        needed = min(needed, chosen.max_mb)
    if policy is not None or chosen.long_term is not None or needed <= MIN_BUDGET_MB:
        print(f"stm: {length} frames: the memory grows up to {needed:.0f} MB", file=sys.stderr)
        return chosen
    limit = max(MIN_BUDGET_MB, round(MIN_BUDGET_FRAMES * frame_mb))
    budget = replace(chosen, max_mb=limit, eviction=parse_policy("budget").eviction)
    print(
        f"stm: {length} frames: the memory is limited to {budget.max_mb:.0f} MB (the policy budget); "
        f"--memory every_5 holds every fifth frame, up to {needed:.0f} MB",
        file=sys.stderr,
    )
    return budget


def _resumed(state: Path, network: STM, output: Path, frames: Frames, first: int) -> Segmenter | None:
    """Return the saved segmenter of an interrupted run; None if it, or a mask before it, is missing."""
    if not state.exists():
        return None
    segmenter = Segmenter.load(state, network)
    done = first + segmenter.t + 1
    if not has_masks(output, frames.names[:done]):
        return None
    print(f"{output}: {done} frames kept from an earlier run (--fresh computes them anew)")
    return segmenter


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
        FrameProgress(frames.path.name, len(frames), start) as progress,
        ConfidenceRows(output / "confidence.csv", start) as rows,
        background_pool(workers) as pool,
        closing(prepared),
    ):
        for t, frame in prepared:
            path = output / "masks" / f"{frames.names[t]}.png"
            if frame is None:
                pool.submit(write_mask, path, np.zeros(frames.size, np.uint8))
            else:
                labels = segmenter.labels(segmenter.step(frame))
                areas = np.bincount(labels.ravel(), minlength=1 + max(segmenter.object_ids))
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
    segmenter: Segmenter, pool: BackgroundPool, rows: ConfidenceRows, path: Path, every: float
) -> tuple[float, float]:
    """Save the memory once all earlier masks are on disk; return the next pause in seconds, and the time."""
    began = perf_counter()
    pool.wait()
    rows.flush()
    segmenter.save(path)
    now = perf_counter()
    return max(every, SHARE * (now - began)), now


def _describe(record: Mapping[str, Any]) -> str:
    timing, objects = record["timing"], record["objects"]
    scores = ", ".join(f"object {label} {o['mean_score']:.2f}" for label, o in objects.items())
    return (
        f"{timing['frames']} frames, {timing['frames_per_second']:.1f} a second on {timing['device']}; "
        f"mean score: {scores}"
    )


def _overlaid(frames: Frames, output: Path, progress: FrameProgress) -> Iterator[np.ndarray]:
    for name, frame in zip(frames.names, frames.read(), strict=False):
        yield overlay(frame, read_mask(output / "masks" / f"{name}.png"))
        progress.advance()
