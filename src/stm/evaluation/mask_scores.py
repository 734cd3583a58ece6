"""Scores of masks that were made elsewhere: a folder or zip of index PNGs, `<video>/<frame>.png`."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from stm.evaluation.evaluate import Benchmark
from stm.evaluation.scores import (
    ALL_BACKGROUND,
    COPY_FIRST,
    Prediction,
    Scores,
    SequenceScores,
    Tally,
    copy_first,
)
from stm.masks import read_mask
from stm.video import VOID, Video

DEPTH = 3
"""Folders above the videos' folders, such as Annotations/480p."""


def score_masks(
    benchmark: Benchmark, masks: str | Path, skip_missing: bool = False
) -> tuple[Scores, list[str]]:
    """Score masks by a benchmark's protocol, beside the baselines.

    A mask of only 0 and 255 shows the object of a video that has one.

    Args:
        benchmark: videos with ground truth, and protocol.
        masks: a folder or a zip; the videos' folders may lie below others, such as Annotations/480p.
        skip_missing: leave out videos with missing masks instead of raising.

    Returns:
        The scores, and one line for each video that was left out.

    Raises:
        FileNotFoundError: the folder or zip does not exist, or a scored frame has no mask.
        ValueError: a mask cannot be read or has another size than its frame, or nothing can be scored.
    """
    with _opened(Path(masks)) as root:
        folder = _videos_folder(root, benchmark.videos, Path(masks))
        sequences, skipped = [], []
        for video in benchmark.videos:
            tally = Tally(video, benchmark.protocol)
            if not tally.frames:
                raise ValueError(f"{benchmark.name}: {video.name} has no ground truth to score")
            names = [video.frame_names[t] for t in sorted(tally.frames)]
            missing = [name for name in names if not (folder / video.name / f"{name}.png").is_file()]
            if missing:
                line = (
                    f"{masks}: {video.name} has no mask of {len(missing)} of the {len(names)} frames that "
                    f"are scored, the first is {video.name}/{missing[0]}.png"
                )
                if not skip_missing:
                    raise FileNotFoundError(line)
                skipped.append(line)
                continue
            sequences.append(_score(video, benchmark.protocol, folder / video.name))
        if not sequences:
            raise ValueError(f"{masks}: no video of {benchmark.name} has all its masks")
    settings = {"benchmark": benchmark.name, "source": benchmark.source, "protocol": benchmark.protocol}
    return Scores({**settings, "masks": str(masks)}, tuple(sequences), benchmark.seen), skipped


def _score(video: Video, protocol: str, folder: Path) -> SequenceScores:
    tallies = {name: Tally(video, protocol) for name in ("masks", COPY_FIRST, ALL_BACKGROUND)}
    copied = dict(_frames(copy_first(video), tallies["masks"].frames))
    for t in sorted(tallies["masks"].frames):
        truth = video.annotated_mask(t)
        labels = _read(folder / f"{video.frame_names[t]}.png", video, truth.shape)
        for name, predicted in (
            ("masks", labels),
            (COPY_FIRST, copied[t]),
            (ALL_BACKGROUND, np.zeros_like(truth)),
        ):
            tallies[name].add(t, predicted, truth)
    objects = {name: tally.objects() for name, tally in tallies.items()}
    return SequenceScores(video.name, len(video), 0, 0.0, 0, objects.pop("masks"), objects)


def _frames(predictions: Iterator[Prediction], frames: set[int]) -> Iterator[Prediction]:
    return ((t, labels) for t, labels in predictions if t in frames)


def _read(path: Path, video: Video, shape: tuple[int, ...]) -> np.ndarray:
    labels = read_mask(path)
    if labels.shape != shape:
        raise ValueError(
            f"{path}: must have the frame's size {shape[1]}x{shape[0]}; "
            f"got {labels.shape[1]}x{labels.shape[0]} (width x height)"
        )
    ids = list(video.first_frames)
    if len(ids) == 1 and set(np.unique(labels)) == {0, VOID}:
        labels = np.where(labels == VOID, ids[0], 0).astype(labels.dtype)
    return labels


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """Yield the folder that holds the masks; a zip is extracted into a temporary one."""
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such folder or zip")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: must be a folder or a zip of masks; got another file") from error
    with archive, tempfile.TemporaryDirectory() as folder:
        for name in archive.namelist():
            parts = PurePosixPath(name).parts
            is_hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
            if name.lower().endswith(".png") and not is_hidden:
                archive.extract(name, folder)  # zipfile removes absolute and parent parts
        yield Path(folder)


def _videos_folder(root: Path, videos: Sequence[Video], given: Path) -> Path:
    """Return the folder that holds the videos' folders: the root, or one up to `DEPTH` levels below."""
    names = {video.name for video in videos}
    level = [root]
    for _ in range(DEPTH + 1):
        for folder in level:
            if any((folder / name).is_dir() for name in names):
                return folder
        level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
    raise FileNotFoundError(f"{given}: holds no folder of a video, such as {min(names)}/")
