"""Benchmarks by name: their videos, scored frames and scored objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stm.data import videos
from stm.data.lvos_videos import lvos as lvos_videos
from stm.data.mose_videos import mose as mose_videos
from stm.data.sav_videos import sav as sav_videos
from stm.data.synthetic.composite import composite_videos
from stm.data.synthetic.dataset import synthetic_videos
from stm.data.vost_videos import vost as vost_videos
from stm.evaluation.evaluate import Benchmark
from stm.evaluation.scorable_videos import check_scorable, refuse_late_objects, select

NAMES = ("davis", "youtube_vos", "mose", "lvos", "vost", "sav", "folder", "synthetic", "composite")
"""Functions that configurations may call."""


def davis(
    root: str | Path,
    year: int = 2017,
    split: str = "val",
    resolution: str = "480p",
    size: int | None = None,
    only: Sequence[str] = (),
    ignore_late_objects: bool = False,
) -> Benchmark:
    """Return DAVIS 2016 (one object per video) or 2017.

    Args:
        root: see `stm.data.videos.davis`.
        year: 2016 or 2017.
        split: see `stm.data.videos.davis`.
        resolution: see `stm.data.videos.davis`.
        size: short side in pixels at which the network sees the frames; None for their own.
        only: names of the videos to evaluate; all if empty.
        ignore_late_objects: leave out objects that a video's first mask does not show, as DAVIS's program
            does, instead of raising.

    Raises:
        ValueError: a video cannot be evaluated, or has an object that would be left out.
    """
    source = f"{Path(root).resolve()} {resolution}"
    selected = select(videos.davis(root, year, split, resolution), only)
    check_scorable(selected, "davis")
    if not ignore_late_objects:
        refuse_late_objects(selected)
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
    selected = select(videos.youtube_vos(root, split, holdout_categories, holdout_share), only)
    check_scorable(selected, "youtube")
    seen = None
    if (Path(root) / "train" / "meta.json").is_file():
        train = videos.youtube_vos(root, "train", holdout_categories, holdout_share)
        seen = frozenset(category for video in train for category in video.categories.values())
    source = str(Path(root).resolve())
    return Benchmark(f"youtube_vos-{split}", selected, size, "youtube", seen, source)


def mose(
    root: str | Path,
    version: int = 2,
    split: str = "valid",
    truth: str | Path | None = None,
    holdout_share: float = 0.0,
    size: int | None = None,
    only: Sequence[str] = (),
) -> Benchmark:
    """Return MOSE v1 or v2.

    Args:
        root: see `stm.data.mose_videos.mose`.
        version: 1 or 2, which selects the protocol.
        split: see there.
        truth: see there.
        holdout_share: see there.
        size: short side in pixels at which the network sees the frames; None for their own.
        only: names of the videos to evaluate; all if empty.
    """
    if version not in (1, 2):
        raise ValueError(f"benchmark.version={version}: must be 1 or 2")
    name = "mose" if version == 1 else "mosev2"
    selected = select(mose_videos(root, split, truth, holdout_share), only)
    return _checked(f"{name}-{split}", selected, size, name, root)


def lvos(
    root: str | Path,
    version: int = 1,
    split: str = "val",
    unseen_videos: str | Path | None = None,
    holdout_share: float = 0.0,
    size: int | None = None,
    only: Sequence[str] = (),
) -> Benchmark:
    """Return LVOS v1 or v2.

    Args:
        root: see `stm.data.lvos_videos.lvos`.
        version: 1 or 2, for the name of the benchmark; both have one protocol.
        split: see there.
        unseen_videos: see there.
        holdout_share: see there.
        size: short side in pixels at which the network sees the frames; None for their own.
        only: names of the videos to evaluate; all if empty.
    """
    selected = select(lvos_videos(root, split, unseen_videos, holdout_share), only)
    return _checked(f"lvos{'' if version == 1 else 'v2'}-{split}", selected, size, "lvos", root)


def vost(
    root: str | Path,
    split: str = "val",
    fps: int = 5,
    size: int | None = None,
    only: Sequence[str] = (),
) -> Benchmark:
    """Return VOST.

    Args:
        root: see `stm.data.vost_videos.vost`.
        split: see there.
        fps: see there.
        size: short side in pixels at which the network sees the frames; None for their own.
        only: names of the videos to evaluate; all if empty.
    """
    return _checked(
        f"vost-{split}", select(vost_videos(root, split, fps), only), size, "vost", root, f" {fps} fps"
    )


def sav(root: str | Path, split: str = "val", size: int | None = None, only: Sequence[str] = ()) -> Benchmark:
    """Return SA-V val or test, whose objects overlap and have a folder of masks each.

    Args:
        root: see `stm.data.sav_videos.sav`.
        split: see there.
        size: short side in pixels at which the network sees the frames; None for their own.
        only: names of the videos to evaluate; all if empty.
    """
    return _checked(f"sav-{split}", select(sav_videos(root, split), only), size, "sav", root)


def _checked(
    name: str, selected: Sequence[Any], size: int | None, protocol: str, root: str | Path, details: str = ""
) -> Benchmark:
    check_scorable(selected, protocol)
    return Benchmark(name, selected, size, protocol, source=f"{Path(root).resolve()}{details}")


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
    selected = select(videos.folder(root), only)
    check_scorable(selected, "all")
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
    if module != __name__ or name not in NAMES:
        raise ValueError(f"_target_={module}.{name}: must be a benchmark of this package")
    build: Callable[..., Benchmark] = globals()[name]
    return build(**values)
