"""Films and folders of pictures, read one frame after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from stm.data.file_inspection import read_image_file
from stm.data.image_io import list_images, read_frame


class Frames:
    """The frames of a folder, in natural order of their names.

    Attributes:
        names: of the frames; those of a film are numbers.
        size: height and width.
        fps: frames a second; None where nothing tells.

    Raises:
        FileNotFoundError: there is no such folder, or no picture in it.
        ValueError: the first frame is no picture.
    """

    fps: float | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names, self._suffix = list_images(path)
        height, width = read_image_file(self._file(0)).shape[:2]
        self.size = height, width

    def __len__(self) -> int:
        return len(self.names)

    def _file(self, t: int) -> Path:
        return self.path / f"{self.names[t]}{self._suffix}"

    def read(self, start: int = 0) -> Iterator[np.ndarray]:
        """The frames from one on, uint8 (H, W, 3).

        Raises:
            ValueError: one is broken, or of another size than the first.
        """
        for t in range(start, len(self)):
            frame = read_frame(self._file(t))  # once: a second look takes as long as a network on a GPU
            _same_size(frame, self.size, self._file(t))
            yield frame


class VideoFile(Frames):
    """The frames of a film, as a player shows them: turned where the film says so.

    Raises:
        ValueError: it is no film, or a broken one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise ValueError(f"{path}: there is no video in it")
                stream = container.streams.video[0]
                self.fps = float(stream.average_rate) if stream.average_rate else None
                # of a film that was trimmed, those before its beginning are there, and are not shown
                count = sum(packet.size > 0 and not packet.is_discard for packet in container.demux(stream))
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{path}: no film that can be read ({_told(error)})") from error
        self.names = [f"{t:05d}" for t in range(count)]
        first = next(self._decoded(), None)
        if first is None:
            raise ValueError(f"{path}: there is no frame in it")
        height, width = first.shape[:2]
        self.size = height, width

    def read(self, start: int = 0) -> Iterator[np.ndarray]:
        """The frames from one on, uint8 (H, W, 3); those before are decoded, too, as frames hang on others.

        Raises:
            ValueError: the film is broken from some frame on.
        """
        for frame in self._decoded(start):
            _same_size(frame, self.size, self.path)
            yield frame

    def _decoded(self, start: int = 0) -> Iterator[np.ndarray]:
        t = 0
        try:
            with av.open(str(self.path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                for frame in container.decode(video=0):
                    if start <= t < len(self.names):
                        picture = frame.to_ndarray(format="rgb24")
                        yield np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
                    t += 1
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{self.path}: frame {t} cannot be decoded ({_told(error)})") from error


def open_frames(path: Path) -> Frames:
    """A film or a folder of pictures.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it can't be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such film or folder")
    return Frames(path) if path.is_dir() else VideoFile(path)


def _same_size(frame: np.ndarray, size: tuple[int, int], where: object) -> None:
    if frame.shape[:2] != size:
        raise ValueError(
            f"{where}: a frame of {frame.shape[1]}x{frame.shape[0]}, the first is {size[1]}x{size[0]} "
            "(width x height)"
        )


def _told(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
