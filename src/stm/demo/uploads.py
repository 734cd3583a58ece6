"""What visitors give: films, pictures, masks. Nothing of it is trusted, least of all its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from PIL import Image

from stm.data.file_inspection import read_image_file, read_mask_prompt
from stm.data.image_io import frame_size, natural
from stm.data.synthetic.dataset import synthetic_videos
from stm.data.video_files import VideoFile
from stm.inference.resize import resize_frame, resize_mask, resized_shape, shrunk_shape
from stm.masks import object_ids

OBJECTS = 6
"""Objects of a session: as many colors are told apart on any frame."""
LONGEST = 4
"""Frames, shrunk, may have as many pixels as such with this aspect ratio."""
_PICTURES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png"}
_FILMS = re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL)
# others, such as playlists, would have the decoder open what they name: files and addresses


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for.

    Args:
        upload_mb: of one upload, all its files together.
        frames: further ones of a film are left out.
        pixels: of a frame or mask as it is given.
        size: short side, in pixels, that larger frames are shrunk to.
        sessions: at a time.
    """

    upload_mb: int = 200
    frames: int = 300
    pixels: int = 4096 * 2304
    size: int = 480
    sessions: int = 32


@dataclass(frozen=True)
class DemoVideo:
    """The frames of a session.

    Attributes:
        title: what it is, in words.
        frames: uint8 (T, H, W, 3), on disk.
        fps: frames a second.
        given: (H, W) of the frames before they were shrunk.
        truth: of a procedural video, its masks, uint8 (T, H, W).
        left_out: frames beyond the limit.
    """

    title: str
    frames: np.ndarray
    fps: float
    given: tuple[int, int]
    truth: np.ndarray | None = None
    left_out: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.frames.shape[1], self.frames.shape[2]


