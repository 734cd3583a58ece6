"""Zip files for benchmark servers: names, equal bytes, and the list of violations."""

import io
import json
import re
import resource
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.check_trees import CLEAN
from helpers.data_trees import boxes, write_video
from PIL import Image
from typer.testing import CliRunner

from stm.cli.main import app
from stm.data.lvos_videos import lvos
from stm.data.mose_videos import mose
from stm.data.videos import davis
from stm.evaluation.submission import check_submission, write_submission
from stm.masks import PALETTE, write_mask
from stm.video import ArrayVideo


class Sparse(ArrayVideo):
    """A video of which a server expects every second frame."""

    @property
    def output_frames(self):
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
def test_the_zip_contains_the_expected_frames(folder, videos, tmp_path, layout, top):
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


def test_each_violation_is_listed(folder, videos, tmp_path):
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
        "swan/00004.png: must be a palette PNG (mode P); got mode L",
        "bear/00000.png: must have the frame's size (12, 16); got (12, 15)",
        "bear/00001.png: must have ids of [3, 40]; got [7]",
    ):
        assert text in message
    assert not (tmp_path / "s.zip").exists()


def test_a_full_disk_leaves_no_partial_zip(folder, videos, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_submission(folder, videos, tmp_path / "out" / "s.zip", "davis")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unknown_layout_raises(folder, videos, tmp_path):
    with pytest.raises(ValueError, match="layout=coco: must be one of davis, mose, lvos, youtube"):
        write_submission(folder, videos, tmp_path / "s.zip", "coco")


def test_a_zip_is_checked_as_by_a_server(folder, videos, tmp_path):
    for layout in ("davis", "mose", "youtube"):
        path = write_submission(folder, videos, tmp_path / f"{layout}.zip", layout)
        assert check_submission(path, videos, layout) == []
    assert len(check_submission(tmp_path / "davis.zip", videos, "youtube")) == 2 * 5, (
        "all files are in the wrong folder"
    )
    gray = io.BytesIO()
    Image.fromarray(videos[0].mask(0)).save(gray, "png")
    with (
        zipfile.ZipFile(tmp_path / "davis.zip") as whole,
        zipfile.ZipFile(tmp_path / "x.zip", "w") as altered,
    ):
        for name in ("bear/00000.png", "swan/00000.png"):
            altered.writestr(name, whole.read(name))
        altered.writestr("bear/00001.png", gray.getvalue())
        altered.writestr("swan/00002.png", b"not an image")
        altered.writestr("__MACOSX/swan/._00000.png", b"")
    assert check_submission(tmp_path / "x.zip", videos, "davis") == [
        "swan/00002.png: must be a PNG; not an image",
        "swan/00004.png: missing",
        "bear/00001.png: must be a palette PNG (mode P); got mode L",
        "__MACOSX/swan/._00000.png: unexpected file",
    ]


def test_a_folder_is_checked_as_the_zip_made_of_it(folder, videos, tmp_path):
    for layout in ("davis", "youtube"):
        violations = check_submission(folder, videos, layout)
        assert {line.rpartition("/")[2] for line in violations} == {
            "00001.png: unexpected file",
            "00003.png: unexpected file",
        }
    path = write_submission(folder, videos, tmp_path / "y.zip", "youtube")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert check_submission(tmp_path / "unpacked", videos, "youtube") == []
    assert len(check_submission(tmp_path / "unpacked", videos, "davis")) == 2 * 5
    with pytest.raises(FileNotFoundError, match="no such zip or folder"):
        check_submission(tmp_path / "nowhere.zip", videos, "davis")


def test_damaged_files_are_listed(folder, videos, tmp_path):
    path = write_submission(folder, videos, tmp_path / "s.zip", "davis")
    whole = (folder / "bear" / "00001.png").read_bytes()
    with zipfile.ZipFile(path) as read, zipfile.ZipFile(tmp_path / "x.zip", "w") as altered:
        for name in read.namelist():
            altered.writestr(name, whole[: len(whole) // 2] if name == "bear/00001.png" else read.read(name))
        with pytest.warns(UserWarning, match="Duplicate name"):
            altered.writestr("swan/00000.png", whole)
    repeated, damaged = check_submission(tmp_path / "x.zip", videos, "davis")
    assert repeated == "swan/00000.png: 2 files of this name"
    assert damaged.startswith("bear/00001.png: damaged (")
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut.zip: must be a readable zip"):
        check_submission(tmp_path / "cut.zip", videos, "davis")


def test_files_that_cannot_be_unpacked_are_listed(folder, videos, tmp_path):
    """Test damaged data, a password, an unknown compression method, and a header of a huge mask."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for mask in sorted(folder.rglob("*.png")):
            archive.write(mask, f"{mask.parent.name}/{mask.name}")
        names = archive.namelist()
        begin = archive.infolist()[0].header_offset + 30 + len(names[0])
    content = bytearray(path.read_bytes())
    entries = [match.start() for match in re.finditer(rb"PK\x01\x02", bytes(content))]
    content[begin] = 0xFF  # not a valid block type
    content[entries[1] + 8] |= 1
    content[entries[2] + 10] = 99
    path.write_bytes(content)
    violations = [line for line in check_submission(path, videos, "davis") if "unexpected" not in line]
    assert [line.split(" (")[0] for line in violations] == [
        "swan/00000.png: cannot be unpacked",
        "bear/00000.png: cannot be unpacked",
        "bear/00001.png: cannot be unpacked",
    ]
    large = bytearray((folder / "bear" / "00000.png").read_bytes())
    large[16:24] = (60_000).to_bytes(4, "big") * 2
    large[29:33] = zlib.crc32(large[12:29]).to_bytes(4, "big")
    (folder / "bear" / "00000.png").write_bytes(large)
    assert "bear/00000.png: its header declares too many pixels" in check_submission(folder, videos, "davis")


# --- the command ---


def run_command(*words) -> tuple[int, str]:
    done = CliRunner().invoke(
        app, ["check-submission", *map(str, words)], standalone_mode=False, catch_exceptions=False
    )
    return done.return_value, done.output


def test_the_command_for_davis(shared_data, tmp_path):
    """The ground truth of real clips is a valid submission; without one mask it is not."""
    root = shared_data / "DAVIS"
    videos = davis(root, 2017, "val")
    for video in videos:
        shutil.copytree(Path(video.mask_path(0)).parent, tmp_path / "masks" / video.name)
    words = ("--server", "davis", "--benchmark-root", root, "--split", "val")
    code, output = run_command(tmp_path / "masks", *words)
    assert code == 0 and "no violations" in output
    (tmp_path / "masks" / videos[0].name / "00003.png").unlink()
    code, output = run_command(tmp_path / "masks", *words)
    assert (
        code == 1 and output.startswith(f"{videos[0].name}/00003.png: missing\n") and "1 violations" in output
    )


def test_the_command_for_mose_and_youtube(tmp_path):
    """MOSE has a mask in the first frame only; meta.json of YouTube-VOS lists the expected frames."""
    mask = boxes({1: (5, 5, 20, 20)})
    write_video(tmp_path / "mose", "a", [mask, None, None])
    write_video(tmp_path / "youtube" / "valid", "b", [mask, None, None], step=5)
    objects = {"1": {"category": "cat", "frames": ["00000", "00010"]}}
    meta = {"videos": {"b": {"objects": objects}}}
    (tmp_path / "youtube" / "valid" / "meta.json").write_text(json.dumps(meta))
    for server, names in {
        "mose": ("a/00000", "a/00001", "a/00002"),
        "youtube": ("b/00000", "b/00010"),
    }.items():
        folder, root = tmp_path / f"{server}_masks", tmp_path / server
        for name in names:
            write_mask(folder / f"{name}.png", mask)
        words = (folder, "--server", server, "--benchmark-root", root)
        code, output = run_command(*words)
        assert code == 0 and f"{len(names)} masks of 1 videos expected" in output, output
        write_mask(folder / f"{names[-1]}.png", 2 * mask)
        code, output = run_command(*words)
        assert code == 1 and f"{names[-1]}.png: must have ids of [1]; got [2]" in output
    with pytest.raises(ValueError, match="--split val: must not be given for mose"):
        run_command(folder, "--server", "mose", "--benchmark-root", tmp_path / "mose", "--split", "val")


def test_submissions_for_mose_and_lvos(tmp_path):
    """All frames of all videos, the first included; LVOS's in a folder Annotations."""
    for server, (video, numbers) in {"mose": ("bbb", (0, 1, 2)), "lvos": ("test", (1, 6, 11, 16))}.items():
        root, masks = tmp_path / server, tmp_path / f"{server}_masks"
        CLEAN[server](root)
        names = [f"{n:0{5 if server == 'mose' else 8}d}" for n in numbers]
        for name in names:
            write_mask(masks / video / f"{name}.png", boxes({1: (5, 5, 20, 20), 2: (1, 1, 3, 3)}))
        words = ("--server", server, "--benchmark-root", root)
        assert run_command(masks, *words)[0] == 0
        videos = mose(root, "valid") if server == "mose" else lvos(root, "test")
        archive = write_submission(masks, videos, tmp_path / f"{server}.zip", server)
        top = "Annotations/" if server == "lvos" else ""
        with zipfile.ZipFile(archive) as opened:
            assert opened.namelist() == [f"{top}{video}/{name}.png" for name in names]
        assert run_command(archive, *words)[0] == 0
        (masks / video / f"{names[0]}.png").unlink()
        code, output = run_command(masks, *words)
        assert code == 1 and f"{top}{video}/{names[0]}.png: missing" in output
