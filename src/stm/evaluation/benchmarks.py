"""Benchmarks by name: their videos, scored frames and scored objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stm.data import videos
from stm.data.synthetic.dataset import synthetic_videos
from stm.evaluation.evaluate import Benchmark


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
    empty = [video.name for video in selected if not video.first_frames]
    if empty:
        raise ValueError(
            f"{path / 'Annotations' / empty[0]}: must have a mask that shows an object, where it enters; "
            f"{len(empty)} of {len(selected)} videos have none (benchmark.only selects videos)"
        )
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


def benchmark_from_config(values: Mapping[str, Any]) -> Benchmark:
    """Return the benchmark of a recorded configuration, which has the keys of a file of `conf/benchmark/`.

    Raises:
        ValueError: `_target_` is not a function of this module.
    """
    values = dict(values)
    module, _, name = str(values.pop("_target_", "")).rpartition(".")
    if module != __name__ or name not in ("davis", "youtube_vos", "folder", "synthetic"):
        raise ValueError(f"_target_={module}.{name}: must be a benchmark of this package")
    build: Callable[..., Benchmark] = globals()[name]
    return build(**values)


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
