"""Benchmarks by name: their videos, scored frames and scored objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stm.data import videos
from stm.data.synthetic.composite import composite_videos
from stm.data.synthetic.dataset import synthetic_videos
from stm.data.videos import FileVideo
from stm.evaluation.evaluate import Benchmark
from stm.evaluation.scores import scored_frames
from stm.masks import object_ids


def davis(
    root: str | Path,
    year: int = 2017,
    split: str = "val",
    resolution: str = "480p",
    size: int | None = None,
    only: Sequence[str] = (),
) -> Benchmark:
    """Return DAVIS 2016 (one object per video) or 2017.

    Args:
        root: see `stm.data.videos.davis`.
        year: 2016 or 2017.
        split: see `stm.data.videos.davis`.
        resolution: see `stm.data.videos.davis`.
        size: short side in pixels at which the network sees the frames; None for their own.
        only: names of the videos to evaluate; all if empty.
    """
    source = f"{Path(root).resolve()} {resolution}"
    selected = _select(videos.davis(root, year, split, resolution), only)
    _check_scorable(selected, "davis")
    return Benchmark(f"davis{year}-{split}", selected, size, "davis", source=source)


def youtube_vos(
    root: str | Path,
    split: str = "valid",
    holdout_categories: Sequence[str] = (),
    holdout_share: float = 0.0,
    size: int | None = None,
    only: Sequence[str] = (),
) -> Benchmark:
    """Return YouTube-VOS; split `holdout` is a part of the training set, for a local G.

    The categories of the remaining training set are the seen ones.

    Args:
        root: see `stm.data.videos.youtube_vos`.
        split: see `stm.data.videos.youtube_vos`.
        holdout_categories: see `stm.data.videos.youtube_vos`.
        holdout_share: see `stm.data.videos.youtube_vos`.
        size: short side in pixels at which the network sees the frames; None for their own.
        only: names of the videos to evaluate; all if empty.
    """
    selected = _select(videos.youtube_vos(root, split, holdout_categories, holdout_share), only)
    _check_scorable(selected, "youtube")
    seen = None
    if (Path(root) / "train" / "meta.json").is_file():
        train = videos.youtube_vos(root, "train", holdout_categories, holdout_share)
        seen = frozenset(category for video in train for category in video.categories.values())
    source = str(Path(root).resolve())
    return Benchmark(f"youtube_vos-{split}", selected, size, "youtube", seen, source)


def folder(root: str | Path, size: int | None = None, only: Sequence[str] = ()) -> Benchmark:
    """Return the videos of a folder; each object is scored on the annotated frames after its first.

    Args:
        root: folder with JPEGImages/<video>/*.jpg and Annotations/<video>/*.png.
        size: short side in pixels at which the network sees the frames; None for their own.
        only: names of the videos to evaluate; all if empty.

    Raises:
        ValueError: a video has no mask that shows an object.
    """
    path = Path(root).resolve()
    selected = _select(videos.folder(root), only)
    _check_scorable(selected, "all")
    return Benchmark(path.name, selected, size, "all", source=str(path))


def synthetic(
    count: int = 32,
    seed: int = 0,
    split: str = "val",
    kind: str = "mixed",
    pixels: int = 96,
    frames: int | None = None,
    size: int | None = None,
) -> Benchmark:
    """Return procedural videos, generated on demand.

    Args:
        count: number of videos.
        seed: see `stm.data.synthetic.dataset.synthetic_videos`.
        split: `train`, `val` or `test`.
        kind: `plain`, `event`, `distractor` or `mixed`.
        pixels: side of the square frames.
        frames: length of a video; None for the default of its kind.
        size: short side in pixels at which the network sees the frames; None for their own.
    """
    generated = synthetic_videos(count, seed, split, kind, pixels, frames)
    # the names of the videos contain the other arguments
    return Benchmark(f"synthetic-{kind}-{split}", generated, size, "davis", source=f"{pixels} pixels")


def composite(
    root: str | Path,
    year: int = 2017,
    split: str = "val",
    resolution: str = "480p",
    count: int = 40,
    seed: int = 0,
    kind: str = "event",
    frame_size: Sequence[int] = (240, 424),
    frames: int | None = None,
    size: int | None = None,
) -> Benchmark:
    """Return composite videos of the objects and backgrounds of a DAVIS split.

    Args:
        root: see `stm.data.videos.davis`.
        year: see there.
        split: see there.
        resolution: see there.
        count: see `stm.data.synthetic.composite.composite_videos`.
        seed: see there.
        kind: see there.
        frame_size: see there.
        frames: see there.
        size: short side in pixels at which the network sees the frames; None for their own.
    """
    source_videos = videos.davis(root, year, split, resolution)
    generated = composite_videos(source_videos, count, seed, kind, frame_size, frames)
    source = f"{Path(root).resolve()} {resolution} {frame_size[0]}x{frame_size[1]}"
    return Benchmark(f"composite-{kind}-{split}", generated, size, "davis", source=source)


def benchmark_from_config(values: Mapping[str, Any]) -> Benchmark:
    """Return the benchmark of a recorded configuration, which has the keys of a file of `conf/benchmark/`.

    Raises:
        ValueError: `_target_` is not a function of this module.
    """
    values = dict(values)
    module, _, name = str(values.pop("_target_", "")).rpartition(".")
    if module != __name__ or name not in ("davis", "youtube_vos", "folder", "synthetic", "composite"):
        raise ValueError(f"_target_={module}.{name}: must be a benchmark of this package")
    build: Callable[..., Benchmark] = globals()[name]
    return build(**values)


def _check_scorable(selected: Sequence[FileVideo], protocol: str) -> None:
    """Check that each video has objects, masks where they enter, and frames to score if any other one has.

    Raises:
        ValueError: some videos cannot be evaluated; the message names them.
    """
    faults = {video.name: fault for video in selected if (fault := _fault(video))}
    scored = {video.name: bool(scored_frames(video, protocol)) for video in selected if not faults}
    if any(scored.values()):  # in test sets none is
        faults = {name: "has no frame that counts" for name in scored if not scored[name]}
        for video in selected:
            if video.name in faults:
                faults[video.name] += f": {len(video.annotated)} of {len(video)} frames have a mask"
    if faults:
        listed = "; ".join(f"{name} {fault}" for name, fault in list(faults.items())[:5])
        others = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(
            f"benchmark: {len(faults)} of {len(selected)} videos cannot be evaluated: {listed}{others}. "
            "Correct them (`stm check` lists all problems), or leave them out by benchmark.only=[...]"
        )


def _fault(video: FileVideo) -> str:
    """Return why a video cannot be segmented; empty if it can."""
    if not video.annotated:
        return f"has no mask ({video.masks_folder})"
    if not video.first_frames:
        return f"must show an object, where it enters: {video.mask_path(video.annotated[0])} shows none"
    for t in sorted(set(video.first_frames.values())):
        entering = {label for label, first in video.first_frames.items() if first == t}
        if t not in video.annotated:
            return f"has no mask {video.mask_path(t)}, where object {min(entering)} enters"
        if missing := entering - set(object_ids(video.annotated_mask(t))):
            return f"must show object {min(missing)}, which enters at {video.mask_path(t)}"
    return ""


def _select(available: Sequence, names: Sequence[str]) -> Sequence:
    """Return the videos of these names, which may be numbers; all videos without names."""
    names = [names] if isinstance(names, str) else list(map(str, names))
    if not names:
        return available
    by_name = {video.name: video for video in available}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ValueError(f"benchmark.only={missing}: must be names of {', '.join(sorted(by_name))}")
    return [by_name[name] for name in names]
