"""Scores of masks that were made elsewhere: a folder or zip of index PNGs, `<video>/<frame>.png`."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from stm.data.image_io import list_folders
from stm.evaluation.evaluate import Benchmark
from stm.evaluation.protocols import VideoScorer
from stm.evaluation.scores import (
    ALL_BACKGROUND,
    COPY_FIRST,
    DAVIS_LIKE,
    ObjectScores,
    Scores,
    SequenceScores,
)
from stm.evaluation.tally import FrameLabels, Tally, copy_first
from stm.masks import mask_files, read_mask
from stm.video import Video, void_label

MOSE = ("mose", "mosev2")
DEPTH = 3
"""Folders above the videos' folders, such as Annotations/480p."""


def score_mask_folder(
    benchmark: Benchmark, masks: str | Path, skip_missing: bool = False
) -> tuple[Scores, list[str]]:
    """Score masks by a benchmark's protocol, beside the baselines.

    By DAVIS's protocol and its like, a mask of only 0 and 255 shows the object of a video that has one.

    Args:
        benchmark: videos with ground truth, and protocol.
        masks: a folder or a zip; the videos' folders may lie below others, such as Annotations/480p.
        skip_missing: leave out videos with missing masks instead of raising.

    Returns:
        The scores, and one line for each video that was left out.

    Raises:
        FileNotFoundError: the folder or zip does not exist, or a scored frame has no mask.
        ValueError: a mask cannot be read or has another size than its frame, a mask belongs to no frame or
            object, or nothing can be scored.
    """
    with _opened(Path(masks)) as root:
        folder = _videos_folder(root, benchmark.videos, Path(masks))
        sequences, skipped = [], []
        for video in benchmark.videos:
            tally = Tally(video, benchmark.protocol)
            if not tally.scored:
                hint = "; pass the folder with it as truth" if benchmark.protocol in MOSE else ""
                raise ValueError(f"{benchmark.name}: {video.name} has no ground truth to score{hint}")
            needed = [
                path
                for t in _needed_frames(video, tally)
                for label, path in mask_files(folder / video.name, video, t).items()
                if label is None or t in tally.scored[label]
            ]
            missing = [path.relative_to(folder) for path in needed if not _spelled(path).is_file()]
            if not needed and not (folder / video.name).is_dir():
                missing = [Path(video.name)]
            if missing:
                line = (
                    f"{masks}: {video.name} has no mask of {len(missing)} of the {len(needed)} frames that "
                    f"are scored, the first is {missing[0].as_posix()}"
                )
                if not skip_missing:
                    raise FileNotFoundError(line)
                if benchmark.protocol in MOSE and not (folder / video.name).is_dir():
                    sequences.append(_missing_video(video, tally))
                    line += "; it counts with scores of 0"
                skipped.append(line)
                continue
            if benchmark.protocol not in DAVIS_LIKE:
                _refuse_unexpected(folder / video.name, video)
            sequences.append(_score(video, tally, folder / video.name))
        if benchmark.protocol not in DAVIS_LIKE:
            names = {video.name for video in benchmark.videos}
            others = [path.name for path in list_folders(folder) if path.name not in names]
            if others:
                skipped.append(f"{masks}: {len(others)} folders of other videos, such as {others[0]}")
        if not any(sequence.objects for sequence in sequences):
            raise ValueError(f"{masks}: no video of {benchmark.name} has all its masks")
    settings = {"benchmark": benchmark.name, "source": benchmark.source, "protocol": benchmark.protocol}
    return Scores({**settings, "masks": str(masks)}, tuple(sequences), benchmark.seen), skipped


def _spelled(path: Path) -> Path:
    """Return a mask's path with the suffix in upper case if only that exists."""
    upper = path.with_suffix(path.suffix.upper())
    return upper if upper.is_file() and not path.is_file() else path


