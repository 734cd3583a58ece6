"""What visitors of the page give: pictures, films, masks and strokes, and what is refused."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.demo_pages import FIRST, FRAMES, SIZE, written
from PIL import Image

from stm.demo import panels
from stm.demo import uploads as media
from stm.demo.uploads import Limits, uploaded, uploaded_mask
from stm.masks import write_mask
from stm.visualization import write_image, write_video


def fresh(folder: Path) -> Path:
    """The folder, there and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def test_pictures_come_in_natural_order(tmp_path):
    given = written(tmp_path / "given")
    footage = uploaded(given, fresh(tmp_path / "own"), Limits())
    np.testing.assert_array_equal(footage.frames, FRAMES[[1, 0, 2, 3]])
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["frames.npy"], "names are no paths"


def test_a_film_is_cut_and_shrunk_to_the_limits(tmp_path):
    large = [np.kron(frame, np.ones((4, 4, 1), np.uint8)) for frame in FRAMES[:9]]
    write_video(tmp_path / "f.mp4", large, fps=10)
    (tmp_path / "f.mp4").rename(tmp_path / "any name")
    footage = uploaded([tmp_path / "any name"], fresh(tmp_path / "own"), Limits(frames=6, size=64))
    assert footage.frames.shape == (6, 64, 96, 3) and footage.left_out == 3
    assert footage.given == (128, 192) and footage.fps == pytest.approx(10)
    mask = np.kron(FIRST, np.ones((4, 4), np.uint8))
    write_mask(tmp_path / "m.png", mask)
    np.testing.assert_array_equal(uploaded_mask(tmp_path / "m.png", footage), mask[1::2, 1::2])


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


HOSTILE = {
    "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "a list of files": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "a checkpoint": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x02cos\nsystem\nq\x00.",
    "nothing": b"",
    "a film without content": b"\0\0\0\x18ftypisom" + bytes(100),
    "half a picture": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "a bomb": png_header(60_000, 60_000) + bytes(100),
    "a large picture": png_header(5_000, 5_000) + bytes(100),
    "a svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_video_is_refused_without_naming_folders(what, tmp_path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(HOSTILE[what])
    for give in (lambda: uploaded([file], fresh(tmp_path / "own"), Limits()), lambda: mask_of(file)):
        with pytest.raises(ValueError, match="clip.mp4|too large") as error:
            give()
        assert str(tmp_path) not in str(error.value)


def mask_of(file: Path) -> np.ndarray:
    return uploaded_mask(file, media.Footage("", FRAMES, 12, SIZE))


def test_limits(tmp_path):
    files = written(tmp_path / "given")
    own = fresh(tmp_path / "own")
    with pytest.raises(ValueError, match="no file is given"):
        uploaded([], own, Limits())
    with pytest.raises(ValueError, match="at most 0 MB"):
        uploaded(files, own, Limits(upload_mb=0))
    with pytest.raises(ValueError, match="48x32 are too large: at most 1000 pixels"):
        uploaded(files, own, Limits(pixels=1000))
    write_video(tmp_path / "f.mp4", FRAMES)
    with pytest.raises(ValueError, match="48x32 are too large"):
        uploaded([tmp_path / "f.mp4"], own, Limits(pixels=1000))
    with pytest.raises(ValueError, match="not both"):
        uploaded([*files, tmp_path / "f.mp4"], own, Limits())
    Image.fromarray(FRAMES[0][:20]).save(files[-1], "PNG")
    with pytest.raises(ValueError, match="another size"):
        uploaded(files, own, Limits())
    Image.new("RGB", (16, 260)).save(tmp_path / "narrow.png")
    with pytest.raises(ValueError, match="16x260 are too long and narrow"):
        uploaded([tmp_path / "narrow.png"], own, Limits(size=32))
    uploaded([tmp_path / "narrow.png"], own, Limits(size=33))
    write_mask(tmp_path / "many.png", np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) // 100)
    with pytest.raises(ValueError, match="at most 6"):
        mask_of(tmp_path / "many.png")
    write_image(tmp_path / "rgb.png", FRAMES[0])
    with pytest.raises(ValueError, match="mode RGB"):
        mask_of(tmp_path / "rgb.png")


def test_strokes_are_the_objects_of_their_colors():
    truth = np.zeros(SIZE, np.uint8)
    for label, column in zip((1, 2, 3, 4, 5, 6, panels.ERASED), range(0, 42, 6), strict=True):
        truth[4:20, column : column + 5] = label
    table = np.zeros((256, 4), np.uint8)
    for label, color in panels.BRUSHES.items():
        table[label] = *color, 255
    table[panels.ERASED] = 255
    layer = np.kron(table[truth], np.ones((5, 5, 1), np.uint8))
    np.testing.assert_array_equal(panels.strokes([layer], SIZE), truth)
    np.testing.assert_array_equal(panels.strokes([], SIZE), 0)
