"""Uploaded images, videos, masks and strokes, and rejected files."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.demo_pages import FIRST_MASK, FRAMES, SIZE, write_frames
from PIL import Image

from stm.demo import panels
from stm.demo.uploads import DemoVideo, Limits, read_upload, read_uploaded_mask
from stm.masks import write_mask
from stm.visualization import write_image, write_video


def make_empty(folder: Path) -> Path:
    """Return the folder after emptying it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def test_images_are_read_in_natural_order(tmp_path):
    given = write_frames(tmp_path / "given")
    video = read_upload(given, make_empty(tmp_path / "own"), Limits())
    np.testing.assert_array_equal(video.frames, FRAMES[[1, 0, 2, 3]])
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["frames.raw"], "names were used as paths"


def test_a_video_is_cut_and_resized_to_the_limits(tmp_path):
    large = [np.kron(frame, np.ones((4, 4, 1), np.uint8)) for frame in FRAMES[:9]]
    write_video(tmp_path / "f.mp4", large, fps=10)
    (tmp_path / "f.mp4").rename(tmp_path / "any name")
    video = read_upload([tmp_path / "any name"], make_empty(tmp_path / "own"), Limits(max_frames=6, size=64))
    assert video.frames.shape == (6, 64, 96, 3) and video.num_dropped == 3
    assert video.original_size == (128, 192) and video.fps == pytest.approx(10)
    mask = np.kron(FIRST_MASK, np.ones((4, 4), np.uint8))
    write_mask(tmp_path / "m.png", mask)
    np.testing.assert_array_equal(read_uploaded_mask(tmp_path / "m.png", video), mask[1::2, 1::2])


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


HOSTILE = {
    "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "a list of files": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "a checkpoint": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x02cos\nsystem\nq\x00.",
    "an empty file": b"",
    "a video without content": b"\0\0\0\x18ftypisom" + bytes(100),
    "a truncated image": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "a bomb": png_header(60_000, 60_000) + bytes(100),
    "a large image": png_header(5_000, 5_000) + bytes(100),
    "a svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_invalid_files_are_rejected_without_naming_folders(what, tmp_path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(HOSTILE[what])
    for read in (
        lambda: read_upload([file], make_empty(tmp_path / "own"), Limits()),
        lambda: upload_mask(file),
    ):
        with pytest.raises(ValueError, match="clip.mp4|too large") as error:
            read()
        assert str(tmp_path) not in str(error.value)


def upload_mask(file: Path) -> np.ndarray:
    return read_uploaded_mask(file, DemoVideo("", FRAMES, 12, SIZE))


def test_limits_of_uploads(tmp_path):
    files = write_frames(tmp_path / "given")
    own = make_empty(tmp_path / "own")
    with pytest.raises(ValueError, match="no file was uploaded"):
        read_upload([], own, Limits())
    with pytest.raises(ValueError, match="at most 0 MB"):
        read_upload(files, own, Limits(upload_mb=0))
    with pytest.raises(ValueError, match="48x32 are too large: at most 1000 pixels are allowed"):
        read_upload(files, own, Limits(max_pixels=1000))
    write_video(tmp_path / "f.mp4", FRAMES)
    with pytest.raises(ValueError, match="48x32 are too large"):
        read_upload([tmp_path / "f.mp4"], own, Limits(max_pixels=1000))
    with pytest.raises(ValueError, match="not both"):
        read_upload([*files, tmp_path / "f.mp4"], own, Limits())
    Image.fromarray(FRAMES[0][:20]).save(files[-1], "PNG")
    with pytest.raises(ValueError, match="another size"):
        read_upload(files, own, Limits())
    Image.new("RGB", (16, 260)).save(tmp_path / "narrow.png")
    with pytest.raises(ValueError, match="16x260 are too long and narrow"):
        read_upload([tmp_path / "narrow.png"], own, Limits(size=32))
    read_upload([tmp_path / "narrow.png"], own, Limits(size=33))
    write_mask(tmp_path / "many.png", np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) // 100)
    with pytest.raises(ValueError, match="at most 6 objects; got"):
        upload_mask(tmp_path / "many.png")
    write_image(tmp_path / "rgb.png", FRAMES[0])
    with pytest.raises(ValueError, match="mode RGB"):
        upload_mask(tmp_path / "rgb.png")


def test_strokes_become_the_objects_of_their_colors():
    truth = np.zeros(SIZE, np.uint8)
    for label, column in zip((1, 2, 3, 4, 5, 6, panels.ERASED), range(0, 42, 6), strict=True):
        truth[4:20, column : column + 5] = label
    table = np.zeros((256, 4), np.uint8)
    for label, color in panels.BRUSHES.items():
        table[label] = *color, 255
    table[panels.ERASED] = 255
    layer = np.kron(table[truth], np.ones((5, 5, 1), np.uint8))
    np.testing.assert_array_equal(panels.read_strokes([layer], SIZE), truth)
    np.testing.assert_array_equal(panels.read_strokes([], SIZE), 0)
