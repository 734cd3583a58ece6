"""Zip files of predicted masks for the servers of DAVIS, MOSE, LVOS and YouTube-VOS."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from stm.atomic_io import atomic_path
from stm.video import Video

LAYOUTS = {
    "davis": "{video}/{frame}.png",
    "mose": "{video}/{frame}.png",
    "lvos": "Annotations/{video}/{frame}.png",
    "youtube": "Annotations/{video}/{frame}.png",
}
"""Path of a mask in the zip: DAVIS and MOSE expect sequences at the root, the others in a folder."""

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time, so that equal masks give equal bytes


def write_submission(
    masks: str | Path, videos: Sequence[Video], destination: str | Path, layout: str
) -> Path:
    """Check the masks of an evaluation and zip them for a server; equal masks give equal bytes.

    Args:
        masks: folder with `<video>/<frame>.png`, such as `masks` of an evaluation's output.
        videos: the videos that the server expects, with their `output_frames`.
        destination: the zip to write, atomically.
        layout: `davis`, `mose`, `lvos` or `youtube`.

    Raises:
        ValueError: the layout is unknown, or masks are missing or invalid; the error lists the violations.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout}: must be one of {', '.join(LAYOUTS)}")
    masks, destination = Path(masks), Path(destination)
    violations = [violation for video in videos for violation in check_masks(masks, video)]
    if violations:
        shown = "\n  ".join(violations[:20])
        more = f"\n  and {len(violations) - 20} more" if len(violations) > 20 else ""
        raise ValueError(
            f"{masks}: the server would reject these masks, {len(violations)} violations:\n  {shown}{more}"
        )
    with atomic_path(destination) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for video in sorted(videos, key=lambda video: video.name):
            for t in video.output_frames:
                frame = video.frame_names[t]
                entry = zipfile.ZipInfo(LAYOUTS[layout].format(video=video.name, frame=frame), _ZIP_EPOCH)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, (masks / video.name / f"{frame}.png").read_bytes())
    return destination


def check_masks(masks: Path, video: Video) -> list[str]:
    """Return the violations of one video's masks: missing files, no palette, wrong size or unknown ids."""
    violations: list[str] = []
    size = video.frame(0).shape[:2]
    for t in video.output_frames:
        path = masks / video.name / f"{video.frame_names[t]}.png"
        if not path.exists():
            violations.append(f"{path}: missing")
            continue
        with path.open("rb") as file:
            violations += [f"{path}: {violation}" for violation in _mask_violations(file, video, size)]
    return violations


def check_submission(archive: str | Path, videos: Sequence[Video], layout: str) -> list[str]:
    """Return the violations for which a server would reject a zip.

    The zip must have exactly the expected folders and frames; each mask is checked as in `check_masks`.

    Args:
        archive: a zip, or a folder to be zipped, such as `masks` of an evaluation's output.
        videos: the videos that the server expects, with their `output_frames`.
        layout: `davis`, `mose`, `lvos` or `youtube`.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        ValueError: the file is not a zip.
    """
    archive = Path(archive)
    if not archive.exists():
        raise FileNotFoundError(f"{archive}: no such zip or folder")
    if archive.is_dir():
        top = LAYOUTS[layout].partition("{")[0]
        top = "" if (archive / top).is_dir() else top  # an evaluation's masks get it in the zip
        files = [path for path in sorted(archive.rglob("*")) if path.is_file()]
        return _violations(
            {top + path.relative_to(archive).as_posix(): _opener(path) for path in files}, videos, layout
        )
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if not name.endswith("/")]
            repeated = [f"{name}: {n} files of this name" for name, n in Counter(names).items() if n > 1]
            return repeated + _violations(
                {name: partial(opened.open, name) for name in names}, videos, layout
            )
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: must be a readable zip ({error})") from error


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def _violations(
    files: Mapping[str, Callable[[], IO[bytes]]], videos: Sequence[Video], layout: str
) -> list[str]:
    """Return the violations of files, given as name -> function that opens it."""
    violations, expected = [], set()
    for video in videos:
        size = video.frame(0).shape[:2]
        for t in video.output_frames:
            name = LAYOUTS[layout].format(video=video.name, frame=video.frame_names[t])
            expected.add(name)
            if name not in files:
                violations.append(f"{name}: missing")
                continue
            try:
                with files[name]() as file:
                    violations += [
                        f"{name}: {violation}" for violation in _mask_violations(file, video, size)
                    ]
            except (
                zipfile.BadZipFile,
                zlib.error,
                EOFError,
                RuntimeError,
            ) as error:  # a damaged file in a zip
                violations.append(f"{name}: cannot be unpacked ({error})")
    return violations + [f"{name}: unexpected file" for name in sorted(files.keys() - expected)]


def _mask_violations(file: IO[bytes], video: Video, size: tuple[int, ...]) -> list[str]:
    """Return the violations of one mask."""
    try:
        with Image.open(file) as image:
            mode = "I;16" if max(video.first_frames, default=0) > 254 else "P"
            if image.mode not in (mode, "P"):
                return [f"must be a palette PNG (mode P); got mode {image.mode}"]
            labels = np.asarray(image)
    except UnidentifiedImageError:
        return ["must be a PNG; not an image"]
    except Image.DecompressionBombError:
        return ["its header declares too many pixels"]
    except (OSError, SyntaxError) as error:  # Pillow raises these for a truncated or damaged PNG
        return [f"damaged ({error})"]
    violations = [] if labels.shape == size else [f"must have the frame's size {size}; got {labels.shape}"]
    known = {*video.first_frames, *video.scored_objects}
    unknown = sorted(set(np.unique(labels).tolist()) - {0, *known})
    if unknown:
        violations.append(f"must have ids of {sorted(known)}; got {unknown}")
    return violations
