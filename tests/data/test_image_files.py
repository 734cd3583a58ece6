"""Image files of a folder: EXIF orientation, formats, names, hidden folders."""

import numpy as np
import pytest
from helpers.data_trees import boxes, smooth_image, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from stm.data.file_inspection import read_image_file, read_mask_prompt
from stm.data.image_io import frame_size, list_images, natural, read_frame
from stm.data.stills import pairs
from stm.data.video_files import open_frames
from stm.data.videos import folder
from stm.dataset_check.layouts import open_dataset
from stm.dataset_check.repair import plan_repairs
from stm.dataset_check.run import check_dataset
from stm.masks import read_mask, write_mask

MASK = boxes({1: (5, 5, 20, 25), 2: (22, 30, 38, 55)})
FORMATS = {".jpg": {"quality": 95}, ".png": {}, ".webp": {"lossless": True}, ".tiff": {}, ".bmp": {}}


def save_turned(path, image, orientation):
    """Save an image with an EXIF orientation; return the pixels that viewers show."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(path, exif=exif, **FORMATS[path.suffix])
    with Image.open(path) as stored:
        return np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_frames_are_oriented_like_viewers_orient_them(tmp_path, suffix, orientation):
    path = tmp_path / f"x{suffix}"
    expected = save_turned(path, smooth_image(1, (40, 61)), orientation)
    for frame in (read_frame(path), read_image_file(path), next(open_frames(tmp_path).read())):
        assert np.abs(frame.astype(int) - expected).mean() < 1.5
    assert frame_size(path) == expected.shape[:2]
    assert read_frame(path, 2).shape[:2] == tuple(-(-side // 2) for side in expected.shape[:2])


def test_a_mask_fits_the_oriented_frame_and_no_other(tmp_path):
    write_video(tmp_path, "v", [MASK.T.copy()] * 2)
    frames = sorted((tmp_path / "JPEGImages" / "v").iterdir())
    for path in frames:
        save_turned(path, smooth_image(1, MASK.shape), 6)  # masks are upright, frames are stored lying
    assert np.array_equal(folder(tmp_path)[0].mask(0), MASK.T)
    assert read_mask_prompt(tmp_path / "Annotations/v/00000.png", frame_size(frames[0]), "v").shape == (
        60,
        40,
    )
    image, mask = pairs(tmp_path / "JPEGImages/v", tmp_path / "Annotations/v").read(0)
    assert image.shape[:2] == mask.shape
    write_mask(tmp_path / "Annotations/v/00000.png", MASK)
    with pytest.raises(ValueError, match=r"00000.jpg with 40x60 after its EXIF orientation.*with 60x40"):
        folder(tmp_path)[0].mask(0)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_stored_pixels_are_rotated_by_the_repair(tmp_path, orientation):
    write_video(tmp_path, "v", [MASK] * 3)
    for path in (tmp_path / "JPEGImages" / "v").iterdir():
        save_turned(path, smooth_image(1, MASK.shape), orientation)
    repairs = plan_repairs(check_dataset(open_dataset(tmp_path), 1, keep_infos=True))
    assert [repair.changes for repair in repairs] == [("rotated like its frame",)] * 3
    repairs[0].write(tmp_path / "repaired.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(MASK).save(tmp_path / "viewed.png", exif=exif)
    with Image.open(tmp_path / "viewed.png") as viewed:
        expected = np.asarray(ImageOps.exif_transpose(viewed))
    assert np.array_equal(read_mask(tmp_path / "repaired.png"), expected)
    assert np.array_equal(read_mask(tmp_path / "viewed.png"), expected)


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tiff", ".WEBP", ".PNG"])
def test_frames_of_other_formats_are_read_and_pass_the_check(tmp_path, suffix):
    write_video(tmp_path, "v", [MASK] * 3)
    for t, path in enumerate(sorted((tmp_path / "JPEGImages" / "v").iterdir())):
        Image.fromarray(smooth_image(t)).save(path.with_suffix(suffix), **FORMATS.get(suffix.lower(), {}))
        path.unlink()
    assert np.array_equal(folder(tmp_path)[0].frame(2), smooth_image(2))
    assert not check_dataset(open_dataset(tmp_path), 1).issues


def test_masks_may_have_upper_case_suffixes(tmp_path):
    write_video(tmp_path, "v", [MASK] * 3)
    for path in (tmp_path / "Annotations" / "v").iterdir():
        path.rename(path.with_suffix(".PNG"))
    assert np.array_equal(folder(tmp_path)[0].mask(1), MASK)
    assert np.array_equal(pairs(tmp_path / "JPEGImages/v", tmp_path / "Annotations/v").read(0)[1], MASK)
    assert not check_dataset(open_dataset(tmp_path), 1).issues


def test_suffixes_that_differ_only_in_case_are_reported(tmp_path):
    write_video(tmp_path, "v", [MASK] * 3)
    path = tmp_path / "Annotations/v/00001.png"
    path.rename(path.with_suffix(".PNG"))
    with pytest.raises(ValueError, match=r"share one suffix; got \.PNG, \.png"):
        folder(tmp_path)
    assert "mixed-suffixes" in {issue.code for issue in check_dataset(open_dataset(tmp_path), 1).issues}


def test_loader_and_check_leave_out_hidden_folders_and_files(tmp_path):
    write_video(tmp_path, "v", [MASK] * 3)
    for hidden in ("JPEGImages/.ipynb_checkpoints", "Annotations/.ipynb_checkpoints"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "00000-checkpoint.jpg").write_bytes(b"x")
    (tmp_path / "JPEGImages/v/._00000.jpg").write_bytes(b"x")
    assert [(video.name, len(video)) for video in folder(tmp_path)] == [("v", 3)]
    assert not check_dataset(open_dataset(tmp_path), 1).issues


def test_names_with_superscript_digits_are_sorted_and_checked(tmp_path):
    write_video(tmp_path, "v", [MASK] * 3)
    for kind, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".png")):
        for t in range(3):
            file = tmp_path / kind / "v" / f"0000{t}{suffix}"
            file.rename(file.with_name(f"{t}\u00b2{suffix}"))
    assert list_images(tmp_path / "JPEGImages/v")[0] == ["0\u00b2", "1\u00b2", "2\u00b2"]
    assert len(folder(tmp_path)[0]) == 3
    assert not [i for i in check_dataset(open_dataset(tmp_path), 1).issues if i.severity == "error"]


@given(st.lists(st.text()))
def test_any_names_can_be_sorted(names):
    sorted(names, key=natural)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(FORMATS)),
    st.lists(st.tuples(st.floats(0, 1, allow_subnormal=False), st.integers(0, 255)), max_size=8),
    st.floats(0, 1, allow_subnormal=False),
    st.booleans(),
)
def test_damaged_files_are_read_or_refused_with_their_path(tmp_path_factory, suffix, changes, kept, is_mask):
    path = tmp_path_factory.mktemp("damaged") / f"x{suffix}"
    Image.fromarray(MASK if is_mask else smooth_image(1)).save(path, **FORMATS[suffix])
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    path.write_bytes(content[: int(kept * len(content))] if kept < 0.5 else content)
    readers = (
        [read_mask, lambda path: read_mask_prompt(path, MASK.shape, "image")]
        if is_mask
        else [read_frame, read_image_file, frame_size]
    )
    for read in readers:
        try:
            read(path)
        except ValueError as error:
            assert str(path) in str(error)
