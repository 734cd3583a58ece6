"""Lists of videos and metadata that data sets come with."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from stm.data.image_io import FRAME_SUFFIXES

T = TypeVar("T")


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark, as PowerShell writes it.

    Raises:
        ValueError: the file has another encoding.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        return content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be a text file in UTF-8 ({error.reason} at {error.start})") from error


def video_names(path: Path) -> list[str]:
    """Read a list with one video per line, or one frame's paths per line as in the DAVIS 2016 archive.

    Raises:
        ValueError: the list is empty, or not a text file.
    """
    names = []
    for line in read_text(path).split("\n"):
        if line.strip():
            first = Path(line.split()[0])  # such as /JPEGImages/480p/bear/00000.jpg
            names.append(first.parent.name if first.suffix.lower() in FRAME_SUFFIXES else line.strip())
    if not names:
        raise ValueError(f"{path}: the list is empty")
    return list(dict.fromkeys(names))


def read_meta(path: Path) -> dict:
    """Read the videos of a meta.json: name -> `objects` -> id -> `category` and `frames`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not have the official form.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; YouTube-VOS keeps it beside JPEGImages")
    try:
        videos = json.loads(read_text(path))["videos"]
        for name, video in videos.items():
            for label, o in video["objects"].items():
                has_names = o["frames"] and all(isinstance(frame, str) for frame in o["frames"])
                if not 1 <= int(label) < 65_535 or not has_names:
                    raise ValueError(f"object {label} of {name}")
                o.setdefault("category", "")  # the test sets hide it
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        form = "videos.<video>.objects.<id 1..65534>.{category,frames}"
        raise ValueError(f"{path}: must have {form}; got {error!r}") from error
    return videos


def parse_object_id(label: Any) -> int:
    """Return an object's id as a number.

    Raises:
        ValueError: it is not in 1..65534.
    """
    if not 1 <= int(label) < 65_535:
        raise ValueError(f"object {label}")
    return int(label)


def read_videos_json(path: Path, form: str, parse: Callable[[Any], T]) -> dict[str, T]:
    """Read the videos of a meta file.

    Args:
        path: a JSON file with `videos`, by name.
        form: what `parse` reads of a video, for the error.
        parse: returns what a video's entry says.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not have the official form.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    name = ""
    try:
        result = {}
        for name, video in json.loads(read_text(path))["videos"].items():
            result[name] = parse(video)
        return result
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        place = f" of {name}" if name else ""
        raise ValueError(f"{path}: must have videos.<video>.{form}; got {error!r}{place}") from error
