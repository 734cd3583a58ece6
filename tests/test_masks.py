"""Index masks: writing and reading are inverse, and colors are never read as labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from stm.masks import PALETTE, object_ids, read_mask, relabel, restore_ids, write_mask

masks = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(mask=masks)
def test_reading_returns_the_written_mask(tmp_path_factory, mask):
    path = tmp_path_factory.mktemp("masks") / "video" / "00000.png"
    write_mask(path, mask)
    np.testing.assert_array_equal(read_mask(path), mask)
    with Image.open(path) as image:
        assert image.mode == "P"
        colors = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colors, PALETTE[mask])
    assert [file.name for file in path.parent.iterdir()] == ["00000.png"]


def test_the_palette_is_that_of_davis():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0), 9: (192, 0, 0)}
    for label, color in known.items():
        assert tuple(PALETTE[label]) == color
    assert tuple(PALETTE[255]) == (224, 224, 192)  # VOC's color of void
    assert len({tuple(color) for color in PALETTE}) == 256


def test_the_palette_is_that_of_real_masks(shared_data):
    with Image.open(shared_data / "DAVIS/Annotations/480p/bmx-trees-2obj/00000.png") as image:
        assert image.mode == "P"
        stored = np.array(image.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(stored[:3], PALETTE[:3])


def test_grayscale_and_one_bit_masks_are_read_as_stored(tmp_path):
    labels = np.array([[0, 7], [255, 1]], dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "gray.png"), labels)
    Image.fromarray(labels > 5).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bit.png"), labels > 5)


def test_files_that_are_not_index_masks_are_refused(tmp_path):
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(tmp_path / "colors.png")
    with pytest.raises(ValueError, match=r"colors\.png.*mode RGB"):
        read_mask(tmp_path / "colors.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png"):
        read_mask(tmp_path / "text.png")
    write_mask(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 255, (64, 64)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:600])
    with pytest.raises(ValueError, match=r"cut\.png"):
        read_mask(tmp_path / "cut.png")
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        read_mask(tmp_path / "absent.png")


@pytest.mark.parametrize("mask", [np.array([[65_536]]), np.array([[-1]]), np.zeros((2, 2, 1), np.uint8)])
def test_invalid_masks_are_not_written(tmp_path, mask):
    with pytest.raises(ValueError, match=r"x\.png"):
        write_mask(tmp_path / "x.png", mask)
    assert not list(tmp_path.iterdir())


@given(mask=masks)
def test_object_ids_are_the_labels_in_a_mask(mask):
    assert object_ids(mask) == sorted(set(mask.ravel().tolist()) - {0, 255})


@given(mask=masks)
def test_restore_ids_inverts_relabel(mask):
    ids = object_ids(mask)[::-1]  # any order
    labels = relabel(mask, ids)
    np.testing.assert_array_equal(labels == 255, mask == 255)
    for slot, label in enumerate(ids):
        np.testing.assert_array_equal(labels == slot + 1, mask == label)
    clear = np.where(mask == 255, 0, mask)
    np.testing.assert_array_equal(restore_ids(relabel(clear, ids), ids), clear)


def test_other_ids_become_background():
    mask = np.array([[3, 9, 255, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(relabel(mask, [9]), [[0, 1, 255, 0]])
