"""Video files and folders of images, read frame by frame."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from stm.data.file_inspection import read_image_file
from stm.data.image_io import list_images, read_frame, sample_bytes


class Frames:
    """The frames of a folder, in natural order of their names.

    Args:
        path: the folder.

    Attributes:
        names: names of the frames; numbers for a video file.
        size: height and width in pixels.
        fps: frames per second; None if unknown.
        missing: what is missing at the end of a video file that was cut short; empty otherwise.

    Raises:
        FileNotFoundError: the folder does not exist or holds no image.
        ValueError: the first frame is not a valid image.
    """

    fps: float | None = None
    missing = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names, self._suffix = list_images(path)
        height, width = read_image_file(self._file(0)).shape[:2]
        self.size = height, width

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """Return a short hash of the frames' files: their names, sizes, and samples of their bytes."""
        digest = hashlib.sha256()
        for t, name in enumerate(self.names):
            digest.update(f"{name} ".encode() + sample_bytes(self._file(t)))
        return digest.hexdigest()[:16]

    def _file(self, t: int) -> Path:
        return self.path / f"{self.names[t]}{self._suffix}"

    def read(self, start: int = 0) -> Iterator[np.ndarray]:
        """Iterate over the frames from index `start` on, uint8 (H, W, 3), RGB.

        Raises:
            ValueError: a frame is broken, or its size differs from the first frame's.
        """
        for t in range(start, len(self)):
            frame = read_frame(self._file(t))  # uninspected: to decode twice is as slow as a network on a GPU
            _check_size(frame, self.size, self._file(t))
            yield frame


class VideoFile(Frames):
    """The frames of a video file, rotated as its metadata specifies.

    Args:
        path: the file.

    Raises:
        ValueError: the file is not a video, or it is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise ValueError(f"{path}: must have a video stream; got none")
                stream = container.streams.video[0]
                self.fps = float(stream.average_rate) if stream.average_rate else None
                packets = [packet for packet in container.demux(stream) if packet.size > 0]
                self.missing = _missing(container, packets)
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{path}: not a readable video ({_reason(error)})") from error
        # a trimmed video still holds the packets before its start, marked as discarded
        count = sum(not packet.is_discard for packet in packets)
        self.names = [f"{t:05d}" for t in range(count)]
        first = next(self._decode(), None)
        if first is None:
            raise ValueError(f"{path}: the video has no frames")
        height, width = first.shape[:2]
        self.size = height, width

    def fingerprint(self) -> str:
        """Return a short hash of the file's size and of samples of its bytes."""
        return sample_bytes(self.path, count=64).hex()

    def read(self, start: int = 0) -> Iterator[np.ndarray]:
        """Iterate over the frames from index `start` on, uint8 (H, W, 3), RGB.

        Earlier frames are decoded as well, since later ones may depend on them.

        Raises:
            ValueError: a frame cannot be decoded, or its size differs from the first frame's.
        """
        for t, frame in enumerate(self._decode(start), start):
            _check_size(frame, self.size, f"{self.path}, frame {t}")
            yield frame

    def _decode(self, start: int = 0) -> Iterator[np.ndarray]:
        t = 0
        try:
            with av.open(str(self.path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                for frame in container.decode(video=0):
                    if start <= t < len(self.names):
                        image = frame.to_ndarray(format="rgb24")
                        yield np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
                    t += 1
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{self.path}: frame {t} cannot be decoded ({_reason(error)})") from error
        if t < len(self.names):
            raise ValueError(f"{self.path}: only {t} of {len(self.names)} frames can be decoded")


def open_frames(path: Path) -> Frames:
    """Open a video file or a folder of images.

    Raises:
        FileNotFoundError: the path does not exist, or the folder holds no image.
        ValueError: the video or its first frame cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such video file or folder")
    return Frames(path) if path.is_dir() else VideoFile(path)


def _missing(container: InputContainer, packets: list[av.Packet]) -> str:
    """Return what a cut file lacks, from the frames or the duration that its header declares."""
    stream = container.streams.video[0]
    if stream.frames > len(packets):
        return f"{stream.frames - len(packets)} of {stream.frames} frames"
    times = sorted(float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None)
    if stream.frames or not times or container.duration is None or container.streams.audio:
        return ""  # the duration of a file may be that of its sound
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    longest = max([*gaps, 1 / float(stream.average_rate or 1)])
    declared = (container.duration + max(0, container.start_time or 0)) / av.time_base
    if declared - times[-1] > 2.5 * longest:  # the last frame itself takes one
        return f"{declared - times[-1] - longest:.2f} of {declared:.2f} seconds"
    return ""


def _check_size(frame: np.ndarray, size: tuple[int, int], path: object) -> None:
    if frame.shape[:2] != size:
        raise ValueError(
            f"{path}: frames must have the size of the first, {size[1]}x{size[0]} (width x height); "
            f"got {frame.shape[1]}x{frame.shape[0]}"
        )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