def _missing_video(video: Video, tally: Tally) -> SequenceScores:
    """Return the scores of a video without predictions in MOSE's program: 0, and no disappearances."""
    scorer = VideoScorer(tally.protocol, [1], length=0)  # the program scores a video without frames alike
    measures = scorer.protocol.summarize_objects(scorer.scores())
    values = {name: None if np.isnan(value).any() else float(value[0]) for name, value in measures.items()}
    objects = tuple(
        ObjectScores(video.name, label, None, (), (), (), tally.protocol, values) for label in tally.scored
    )
    return SequenceScores(video.name, len(video), 0, 0.0, 0, objects)


def _needed_frames(video: Video, tally: Tally) -> list[int]:
    """Return the frames that must have a mask: those that are scored.

    MOSE's program numbers the files of the predictions, so a missing first one would shift all others.
    """
    return sorted({0, *tally.frames} if tally.frames and tally.protocol in MOSE else tally.frames)


def _refuse_unexpected(folder: Path, video: Video) -> None:
    """Raise ValueError if masks are not named like frames, or of objects that the video does not have.

    Masks of more frames than those known are fine: some data sets come at several frame rates.
    """
    objects = set((video.object_folders or {}).values())
    forms = {re.sub(r"\d", "0", name) for name in video.frame_names}
    for path in sorted(folder.rglob("*.[pP][nN][gG]")):
        below = path.relative_to(folder).parts
        if any(part.startswith(".") for part in below):
            continue
        is_frame = re.sub(r"\d", "0", path.stem) in forms
        if not is_frame or len(below) > 2 or (below[0] not in objects if objects else below[1:]):
            expected = (
                f"{min(objects)}/{video.frame_names[0]}.png" if objects else f"{video.frame_names[0]}.png"
            )
            raise ValueError(f"{path}: unexpected mask; masks must be named like {video.name}/{expected}")


def _score(video: Video, tally: Tally, folder: Path) -> SequenceScores:
    tallies = {
        "masks": tally,
        **{name: Tally(video, tally.protocol) for name in (COPY_FIRST, ALL_BACKGROUND)},
    }
    copied = dict(_frames(copy_first(video), tally.frames))
    for t in sorted(tally.frames):
        truth = video.truth(t)
        shape = truth.shape[-2:]
        files = {label: _spelled(path) for label, path in mask_files(folder, video, t).items()}
        if None in files:
            labels = _read(files[None], video, shape, tally.protocol in DAVIS_LIKE)
        else:
            scored = {label for label, frames in tally.scored.items() if t in frames}
            empty = np.zeros(shape, dtype=np.uint8)
            labels = np.stack(
                [
                    _read(files[label], video, shape, False) if label in scored else empty
                    for label in tally.scored
                ]
            )
        predictions = {"masks": labels, COPY_FIRST: copied[t], ALL_BACKGROUND: np.zeros(shape, np.uint8)}
        for name, prediction_tally in tallies.items():
            prediction_tally.add(t, predictions[name], truth)
    objects = {name: tally.objects() for name, tally in tallies.items()}
    return SequenceScores(video.name, len(video), 0, 0.0, 0, objects.pop("masks"), objects)


def _frames(predictions: Iterator[FrameLabels], frames: set[int]) -> Iterator[FrameLabels]:
    return ((t, labels) for t, labels in predictions if t in frames)


def _read(path: Path, video: Video, shape: tuple[int, ...], allows_binary: bool) -> np.ndarray:
    labels = read_mask(path)
    if labels.shape != shape:
        raise ValueError(
            f"{path}: must have the frame's size {shape[1]}x{shape[0]}; "
            f"got {labels.shape[1]}x{labels.shape[0]} (width x height)"
        )
    ids = list(video.first_frames)
    if allows_binary and len(ids) == 1 and set(np.unique(labels)) == {0, void_label(labels)}:
        labels = np.where(labels > 0, ids[0], 0)
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
        try:
            yield Path(folder)
        except ValueError as error:
            raise ValueError(str(error).replace(folder, str(path))) from error


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
