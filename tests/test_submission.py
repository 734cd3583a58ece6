"""Zips for the servers: the right names and nothing else, equal bytes, and every violation named."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from stm.clip import ArrayVideo
from stm.evaluation.submission import check_submission, write_submission
from stm.masks import PALETTE, write_mask


class Sparse(ArrayVideo):
    """A video whose server wants every second frame only."""

    @property
    def written(self):
        return range(0, len(self), 2)


@pytest.fixture
def videos():
    masks = np.zeros((5, 12, 16), dtype=np.uint8)
    masks[:, 2:6, 2:6], masks[:, 7:9, 9:] = 3, 40
    frames = np.zeros((*masks.shape, 3), dtype=np.uint8)
    return [Sparse("swan", frames, masks), ArrayVideo("bear", frames[:2], masks[:2])]


@pytest.fixture
def folder(tmp_path, videos):
    for video in videos:
        for t in range(len(video)):
            write_mask(tmp_path / "masks" / video.name / f"{t:05d}.png", video.mask(t))
    return tmp_path / "masks"


@pytest.mark.parametrize(("layout", "top"), [("davis", ""), ("youtube", "Annotations/")])
def test_the_zip_holds_the_frames_asked_for(folder, videos, tmp_path, layout, top):
    path = write_submission(folder, videos, tmp_path / "out" / "s.zip", layout)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        for name in names:
            image = Image.open(io.BytesIO(archive.read(name)))
            assert image.mode == "P"
            assert image.getpalette()[3:6] == PALETTE[1].tolist()
            np.testing.assert_array_equal(np.asarray(image), videos[0].mask(0))
    bear, swan = [f"{top}bear/{t:05d}.png" for t in (0, 1)], [f"{top}swan/{t:05d}.png" for t in (0, 2, 4)]
    assert names == bear + swan


def test_equal_masks_give_equal_bytes(folder, videos, tmp_path):
    first = write_submission(folder, videos, tmp_path / "a.zip", "davis").read_bytes()
    for path in folder.rglob("*.png"):
        path.touch()
    second = write_submission(folder, videos[::-1], tmp_path / "b.zip", "davis").read_bytes()
    assert first == second


def test_each_violation_is_named(folder, videos, tmp_path):
    (folder / "swan" / "00002.png").unlink()
    Image.fromarray(videos[0].mask(0)).save(folder / "swan" / "00004.png")
    write_mask(folder / "bear" / "00000.png", videos[1].mask(0)[:, 1:])
    write_mask(folder / "bear" / "00001.png", np.full((12, 16), 7))
    with pytest.raises(ValueError) as caught:
        write_submission(folder, videos, tmp_path / "s.zip", "davis")
    message = str(caught.value)
    assert "4 violations" in message
    for text in (
        "swan/00002.png: missing",
        "swan/00004.png: mode L",
        "bear/00000.png: size (12, 15), the frame has (12, 16)",
        "bear/00001.png: ids [7], the video has [3, 40]",
    ):
        assert text in message
    assert not (tmp_path / "s.zip").exists()


def test_an_unknown_layout_is_refused(folder, videos, tmp_path):
    with pytest.raises(ValueError, match="layout='coco' is unknown; allowed: davis, mose, youtube"):
        write_submission(folder, videos, tmp_path / "s.zip", "coco")


def test_a_zip_of_others_is_checked_like_a_server_does(folder, videos, tmp_path):
    for layout in ("davis", "mose", "youtube"):
        path = write_submission(folder, videos, tmp_path / f"{layout}.zip", layout)
        assert check_submission(path, videos, layout) == []
    assert len(check_submission(tmp_path / "davis.zip", videos, "youtube")) == 2 * 5, "all in the wrong place"
    grey = io.BytesIO()
    Image.fromarray(videos[0].mask(0)).save(grey, "png")
    with zipfile.ZipFile(tmp_path / "davis.zip") as whole, zipfile.ZipFile(tmp_path / "x.zip", "w") as spoilt:
        for name in ("bear/00000.png", "swan/00000.png"):
            spoilt.writestr(name, whole.read(name))
        spoilt.writestr("bear/00001.png", grey.getvalue())
        spoilt.writestr("swan/00002.png", b"no picture")
        spoilt.writestr("__MACOSX/swan/._00000.png", b"")
    assert check_submission(tmp_path / "x.zip", videos, "davis") == [
        "swan/00004.png: missing",
        "__MACOSX/swan/._00000.png: nobody asked for it",
        "swan/00002.png: no picture",
        "bear/00001.png: mode L, a palette PNG (P) is wanted",
    ]
