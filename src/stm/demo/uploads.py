"""Uploaded videos, images and masks. Neither their content nor their names are trusted."""

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
from stm.data.synthetic.dataset import SyntheticVideo, synthetic_videos
from stm.data.video_files import VideoFile
from stm.demo.clip import libby
from stm.inference.resize import resize_frame, resize_mask, resized_shape, shrunk_shape
from stm.masks import object_ids
from stm.video import ArrayVideo

MAX_OBJECTS = 6
"""Objects of a session: as many colors can be distinguished on any frame."""
MAX_ASPECT_RATIO = 4
"""Resized frames may have at most as many pixels as a frame with this aspect ratio."""
_IMAGES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png"}
# Other containers, such as playlists, would let the decoder open arbitrary files and addresses.
_VIDEOS = re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL)


@dataclass(frozen=True)
class Limits:
    """Limits of a session.

    Attributes:
        upload_mb: Megabytes of one upload, all its files together.
        max_frames: Frames of a video; further ones are dropped.
        max_pixels: Pixels of a frame or mask as it is uploaded.
        size: Short side in pixels that larger frames are resized to.
        max_sessions: Number of sessions at a time.
    """

    upload_mb: int = 200
    max_frames: int = 300
    max_pixels: int = 4096 * 2304
    size: int = 480
    max_sessions: int = 32


@dataclass(frozen=True)
class DemoVideo:
    """The video of a session.

    Attributes:
        title: Title for the page.
        frames: uint8 (T, H, W, 3), memory-mapped from disk.
        fps: Frames per second.
        original_size: Height and width of the frames before resizing.
        true_masks: Masks of an example, uint8 (T, H, W).
        num_dropped: Number of frames beyond the limit.
    """

    title: str
    frames: np.ndarray
    fps: float
    original_size: tuple[int, int]
    true_masks: np.ndarray | None = None
    num_dropped: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.frames.shape[1], self.frames.shape[2]


def example_video(index: int, folder: Path) -> DemoVideo:
    """Return an example with its true masks: first a real clip, then procedural videos.

    In the procedural videos, in turn, objects leave and return, just move, or have a look-alike.
    """
    video: ArrayVideo | SyntheticVideo
    if index == 0:
        title, video = "Clip libby of DAVIS", libby()
    else:
        title, kind = f"Procedural video {index}", ("event", "plain", "distractor")[(index - 1) % 3]
        count = (index - 1) // 3 + 4  # the first few are less varied
        video = synthetic_videos(count, 0, "test", kind, (96, 160))[-1]
    frames = _store_frames((video.frame(t) for t in range(len(video))), len(video), folder)
    true_masks = np.stack([video.mask(t) for t in range(len(video))])
    return DemoVideo(title, frames, 12, frames.shape[1:3], true_masks)


def read_upload(files: Sequence[Path], folder: Path, limits: Limits) -> DemoVideo:
    """Read one video file, or several images in natural order of their names.

    Args:
        files: Uploaded files, which are not modified.
        folder: Folder of the session for the frames.
        limits: Limits of the session.

    Raises:
        ValueError: The files are too large, broken, of several sizes, or neither a video nor images.
    """
    if not files:
        raise ValueError("no file was uploaded")
    total = sum(path.stat().st_size for path in files)
    if total > limits.upload_mb * 2**20:
        raise ValueError(f"the upload must have at most {limits.upload_mb} MB; got {total / 2**20:.0f} MB")
    ordered = sorted(files, key=lambda path: natural(path.name))
    kinds = [_detect_kind(path) for path in ordered]
    try:
        if kinds == ["video"]:
            return _read_video(ordered[0], folder, limits)
        if "video" in kinds:
            raise ValueError("the upload must be one video or several images, not both")
        return _read_images(ordered, folder, limits)
    except (ValueError, OSError) as error:
        raise ValueError(_message_without_folders(error, files)) from error


