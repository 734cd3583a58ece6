"""The benchmarks by name: which videos, and which frames and objects of them count."""

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
    """DAVIS 2016 (one object a video) or 2017; arguments as in `stm.data.videos.davis`.

    Args:
        size: short side in pixels at which the network sees the frames; None for their own.
        only: names of the sequences to evaluate; all if empty.
    """
    found = videos.davis(root, year, split, resolution)
    source = f"{Path(root).resolve()} {resolution}"
    return Benchmark(f"davis{year}-{split}", _only(found, only), size, "davis", source=source)


def youtube_vos(
    root: str | Path,
    split: str = "valid",
    holdout_categories: Sequence[str] = (),
    holdout_share: float = 0.0,
    size: int | None = None,
    only: Sequence[str] = (),
) -> Benchmark:
    """YouTube-VOS; split `holdout` is a part of the training set with truth, for a local G.

    The categories of what is left of the training set are those seen in training.
    """
    found = videos.youtube_vos(root, split, holdout_categories, holdout_share)
    seen = None
    if (Path(root) / "train" / "meta.json").is_file():
        rest = videos.youtube_vos(root, "train", holdout_categories, holdout_share)
        seen = frozenset(category for video in rest for category in video.categories.values())
    source = str(Path(root).resolve())
    return Benchmark(f"youtube_vos-{split}", _only(found, only), size, "youtube", seen, source)


def folder(root: str | Path, size: int | None = None, only: Sequence[str] = ()) -> Benchmark:
    """JPEGImages/<video>/*.jpg, Annotations/<video>/*.png; each annotated frame after entry counts.

    Raises:
        ValueError: a video has no mask that shows an object.
    """
    path = Path(root).resolve()
    found = _only(videos.folder(root), only)
    without = [video.name for video in found if not video.first_frames]
    if without:
        raise ValueError(
            f"{path / 'Annotations' / without[0]}: {len(without)} of {len(found)} videos have no mask that "
            "shows an object; give one for the frame where it enters, or name other videos in benchmark.only"
        )
    return Benchmark(path.name, found, size, "all", source=str(path))


def synthetic(
    count: int = 32,
    seed: int = 0,
    split: str = "val",
    kind: str = "mixed",
    pixels: int = 96,
    frames: int | None = None,
    size: int | None = None,
) -> Benchmark:
    """Procedural videos, made on the spot; arguments as in `stm.data.synthetic.dataset.synthetic_videos`."""
    made = synthetic_videos(count, seed, split, kind, pixels, frames)
    # the videos' names tell the rest
    return Benchmark(f"synthetic-{kind}-{split}", made, size, "davis", source=f"{pixels} pixels")


def rebuilt(values: Mapping[str, Any]) -> Benchmark:
    """A benchmark from what a file of `conf/benchmark/` says, `_target_` included, as a run wrote it down.

    Raises:
        ValueError: `_target_` is no function of this module.
    """
    values = dict(values)
    module, _, name = str(values.pop("_target_", "")).rpartition(".")
    if module != __name__ or name not in ("davis", "youtube_vos", "folder", "synthetic"):
        raise ValueError(f"_target_={module}.{name}: no benchmark of this package")
    build: Callable[..., Benchmark] = globals()[name]
    return build(**values)


def _only(found: Sequence, names: Sequence[str]) -> Sequence:
    if not names:
        return found
    by_name = {video.name: video for video in found}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ValueError(
            f"benchmark.only: no video is named {missing}; there are {', '.join(sorted(by_name))}"
        )
    return [by_name[name] for name in names]
