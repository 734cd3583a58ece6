"""Benchmarks refuse videos that would otherwise vanish from the mean."""

import codecs
import json
import shutil

import numpy as np
import pytest
from helpers.check_trees import CLEAN
from helpers.data_trees import boxes, write_video

from stm.data.dataset_lists import video_names
from stm.evaluation import benchmarks
from stm.evaluation.tally import scored_frames
from stm.masks import write_mask

A, B = (5, 5, 20, 25), (22, 30, 38, 55)
GOOD = [boxes({1: A, 2: B})] * 4


def write_davis(root, masks):
    write_video(root, "a", GOOD, below="480p")
    write_video(root, "b", masks, below="480p")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("a\nb\n")
    (root / "ImageSets" / "2016").mkdir()
    (root / "ImageSets" / "2016" / "val.txt").write_text("a\nb\n")


@pytest.mark.parametrize(
    ("masks", "fault"),
    [
        ([boxes({255: A})] * 4, "b must show an object, where it enters: .*b/00000.png shows none"),
        ([boxes({}), *GOOD[:3]], "b must show an object, where it enters: .*b/00000.png shows none"),
        (GOOD[:2], "b has no frame that counts: 2 of 2 frames have a mask"),
    ],
)
def test_davis_videos_that_cannot_be_evaluated_are_refused(tmp_path, masks, fault):
    write_davis(tmp_path, masks)
    with pytest.raises(ValueError, match=f"1 of 2 videos cannot be evaluated: {fault}"):
        benchmarks.davis(tmp_path)
    assert [video.name for video in benchmarks.davis(tmp_path, only=["a"]).videos] == ["a"]


def test_davis_objects_that_enter_late_are_refused(tmp_path):
    write_davis(tmp_path, [boxes({1: A}), boxes({1: A}), boxes({1: A, 2: B}), boxes({2: B})])
    with pytest.raises(
        ValueError, match="does not show: object 2 of b, from 00002 on. benchmark.ignore_late"
    ):
        benchmarks.davis(tmp_path)
    video = benchmarks.davis(tmp_path, ignore_late_objects=True).videos[1]
    assert scored_frames(video, "davis") == {1: [1, 2]}
    assert len(benchmarks.davis(tmp_path, year=2016).videos) == 2


def test_davis_videos_without_masks_in_this_resolution_are_refused(tmp_path):
    write_davis(tmp_path, GOOD)
    (tmp_path / "Annotations" / "480p" / "b").rename(tmp_path / "Annotations" / "b")
    with pytest.raises(ValueError, match="b has no mask .*Annotations/480p/b"):
        benchmarks.davis(tmp_path)


def test_a_test_set_shows_only_first_masks(tmp_path):
    write_davis(tmp_path, GOOD)
    for name in "ab":
        for t in range(1, 4):
            (tmp_path / "Annotations" / "480p" / name / f"0000{t}.png").unlink()
    assert len(benchmarks.davis(tmp_path).videos) == 2


@pytest.mark.parametrize("is_missing", [True, False])
def test_objects_of_meta_json_must_have_a_mask_where_they_enter(tmp_path, is_missing):
    write_video(tmp_path / "valid", "v", GOOD)
    frames = ["00000", "00001", "00002", "00003"]
    objects = {"1": {"category": "cat", "frames": frames}, "2": {"category": "dog", "frames": frames[2:]}}
    (tmp_path / "valid" / "meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    assert len(benchmarks.youtube_vos(tmp_path).videos) == 1
    mask = tmp_path / "valid" / "Annotations" / "v" / "00002.png"
    if is_missing:
        mask.unlink()
    else:
        write_mask(mask, boxes({1: A}))
    fault = (
        "has no mask .*00002.png, where object 2 enters" if is_missing else "must show object 2, which enters"
    )
    with pytest.raises(ValueError, match=f"v {fault}"):
        benchmarks.youtube_vos(tmp_path)


def test_an_object_of_sav_that_no_index_mask_shows_is_refused(tmp_path):
    CLEAN["sav"](tmp_path)
    masks = tmp_path / "Annotations_6fps" / "sav_000001"
    shutil.copytree(masks / "000", masks / "001")
    with pytest.raises(ValueError, match=f"sav_000001 must show object 1: {masks}/000 is empty, or others"):
        benchmarks.sav(tmp_path)
    write_mask(masks / "000" / "00004.png", boxes({1: B}))
    (video,) = benchmarks.sav(tmp_path).videos
    assert video.first_frames == {1: 4, 2: 0}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_may_be_written_by_powershell(tmp_path, encoding):
    (tmp_path / "val.txt").write_bytes("b\u00e4r\r\nant\r\n".encode(encoding))
    assert video_names(tmp_path / "val.txt") == ["b\u00e4r", "ant"]


def test_a_list_that_is_no_text_names_its_path(tmp_path):
    (tmp_path / "val.txt").write_bytes(b"\xff\x00\x01" + codecs.BOM_UTF8 + np.arange(9).tobytes())
    with pytest.raises(ValueError, match="val.txt: must be a text file in UTF-8"):
        video_names(tmp_path / "val.txt")
