"""Videos of MOSE, LVOS, VOST and SA-V as their files are on disk."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.check_trees import CLEAN, A, B
from helpers.data_trees import boxes, write_sav_train

from stm.data.lvos_videos import lvos
from stm.data.mose_videos import mose
from stm.data.sav_train_videos import sav_train
from stm.data.sav_videos import sav
from stm.data.vost_videos import vost
from stm.masks import write_mask
from stm.video import VOID


def test_objects_of_mose_are_those_of_its_meta_file(tmp_path: Path) -> None:
    CLEAN["mose"](tmp_path)
    (train,), (valid,) = mose(tmp_path), mose(tmp_path, "valid")
    assert (train.name, len(train), train.annotated, train.scored_objects) == ("aaa", 4, [0, 1, 2, 3], [1, 2])
    assert (valid.name, len(valid), valid.annotated, valid.scored_objects) == ("bbb", 3, [0], [1, 2])
    (tmp_path / "meta_train.json").unlink()  # it only lists what the folders show
    assert mose(tmp_path)[0].scored_objects == [1, 2]
    assert mose(tmp_path, holdout_share=1.0) == [] and mose(tmp_path, "holdout", holdout_share=1.0)
    for content, message in (
        ('{"videos": {"bbb": {"objects": [0], "length": 3}}}', "object 0.* of bbb"),
        ('{"videos": {"bbb": {"objects": [1], "length": 9}}}', "must have the 9 frames .*; got 3"),
        ('{"videos": {"bbb": {"length": 9}}}', "must have videos.<video>.{objects,length}; got KeyError"),
        ("[]", "must have videos"),
    ):
        (tmp_path / "meta_valid.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            mose(tmp_path, "valid")
    with pytest.raises(FileNotFoundError, match="test: there is no such folder"):
        mose(tmp_path, "test")


def test_objects_of_lvos_enter_late(tmp_path: Path) -> None:
    CLEAN["lvos"](tmp_path)
    (video,) = lvos(tmp_path, "val")
    assert dict(video.first_frames) == {1: 0, 2: 1} and video.frame_ranges[2] == (6, 16, 3)
    assert video.categories == {1: "seen", 2: "seen"} and (video.prompt_mask(1) == boxes({2: B})).all()
    (tmp_path / "unseen_videos.txt").write_text("valid\n")
    assert lvos(tmp_path, "val")[0].categories == {1: "unseen", 2: "unseen"}
    assert lvos(tmp_path / "val", "val")[0].name == "valid"  # the folder that the evaluator takes
    assert lvos(tmp_path, holdout_share=1.0) == [] and lvos(tmp_path, "holdout", holdout_share=1.0)


def test_vost_at_two_frame_rates(tmp_path: Path) -> None:
    CLEAN["vost"](tmp_path)
    (tmp_path / "JPEGImages").rename(tmp_path / "JPEGImages_10fps")
    for t in range(1, 4):
        (tmp_path / "Annotations" / "1_cut_val" / f"{6 * t:05d}.png").unlink(missing_ok=t % 2 == 0)
    write_mask(tmp_path / "Annotations" / "1_cut_val" / "00012.png", boxes({1: A, VOID: B}))
    (video,) = vost(tmp_path, "val", fps=10)
    assert len(video) == 4 and list(video.output_frames) == video.annotated == [0, 2]
    with pytest.raises(ValueError, match="fps=6: must be 5 or 10"):
        vost(tmp_path, fps=6)
    with pytest.raises(FileNotFoundError, match="dev.txt: there is no such list; available are test, train"):
        vost(tmp_path, "dev")


def test_overlapping_objects_of_sav(tmp_path: Path) -> None:
    CLEAN["sav"](tmp_path)
    masks = tmp_path / "Annotations_6fps" / "sav_000001"
    inner = (8, 8, 12, 12)
    for t in (0, 4):
        write_mask(masks / "001" / f"{t:05d}.png", boxes({1: inner}))
    (video,) = sav(tmp_path)
    assert video.object_folders == {1: "000", 2: "001"} and video.object_frames == {1: [0, 4, 8], 2: [0, 4]}
    np.testing.assert_array_equal(video.mask(0), np.where(boxes({1: inner}) > 0, 2, boxes({1: A})))
    np.testing.assert_array_equal(video.truth(4), np.stack([boxes({1: A}), boxes({1: inner})]) > 0)
    assert not video.truth(8)[1].any() and video.mask(1) is None and list(video.output_frames) == [0, 4, 8]
    (masks / "first").mkdir()
    with pytest.raises(ValueError, match="must hold folders of objects, 000, 001, ...; got"):
        sav(tmp_path)


def test_objects_of_sav_enter_where_the_index_mask_shows_them(tmp_path: Path) -> None:
    CLEAN["sav"](tmp_path)
    masks = tmp_path / "Annotations_6fps" / "sav_000001"
    write_mask(masks / "001" / "00000.png", boxes({}))  # empty
    write_mask(masks / "002" / "00000.png", boxes({1: A}))  # object 1 once more, of which one is on top
    for t, folder in ((4, "001"), (8, "002"), (8, "003")):
        write_mask(masks / folder / f"{t:05d}.png", boxes({1: B}))
    (video,) = sav(tmp_path)
    assert video.mask(0).max() == 3 and dict(video.first_frames) == {3: 0, 1: 4, 2: 4, 4: 8}
    assert set(np.unique(video.prompt_mask(4))) == {0, 1, 2}


def test_frames_and_masks_of_sav_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = write_sav_train(tmp_path / "sav_000", "sav_000001")
    (video,) = sav_train(tmp_path)
    assert list(video.frame_names) == ["00000", "00004", "00008", "00012", "00016", "00020"]
    for t in (5, 0, 3):  # in any order
        assert abs(video.frame(t).mean() - 40 * t) < 4
        np.testing.assert_array_equal(video.mask(t), np.where(masks[t, 1], 2, masks[t, 0]))
    assert video.first_frames == {1: 0, 2: 0} and len(video.fingerprint()) == 32
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ModuleNotFoundError, match="needs pycocotools, .*; pip install 'stm-vos\\[sav\\]'"):
        video.mask(0)


def test_damaged_files_of_sav_train(tmp_path: Path) -> None:
    write_sav_train(tmp_path, "sav_000001", frames=8)
    path = tmp_path / "sav_000001_manual.json"
    values = json.loads(path.read_text())
    values["masklet"].append(["no code"])
    path.write_text(json.dumps(values))
    (video,) = sav_train(tmp_path)
    with pytest.raises(ValueError, match=r"masklet\[2\] must be a list of run-length codes"):
        video.mask(2)
    with pytest.raises(ValueError, match="mp4: ends before frame 00008, which has masks"):
        video.frame(2)
    (tmp_path / "sav_000001.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="there is no such file beside sav_000001_manual.json"):
        sav_train(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no file such as sav_000/sav_000001_auto.json"):
        sav_train(tmp_path, "auto")