def read_uploaded_mask(file: Path, video: DemoVideo) -> np.ndarray:
    """Read a mask at the resized or the original size of a video's frames, (H, W) with object ids.

    Raises:
        ValueError: The file is not an index mask, has another size, or shows no or too many objects.
    """
    if _detect_kind(file) != ".png":
        raise ValueError(f"{file.name}: a mask must be a palette or gray PNG")
    try:
        size = video.size if _read_size(file) == video.size else video.original_size
        mask = read_mask_prompt(file, size, "the frame")
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(_message_without_folders(error, [file])) from error
    if mask.shape != video.size:
        mask = resize_mask(mask, shrunk_shape(mask, min(video.size)))
    num_objects = len(object_ids(mask))
    if num_objects > MAX_OBJECTS:
        raise ValueError(f"{file.name}: the mask must show at most {MAX_OBJECTS} objects; got {num_objects}")
    return mask


def _detect_kind(path: Path) -> str:
    """Return `video`, `.jpg` or `.png` by the content of a file.

    Raises:
        ValueError: The content is something else.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if _VIDEOS.match(start):
        return "video"
    for magic, suffix in _IMAGES.items():
        if start.startswith(magic):
            return suffix
    raise ValueError(f"{path.name}: must be a video (mp4, mov, webm, avi) or a JPEG or PNG image")


def _read_video(file: Path, folder: Path, limits: Limits) -> DemoVideo:
    try:
        # Only the header is read here, because decoding a huge frame could exhaust the memory.
        with av.open(str(file)) as container:
            for stream in container.streams.video:
                _validate_size(stream.height, stream.width, limits)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{file}: the video cannot be read") from error
    video = VideoFile(file)
    frames = _store_frames((_shrink(frame, limits.size) for frame in video.read()), limits.max_frames, folder)
    fps = min(max(video.fps or 24, 1), 60)
    return DemoVideo(file.name, frames, fps, video.size, num_dropped=len(video) - len(frames))


def _read_images(files: Sequence[Path], folder: Path, limits: Limits) -> DemoVideo:
    kept = files[: limits.max_frames]
    sizes = [_read_size(file) for file in kept]
    for size in sizes:
        _validate_size(*size, limits)
    frames = _store_frames((_shrink(read_image_file(file), limits.size) for file in kept), len(kept), folder)
    return DemoVideo(f"{len(files)} images", frames, 12, sizes[0], num_dropped=len(files) - len(kept))


def _read_size(file: Path) -> tuple[int, int]:
    try:
        return frame_size(file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{file}: the header declares too many pixels") from error


def _validate_size(height: int, width: int, limits: Limits) -> None:
    size = f"{width}x{height}"
    if not 0 < height * width <= limits.max_pixels:
        raise ValueError(f"frames of {size} are too large: at most {limits.max_pixels} pixels are allowed")
    if min(height, width) < 16:
        raise ValueError(f"frames of {size} are too small: at least 16x16 pixels are required")
    rows, columns = resized_shape((height, width), min(limits.size, height, width))
    if rows * columns > MAX_ASPECT_RATIO * limits.size**2:  # the short side alone does not bound the work
        raise ValueError(f"frames of {size} are too long and narrow")


def _store_frames(frames: Iterable[np.ndarray], limit: int, folder: Path) -> np.ndarray:
    """Store frames on disk, because several sessions would fill the memory; return uint8 (T, H, W, 3)."""
    iterator: Iterator[np.ndarray] = iter(frames)
    first = next(iterator)
    path, num_stored = folder / "frames.raw", 0
    # Written before it is mapped: a full disk raises an error here, but would kill the process in a mapping.
    with path.open("wb") as file:
        for frame in islice(chain([first], iterator), limit):
            if frame.shape != first.shape:
                raise ValueError(f"frame {num_stored} has another size than the first frame")
            file.write(np.ascontiguousarray(frame).data)
            num_stored += 1
    return np.memmap(path, np.uint8, "r+", shape=(num_stored, *first.shape))


def _message_without_folders(error: Exception, files: Sequence[Path]) -> str:
    """Return an error's message without the folders of this machine."""
    message = getattr(error, "strerror", None) or str(error)
    for file in files:
        message = message.replace(str(file), file.name)
    return message


def _shrink(frame: np.ndarray, size: int) -> np.ndarray:
    return resize_frame(frame, shrunk_shape(frame, size))
