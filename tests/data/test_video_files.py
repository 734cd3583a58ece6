"""Video files as phones, recorders and interrupted downloads leave them."""

import itertools
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.video_files import encode

from stm.data.video_files import VideoFile
from stm.visualization import write_video

LENGTH = 24
NOISE = np.random.default_rng(0).integers(0, 256, (8, 12, 3))
FRAMES = [
    np.kron(np.clip(np.roll(NOISE, t // 4, 1) + t, 0, 255).astype(np.uint8), np.ones((8, 8, 1), np.uint8))
    for t in range(LENGTH)
]
"""uint8 (64, 96, 3)."""


def read(path: Path) -> tuple[VideoFile, list[np.ndarray]]:
    video = VideoFile(path)
    return video, list(video.read())


@pytest.mark.parametrize("options", [{"bf": "2"}, {"bf": "0"}], ids=["with B-frames", "without"])
def test_of_a_cut_mp4_all_whole_frames_are_read(tmp_path: Path, options: dict[str, str]) -> None:
    encode(tmp_path / "v.mp4", "libx264", FRAMES, g="6", **options)
    whole, frames = read(tmp_path / "v.mp4")
    assert len(frames) == LENGTH and not whole.missing
    content = (tmp_path / "v.mp4").read_bytes()
    start = content.index(b"mdat") + 4
    lengths = set()
    for share in (0.5, 0.6, 0.7, 0.8, 0.9, 0.99):
        (tmp_path / "cut.mp4").write_bytes(content[: start + int(share * (len(content) - start))])
        cut, kept = read(tmp_path / "cut.mp4")
        assert len(kept) == len(cut) == len(cut.names) < LENGTH
        lacks = f"{LENGTH - len(cut)} of {LENGTH} frames"
        assert cut.missing == f"the file was cut short: {lacks} are missing"
        # frames after the last complete group may be shown with a reference missing
        assert all(np.array_equal(a, b) for a, b in zip(kept[:-3], frames, strict=False))
        lengths.add(len(cut))
    assert len(lengths) > 2


def test_frames_without_their_key_frame_are_left_out(tmp_path: Path) -> None:
    """A recording that starts between two key frames."""
    encode(tmp_path / "v.mkv", "libx264", FRAMES, g="10", bf="0", sc_threshold="0")
    _, frames = read(tmp_path / "v.mkv")
    with av.open(str(tmp_path / "v.mkv")) as source, av.open(str(tmp_path / "tail.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in itertools.islice(source.demux(video=0), 4, None):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    tail, kept = read(tmp_path / "tail.mkv")
    assert len(tail) == len(kept) == LENGTH - 10
    assert all(np.array_equal(a, b) for a, b in zip(kept, frames[10:], strict=True))


def test_frames_that_cannot_be_decoded_are_left_out(tmp_path: Path) -> None:
    packets = encode(tmp_path / "v.mkv", "mjpeg", FRAMES)
    content = (tmp_path / "v.mkv").read_bytes()
    (tmp_path / "v.mkv").write_bytes(content.replace(packets[7], b"\x01" * len(packets[7])))
    video = VideoFile(tmp_path / "v.mkv")
    assert len(video) == LENGTH and not video.missing, "the index shows no damage"
    kept = list(video.read())
    assert len(kept) == len(video) == LENGTH - 1
    assert video.missing == f"1 of {LENGTH} frames cannot be decoded"


def test_repeated_frames_of_an_avi_file_are_not_missing(tmp_path: Path) -> None:
    """AVI has no times: a pause is a number of empty packets, which its header counts."""
    encode(tmp_path / "v.avi", "mpeg4", FRAMES[:6], times=[0, 1, 2, 3, 7, 8])
    with av.open(str(tmp_path / "v.avi")) as container:
        assert container.streams.video[0].frames == 9
    video, frames = read(tmp_path / "v.avi")
    assert len(video) == len(frames) == 6 and not video.missing


def test_subtitles_may_outlast_the_video(tmp_path: Path) -> None:
    encode(tmp_path / "v.mkv", "mpeg4", FRAMES)
    (tmp_path / "s.srt").write_text("1\n00:00:00,500 --> 00:00:09,500\na line\n")
    sources = [av.open(str(tmp_path / name)) for name in ("v.mkv", "s.srt")]
    with sources[0], sources[1], av.open(str(tmp_path / "s.mkv"), "w") as target:
        streams = [target.add_stream_from_template(source.streams[0]) for source in sources]
        for source, stream in zip(sources, streams, strict=True):
            for packet in source.demux():
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
    with av.open(str(tmp_path / "s.mkv")) as container:
        assert container.duration > 5_000_000
    video, frames = read(tmp_path / "s.mkv")
    assert len(video) == len(frames) == LENGTH and not video.missing


SIGNS = list(itertools.product((-1, 1), repeat=2))
ORIENTATIONS = [(a, 0, 0, d) for a, d in SIGNS] + [(0, b, c, 0) for b, c in SIGNS]


@pytest.mark.parametrize("matrix", ORIENTATIONS, ids=str)
def test_every_display_matrix_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    """The four rotations, and the same of a mirrored frame, each pixel moved on its own."""
    write_video(tmp_path / "v.mp4", FRAMES[:2])
    _, plain = read(tmp_path / "v.mp4")
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    at = content.index(b"tkhd") + 44
    a, b, c, d = matrix
    one = 1 << 16
    content[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    (tmp_path / "v.mp4").write_bytes(content)
    video, frames = read(tmp_path / "v.mp4")
    height, width = plain[0].shape[:2]
    corners = [(a * x + c * y, b * x + d * y) for x in (0, width - 1) for y in (0, height - 1)]
    left, top = min(x for x, _ in corners), min(y for _, y in corners)
    expected = np.zeros((height, width, 3) if a else (width, height, 3), np.uint8)
    for y, x in itertools.product(range(height), range(width)):
        expected[b * x + d * y - top, a * x + c * y - left] = plain[1][y, x]
    assert video.size == expected.shape[:2]
    np.testing.assert_array_equal(frames[1], expected)


def test_a_colon_in_a_relative_path_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video("12:30/v:1.mp4", FRAMES)
    assert len(list(VideoFile(Path("12:30/v:1.mp4")).read())) == LENGTH