def procedural(number: int, folder: Path) -> DemoVideo:
    """A procedural video: objects that leave and return, that just move, that have a double, in turns."""
    kind = ("event", "plain", "distractor")[number % 3]
    video = synthetic_videos(number // 3 + 4, 0, "test", kind, (96, 160))[-1]  # the first few show less
    frames = _stored((video.frame(t) for t in range(len(video))), len(video), folder)
    truth = np.stack([video.mask(t) for t in range(len(video))])
    return DemoVideo(f"Procedural video {number + 1}", frames, 12, video.size, truth)


def uploaded(files: Sequence[Path], folder: Path, limits: Limits) -> DemoVideo:
    """The frames of one film, or of several pictures in natural order of their names.

    Args:
        files: as they were uploaded; they are read alone.
        folder: the session's own.

    Raises:
        ValueError: they are too large, too many, broken, of several sizes, or neither a film nor pictures.
    """
    if not files:
        raise ValueError("no file is given")
    total = sum(path.stat().st_size for path in files)
    if total > limits.upload_mb * 2**20:
        raise ValueError(f"{total / 2**20:.0f} MB are too much: at most {limits.upload_mb} MB")
    ordered = sorted(files, key=lambda path: natural(path.name))
    kinds = [_kind(path) for path in ordered]
    try:
        if kinds == ["film"]:
            return _film(ordered[0], folder, limits)
        if "film" in kinds:
            raise ValueError("give one film, or several pictures, not both")
        return _pictures(ordered, kinds, folder, limits)
    except (ValueError, OSError) as error:
        raise ValueError(_unplaced(error, files)) from error


def uploaded_mask(file: Path, footage: DemoVideo) -> np.ndarray:
    """A mask of a frame as the session has it or as it was given: uint8 (H, W) with object ids.

    Raises:
        ValueError: it is no index mask, of another size or shows no object, or too many.
    """
    if _kind(file) != ".png":
        raise ValueError(f"{file.name}: a mask is a palette or gray PNG")
    try:
        own = _size(file)
        mask = read_mask_prompt(file, footage.size if own == footage.size else footage.given, "the frame")
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(_unplaced(error, [file])) from error
    if mask.shape != footage.size:
        mask = resize_mask(mask, shrunk_shape(mask, min(footage.size)))
    if len(object_ids(mask)) > OBJECTS:
        raise ValueError(f"{file.name}: shows {len(object_ids(mask))} objects, at most {OBJECTS} here")
    return mask


def _kind(path: Path) -> str:
    """`film`, `.jpg` or `.png`, by the content.

    Raises:
        ValueError: it is something else.
    """
    with path.open("rb") as file:
        begin = file.read(16)
    if _FILMS.match(begin):
        return "film"
    for magic, suffix in _PICTURES.items():
        if begin.startswith(magic):
            return suffix
    raise ValueError(f"{path.name}: neither a film (mp4, mov, webm, avi) nor a JPEG or PNG picture")


def _film(file: Path, folder: Path, limits: Limits) -> DemoVideo:
    try:
        with av.open(str(file)) as container:  # the header alone: a frame could take all memory
            for stream in container.streams.video:
                _plausible(stream.height, stream.width, limits)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{file}: no film that can be read") from error
    film = VideoFile(file)
    count = min(len(film), limits.frames)
    frames = _stored((_shrunk(frame, limits.size) for frame in film.read()), count, folder)
    fps = min(max(film.fps or 24, 1), 60)
    return DemoVideo(file.name, frames, fps, film.size, left_out=len(film) - count)


def _pictures(files: Sequence[Path], kinds: Sequence[str], folder: Path, limits: Limits) -> DemoVideo:
    chosen = files[: limits.frames]
    sizes = [_size(file) for file in chosen]
    for size in sizes:
        _plausible(*size, limits)
    frames = _stored((_shrunk(read_image_file(file), limits.size) for file in chosen), len(chosen), folder)
    return DemoVideo(f"{len(files)} pictures", frames, 12, sizes[0], left_out=len(files) - len(chosen))


def _size(file: Path) -> tuple[int, int]:
    try:
        return frame_size(file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{file}: its header asks for too many pixels") from error


def _plausible(height: int, width: int, limits: Limits) -> None:
    if not 0 < height * width <= limits.pixels:
        raise ValueError(f"frames of {width}x{height} are too large: at most {limits.pixels} pixels")
    if min(height, width) < 16:
        raise ValueError(f"frames of {width}x{height} are too small: at least 16x16")
    rows, columns = resized_shape((height, width), min(limits.size, height, width))
    if rows * columns > LONGEST * limits.size**2:  # its short side alone would not bound what is computed
        raise ValueError(f"frames of {width}x{height} are too long and narrow")


def _stored(frames: Iterable[np.ndarray], count: int, folder: Path) -> np.ndarray:
    """Frames as an array on disk, (T, H, W, 3): eight visitors' films would fill the memory."""
    coming: Iterator[np.ndarray] = iter(frames)
    first = next(coming)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *first.shape)}
    path, done = folder / "frames.npy", 0
    with path.open("wb") as file:  # not mapped yet: a disk that fills up would end the program
        np.lib.format.write_array_header_1_0(file, header)
        for t, frame in enumerate(islice(chain([first], coming), count)):
            if frame.shape != first.shape:
                raise ValueError(f"frame {t} is of another size than the first")
            file.write(np.ascontiguousarray(frame).data)
            done = t + 1
    if done < count:
        raise ValueError(f"the film ends after {done} of {count} frames")
    return np.load(path, mmap_mode="r+")


def _unplaced(error: Exception, files: Sequence[Path]) -> str:
    """An error's message without the folders of this machine."""
    message = getattr(error, "strerror", None) or str(error)
    for file in files:
        message = message.replace(str(file), file.name)
    return message


def _shrunk(frame: np.ndarray, size: int) -> np.ndarray:
    return resize_frame(frame, shrunk_shape(frame, size))
