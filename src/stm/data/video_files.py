"""Video files and folders of images, read frame by frame."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData

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
        missing: what a video file that was cut short or damaged lacks; empty otherwise.

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


class _Packet(NamedTuple):
    """The times of a packet, whose content would fill the memory."""

    pts: int | None
    dts: int | None
    duration: int
    is_discard: bool

    @classmethod
    def of(cls, packet: av.Packet) -> _Packet:
        return cls(packet.pts, packet.dts, packet.duration or 0, packet.is_discard)


class VideoFile(Frames):
    """The frames of a video file, rotated and mirrored as its metadata specifies.

    Frames that cannot be decoded are left out. Where this is not known from the start, `names` and `missing`
    change once all frames have been read.

    Args:
        path: the file.

    Raises:
        ValueError: the file is not a video, or it is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with av.open(_local(path)) as container:
                if not container.streams.video:
                    raise ValueError(f"{path}: must have a video stream; got none")
                stream = container.streams.video[0]
                self.fps = float(stream.average_rate) if stream.average_rate else None
                packets = [_Packet.of(packet) for packet in _packets(container) if packet.size]
                self.missing = _missing(container, packets)
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{path}: not a readable video ({_reason(error)})") from error
        first = next(self._decode(), None)
        if first is None:
            raise ValueError(f"{path}: the video has no frames that can be decoded")
        # a trimmed video may hold packets before its start: marked as discarded, or without their key frame
        count = sum(not packet.is_discard and not _is_before(packet, first) for packet in packets)
        self.names = [f"{t:05d}" for t in range(count)]
        height, width = _upright(first).shape[:2]
        self.size = height, width

    def fingerprint(self) -> str:
        """Return a short hash of the file's size and of samples of its bytes."""
        return sample_bytes(self.path, count=64).hex()

    def read(self, start: int = 0) -> Iterator[np.ndarray]:
        """Iterate over the frames from index `start` on, uint8 (H, W, 3), RGB.

        Earlier frames are decoded as well, since later ones may depend on them.

        Raises:
            ValueError: the file cannot be read, or a frame's size differs from the first frame's.
        """
        t = -1
        for t, frame in enumerate(islice(self._decode(), len(self))):
            if t >= start:
                image = _upright(frame)
                _check_size(image, self.size, f"{self.path}, frame {t}")
                yield image
        if t + 1 < len(self):
            damaged = f"{len(self) - t - 1} of {len(self)} frames cannot be decoded"
            self.missing = f"{self.missing}; {damaged}" if self.missing else damaged
            self.names = self.names[: t + 1]

    def _decode(self) -> Iterator[av.VideoFrame]:
        try:
            with av.open(_local(self.path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                for packet in _packets(container):
                    try:
                        frames = packet.decode()
                    except av.InvalidDataError:
                        continue
                    yield from frames
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{self.path}: cannot be decoded ({_reason(error)})") from error


def open_frames(path: Path) -> Frames:
    """Open a video file or a folder of images.

    Raises:
        FileNotFoundError: the path does not exist, or the folder holds no image.
        ValueError: the video or its first frame cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such video file or folder")
    return Frames(path) if path.is_dir() else VideoFile(path)


def _local(path: Path) -> str:
    """Return an absolute path, since FFmpeg takes what precedes a colon for a protocol."""
    return str(path.absolute())


def _packets(container: InputContainer) -> Iterator[av.Packet]:
    """Yield the packets of the video, except part of one at the end: it would cost the frames before it."""
    before: av.Packet | None = None
    for packet in container.demux(video=0):
        if before is not None and (packet.size or not before.is_corrupt):
            yield before
        before = packet
    if before is not None:  # an empty packet, which makes the decoder return its last frames
        yield before


def _is_before(packet: _Packet, frame: av.VideoFrame) -> bool:
    return packet.pts is not None and frame.pts is not None and packet.pts < frame.pts


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """Return a frame as players show it, (H, W, 3): at x' = ax + cy, y' = bx + dy by its display matrix."""
    image = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return image
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3).tolist()
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _missing(container: InputContainer, packets: Sequence[_Packet]) -> str:
    """Return what a cut file lacks, from the frames or the duration that its header declares."""
    stream = container.streams.video[0]
    lacks = ""
    if stream.frames > len(packets) and not _reach_the_end(packets, stream.duration):
        lacks = f"{stream.frames - len(packets)} of {stream.frames} frames"
    unit = float(stream.time_base or 0)
    times = sorted(packet.pts * unit for packet in packets if packet.pts is not None)
    # the duration of a file may be that of its sound or its subtitles
    if not stream.frames and times and container.duration is not None and len(container.streams) == 1:
        gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
        longest = max([*gaps, 1 / float(stream.average_rate or 1)])
        declared = (container.duration + max(0, container.start_time or 0)) / av.time_base
        if declared - times[-1] > 2.5 * longest:  # the last frame itself takes one
            lacks = f"{declared - times[-1] - longest:.2f} of {declared:.2f} seconds"
    return f"the file was cut short: {lacks} are missing" if lacks else ""


def _reach_the_end(packets: Sequence[_Packet], duration: int | None) -> bool:
    """Whether packets fill the stream; an AVI file counts its empty packets, which repeat a frame, too."""
    if not packets or not duration or packets[0].dts is None or packets[-1].dts is None:
        return False
    return packets[-1].dts + packets[-1].duration - packets[0].dts >= duration


def _check_size(frame: np.ndarray, size: tuple[int, int], path: object) -> None:
    if frame.shape[:2] != size:
        raise ValueError(
            f"{path}: frames must have the size of the first, {size[1]}x{size[0]} (width x height); "
            f"got {frame.shape[1]}x{frame.shape[0]}"
        )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
