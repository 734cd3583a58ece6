"""`stm check` on MOSE, LVOS, VOST and SA-V: each planted fault is the only issue."""

import json
from pathlib import Path

import pytest
from helpers.check_trees import CLEAN, A, check_issues, write_json
from helpers.data_trees import boxes

from stm.data.lvos_videos import lvos
from stm.masks import write_mask

FAULTS = {
    "mose: no frame": ("mose", "train/JPEGImages/aaa/00003.jpg", [
        ("error", "mask-without-frame", "train/Annotations/aaa/00003.png"),
        ("error", "meta-missing", "meta_train.json"),
    ]),
    "mose: no mask": ("mose", "train/Annotations/aaa/00002.png", [
        ("error", "mask-missing", "train/Annotations/aaa/00002.png"),
    ]),
    "mose: no first mask": ("mose", "valid/Annotations/bbb/00000.png", [
        ("error", "no-masks", "valid/Annotations/bbb"),
    ]),
    "lvos: no frame": ("lvos", "val/JPEGImages/valid/00000016.jpg", [
        ("error", "mask-without-frame", "val/Annotations/valid/00000016.png"),
        ("error", "meta-missing", "val/valid_meta.json"),
    ]),
    "lvos: no mask": ("lvos", "val/Annotations/valid/00000011.png", [
        ("error", "mask-missing", "val/Annotations/valid/00000011.png"),
    ]),
    "vost: no mask": ("vost", "Annotations/1_cut_val/00006.png", [
        ("error", "mask-missing", "Annotations/1_cut_val/00006.png"),
    ]),
    "sav: no frame": ("sav", "JPEGImages_24fps/sav_000001/00008.jpg", [
        ("error", "mask-without-frame", "Annotations_6fps/sav_000001/000/00008.png"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    layout, path, expected = FAULTS[name]
    CLEAN[layout](tmp_path / "set")
    (tmp_path / "set" / path).unlink()
    assert check_issues(tmp_path / "set") == expected


def test_objects_and_videos_that_differ_from_the_meta_file(tmp_path: Path) -> None:
    root = tmp_path / "set"
    CLEAN["mose"](root)
    write_json(root / "meta_train.json", {"aaa": {"objects": [1, 3], "length": 4}})
    write_json(root / "meta_valid.json", {"ccc": {"objects": [1], "length": 3}})
    assert check_issues(root) == [
        ("error", "meta-missing", "meta_valid.json"),
        ("error", "meta-no-mask", "train/Annotations/aaa"),
        ("warning", "id-not-in-meta", "train/Annotations/aaa"),
        ("note", "unlisted", "valid/JPEGImages/bbb"),
    ]
    (root / "meta_valid.json").write_text("{}")
    assert ("error", "meta-broken", "meta_valid.json") in check_issues(root)


def test_an_object_of_lvos_that_enters_late(tmp_path: Path) -> None:
    root = tmp_path / "set"
    CLEAN["lvos"](root)
    write_mask(root / "val" / "Annotations" / "valid" / "00000006.png", boxes({1: A}))
    expected = ("warning", "meta-no-mask", "val/Annotations/valid/00000006.png")
    assert check_issues(root) == [expected]


def test_an_object_of_lvos_without_frames(tmp_path: Path) -> None:
    root = tmp_path / "set"
    CLEAN["lvos"](root)
    meta = root / "test" / "test_meta.json"
    meta.write_text(meta.read_text().replace('"frame_nums": 4', '"frame_nums": 0', 1))
    assert check_issues(root) == [("error", "meta-broken", "test/test_meta.json")]
    (issue,) = json.loads((tmp_path / "set.json").read_text())["issues"]
    assert "frame_nums=0 of object 1: must be at least 1" in str(issue)
    with pytest.raises(ValueError, match=f"{meta}: .*frame_nums=0 of object 1: must be at least 1"):
        lvos(root, "test")


def test_lists_of_vost_and_objects_of_sav(tmp_path: Path) -> None:
    CLEAN["vost"](tmp_path / "vost")
    (tmp_path / "vost" / "ImageSets" / "val.txt").write_text("1_cut_val\nother")
    assert check_issues(tmp_path / "vost") == [("error", "listed-missing", "ImageSets/val.txt")]
    CLEAN["sav"](tmp_path / "sav")
    write_mask(
        tmp_path / "sav" / "Annotations_6fps" / "sav_000001" / "001" / "00004.png", boxes({1: A}, (9, 9))
    )
    assert check_issues(tmp_path / "sav") == [
        ("error", "mask-size", "Annotations_6fps/sav_000001/001/00004.png")
    ]


def test_lists_of_sav(tmp_path: Path) -> None:
    root = tmp_path / "set"
    CLEAN["sav"](root)
    (root / "README.txt").write_text("SA-V\n")
    (root / "license.txt").write_bytes(b"\xff\xfe\xfd")
    assert check_issues(root) == []
    for content in (b"", b"sav_\xe9"):
        (root / "sav_val.txt").write_bytes(content)
        assert check_issues(root) == [("error", "list-broken", "sav_val.txt")]
