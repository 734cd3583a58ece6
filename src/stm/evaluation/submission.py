"""A zip of predicted masks, as the servers of DAVIS, MOSE and YouTube-VOS take it."""

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
    "youtube": "Annotations/{video}/{frame}.png",
}
"""Where a mask stands in the zip: DAVIS and MOSE want sequences at the root, YouTube-VOS in a folder."""

_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def write_submission(
    masks: str | Path, videos: Sequence[Video], destination: str | Path, layout: str
) -> Path:
    """Zip the masks of an evaluation for a server, after checking them; equal masks give equal bytes.

    Args:
        masks: folder with `<video>/<frame>.png`, such as `masks` of an evaluation's output.
        videos: what the server wants: the `written` frames of each.
        destination: the zip to write; it appears whole or not at all.
        layout: `davis`, `mose` or `youtube`.

    Raises:
        ValueError: the layout is unknown, or masks are missing or wrong; each violation is named.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; allowed: {', '.join(LAYOUTS)}")
    masks, destination = Path(masks), Path(destination)
    violations = [violation for video in videos for violation in check_masks(masks, video)]
    if violations:
        shown = "\n  ".join(violations[:20])
        more = f"\n  and {len(violations) - 20} more" if len(violations) > 20 else ""
        raise ValueError(f"{masks}: {len(violations)} violations of what the server takes:\n  {shown}{more}")
    with atomic_path(destination) as beside, zipfile.ZipFile(beside, "w") as archive:
        for video in sorted(videos, key=lambda video: video.name):
            for t in video.output_frames:
                frame = video.frame_names[t]
                entry = zipfile.ZipInfo(LAYOUTS[layout].format(video=video.name, frame=frame), _LONG_AGO)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, (masks / video.name / f"{frame}.png").read_bytes())
    return destination


def check_masks(masks: Path, video: Video) -> list[str]:
    """What is wrong with one video's masks? A line each: missing, no palette, other size, unknown ids."""
    violations: list[str] = []
    size = video.frame(0).shape[:2]
    for t in video.output_frames:
        path = masks / video.name / f"{video.frame_names[t]}.png"
        if not path.exists():
            violations.append(f"{path}: missing")
            continue
        with path.open("rb") as file:
            violations += [f"{path}: {wrong}" for wrong in _wrong(file, video, size)]
    return violations


def check_submission(archive: str | Path, videos: Sequence[Video], layout: str) -> list[str]:
    """What would a server find wrong with a zip, ours or another's? A line for each violation.

    Folders and frames must be those asked for and no others; each mask is checked as in `check_masks`.

    Args:
        archive: the zip; or a folder to be zipped, such as `masks` of an evaluation's output.
        videos: what the server wants: the `written` frames of each.
        layout: `davis`, `mose` or `youtube`.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is no zip.
    """
    archive = Path(archive)
    if not archive.exists():
        raise FileNotFoundError(f"{archive}: there is no such zip or folder")
    if archive.is_dir():
        top = Path(LAYOUTS[layout]).parts[0] + "/" if layout == "youtube" else ""
        top = "" if (archive / top).is_dir() else top  # ours have none until they are zipped
        files = [path for path in sorted(archive.rglob("*")) if path.is_file()]
        return _violations(
            {top + path.relative_to(archive).as_posix(): _opener(path) for path in files}, videos, layout
        )
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if not name.endswith("/")]
            twice = [f"{name}: stands there {n} times" for name, n in Counter(names).items() if n > 1]
            return twice + _violations({name: partial(opened.open, name) for name in names}, videos, layout)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: no zip that can be read ({error})") from error


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def _violations(
    there: Mapping[str, Callable[[], IO[bytes]]], videos: Sequence[Video], layout: str
) -> list[str]:
    """What is wrong with files, each told by its name and what opens it."""
    violations, known = [], set()
    for video in videos:
        size = video.frame(0).shape[:2]
        for t in video.output_frames:
            name = LAYOUTS[layout].format(video=video.name, frame=video.frame_names[t])
            known.add(name)
            if name not in there:
                violations.append(f"{name}: missing")
                continue
            try:
                with there[name]() as file:
                    violations += [f"{name}: {wrong}" for wrong in _wrong(file, video, size)]
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # of one file in a zip
                violations.append(f"{name}: cannot be unpacked ({error})")
    return violations + [f"{name}: nobody asked for it" for name in sorted(there.keys() - known)]


def _wrong(file: IO[bytes], video: Video, size: tuple[int, ...]) -> list[str]:
    """What a server takes exception to in one mask."""
    try:
        with Image.open(file) as image:
            if image.mode != "P":
                return [f"mode {image.mode}, a palette PNG (P) is wanted"]
            labels = np.asarray(image)
    except UnidentifiedImageError:
        return ["no picture"]
    except Image.DecompressionBombError:
        return ["its header asks for too many pixels"]
    except (OSError, SyntaxError) as error:  # how Pillow tells of a PNG that is cut short or damaged
        return [f"broken ({error})"]
    wrong = [] if labels.shape == size else [f"size {labels.shape}, the frame has {size}"]
    unknown = sorted(set(np.unique(labels).tolist()) - {0, *video.first_frames})
    return [*wrong, f"ids {unknown}, the video has {sorted(video.first_frames)}"] if unknown else wrong
