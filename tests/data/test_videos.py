"""Videos on disk: names, order, objects, sparse masks, errors for broken files."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.data_trees import boxes, smooth_image, write_frame, write_video
from PIL import Image

from stm.data.image_io import read_frame, shrink_image
from stm.data.videos import davis, folder, youtube_vos
from stm.masks import write_mask
from stm.video import VOID

A, B = (5, 5, 20, 25), (22, 30, 38, 55)


def write_davis(root: Path, lists: dict[str, str]) -> None:
    masks = [boxes({2: A, 11: B, 200: (0, 50, 4, 60)})] * 3
    for name in ("bear", "ant"):
        write_video(root, name, masks, below="480p")
    for path, text in lists.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_davis_keeps_the_order_of_its_list_and_the_ids_of_its_masks(tmp_path):
    write_davis(tmp_path, {"ImageSets/2017/train.txt": "bear\nant\n\n"})
    videos = davis(tmp_path)
    assert [video.name for video in videos] == ["bear", "ant"]
    assert list(videos[0].frame_names) == ["00000", "00001", "00002"]
    assert dict(videos[0].first_frames) == {2: 0, 11: 0, 200: 0}
    assert np.array_equal(videos[0].mask(1), boxes({2: A, 11: B, 200: (0, 50, 4, 60)}))
    assert list(videos[0].annotated) == [0, 1, 2]


def test_frames_equal_those_of_another_decoder(tmp_path):
    write_davis(tmp_path, {"ImageSets/2017/train.txt": "bear"})
    video = davis(tmp_path)[0]
    expected = np.asarray(Image.open(video.frame_path(2)).convert("RGB")).astype(int)
    assert np.abs(video.frame(2).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("path", ["ImageSets/2016/val.txt", "ImageSets/480p/val.txt"])
def test_davis_2016_reads_lists_with_two_paths_per_line(tmp_path, path):
    line = "/JPEGImages/480p/{0}/0000{1}.jpg /Annotations/480p/{0}/0000{1}.png \n"
    write_davis(tmp_path, {path: "".join(line.format(n, t) for n in ("bear", "ant") for t in range(3))})
    assert [video.name for video in davis(tmp_path, year=2016, split="val")] == ["bear", "ant"]


def test_davis_2016_merges_the_objects_of_2017_and_keeps_void(tmp_path):
    write_video(tmp_path, "v", [boxes({3: A, 7: B, VOID: (0, 0, 2, 2)})] * 2, below="480p")
    (tmp_path / "ImageSets" / "2016").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2016" / "train.txt").write_text("v")
    video = davis(tmp_path, year=2016)[0]
    expected = np.where(boxes({1: A}) + boxes({1: B}) > 0, 1, boxes({VOID: (0, 0, 2, 2)}))
    assert np.array_equal(video.mask(0), expected)
    assert dict(video.first_frames) == {1: 0}


def test_255_is_the_object_in_the_davis_2016_archive(tmp_path):
    write_video(tmp_path, "v", [boxes({VOID: A}), boxes({})], below="480p")
    (tmp_path / "ImageSets" / "2016").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2016" / "train.txt").write_text("v")
    video = davis(tmp_path, year=2016)[0]
    assert np.array_equal(video.mask(0), boxes({1: A}))
    assert not video.mask(1).any()


def test_binary_masks_may_start_with_empty_ones(tmp_path):
    write_video(tmp_path, "late", [boxes({}), boxes({}), boxes({VOID: A}), boxes({VOID: B})])
    write_video(tmp_path, "void", [boxes({}), boxes({VOID: A, 3: B}), boxes({VOID: A})])
    write_video(tmp_path, "empty", [boxes({})] * 2)
    empty, late, void = folder(tmp_path)
    assert dict(late.first_frames) == {1: 2} and np.array_equal(late.mask(3), boxes({1: B}))
    assert dict(void.first_frames) == {3: 1} and np.array_equal(void.mask(2), boxes({VOID: A}))
    assert dict(empty.first_frames) == {}


def test_names_in_a_list_may_contain_spaces(tmp_path):
    write_davis(tmp_path, {"ImageSets/2017/train.txt": "bear\nmy cat \n"})
    write_video(tmp_path, "my cat", [boxes({1: A})] * 2, below="480p")
    assert [video.name for video in davis(tmp_path)] == ["bear", "my cat"]


def test_a_missing_root_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        davis(tmp_path / "nowhere")


def test_the_error_for_a_missing_list_names_the_available_ones(tmp_path):
    write_davis(tmp_path, {"ImageSets/2017/train.txt": "bear"})
    with pytest.raises(FileNotFoundError, match=r"trian\.txt.*available are ImageSets/2017/train\.txt"):
        davis(tmp_path, split="trian")
    with pytest.raises(ValueError, match="year=2018: must be 2016 or 2017"):
        davis(tmp_path, year=2018)


def test_the_error_for_a_missing_video_names_its_path(tmp_path):
    write_davis(tmp_path, {"ImageSets/2017/train.txt": "bear\ncat"})
    with pytest.raises(FileNotFoundError, match=r"JPEGImages/480p/cat"):
        davis(tmp_path)


def test_frames_are_sorted_naturally(tmp_path):
    for name in ("frame2", "frame10", "frame1"):
        write_frame(tmp_path / "JPEGImages" / "v" / f"{name}.png", smooth_image(0))
    assert list(folder(tmp_path)[0].frame_names) == ["frame1", "frame2", "frame10"]


def write_youtube(root: Path) -> None:
    late = [boxes({1: A}), boxes({1: A}), boxes({1: A, 12: B})]
    write_video(root / "train", "aaa", late, step=5)
    write_video(root / "train", "bbb", [boxes({1: A})] * 3, step=5)
    write_video(root / "train", "ccc", [boxes({1: A})] * 3, step=5)
    frames = ["00000", "00005", "00010"]
    meta = {
        "aaa": {"1": {"category": "cat", "frames": frames}, "12": {"category": "dog", "frames": ["00010"]}},
        "bbb": {"1": {"category": "fox", "frames": frames}},
        "ccc": {"1": {"category": "cat", "frames": frames}},
    }
    text = json.dumps({"videos": {name: {"objects": objects} for name, objects in meta.items()}})
    (root / "train" / "meta.json").write_text(text)


def test_youtube_vos_has_late_objects_and_categories(tmp_path):
    write_youtube(tmp_path)
    video = youtube_vos(tmp_path)[0]
    assert dict(video.first_frames) == {1: 0, 12: 2}
    assert dict(video.categories) == {1: "cat", 12: "dog"}
    assert list(video.frame_names) == ["00000", "00005", "00010"]
    assert np.array_equal(video.prompt_mask(2), boxes({12: B}))


def test_youtube_vos_reads_all_frames_if_available_and_outputs_the_listed_ones(tmp_path):
    root = tmp_path / "valid"
    for t in range(0, 11, 5):
        write_frame(root / "JPEGImages" / "aaa" / f"{t:05d}.jpg", smooth_image(t))
    write_mask(root / "Annotations" / "aaa" / "00005.png", boxes({4: A}))
    objects = {"4": {"category": "cat", "frames": ["00005", "00010"]}}
    (root / "meta.json").write_text(json.dumps({"videos": {"aaa": {"objects": objects}}}))
    sparse = youtube_vos(tmp_path, "valid")[0]
    assert (len(sparse), list(sparse.annotated), list(sparse.output_frames)) == (3, [1], [1, 2])
    for t in range(12):
        write_frame(tmp_path / "valid_all_frames" / "JPEGImages" / "aaa" / f"{t:05d}.jpg", smooth_image(t))
    full = youtube_vos(tmp_path, "valid")[0]
    assert (len(full), list(full.annotated), list(full.output_frames)) == (12, [5], [5, 10])
    assert dict(full.first_frames) == {4: 5}
    assert full.mask(0) is None


def test_holdout_is_the_withheld_part_of_train(tmp_path):
    write_youtube(tmp_path)
    for arguments in ({"holdout_categories": ["dog"]}, {"holdout_share": 0.5}, {"holdout_share": 1.0}):
        train = {video.name for video in youtube_vos(tmp_path, "train", **arguments)}
        holdout = {video.name for video in youtube_vos(tmp_path, "holdout", **arguments)}
        assert train | holdout == {"aaa", "bbb", "ccc"} and not train & holdout
    assert [video.name for video in youtube_vos(tmp_path, "holdout", holdout_categories=["dog"])] == ["aaa"]
    with pytest.raises(
        ValueError, match="holdout_categories=dgo: must be categories in .*; did you mean dog"
    ):
        youtube_vos(tmp_path, holdout_categories=["dgo"])


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"videos": {"a": {}}}', '{"videos": {"a": {"objects": {"x": {"frames": [0]}}}}}']
)
def test_the_error_for_a_broken_meta_json_names_its_path(tmp_path, text):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "meta.json").write_text(text)
    with pytest.raises(ValueError, match=r"train/meta\.json"):
        youtube_vos(tmp_path)


def test_a_frame_that_meta_json_lists_must_exist(tmp_path):
    write_youtube(tmp_path)
    (tmp_path / "train" / "JPEGImages" / "bbb" / "00005.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"bbb/00005\.jpg"):
        youtube_vos(tmp_path)


def test_a_plain_folder_may_have_sparse_masks_and_late_objects(tmp_path):
    write_video(tmp_path, "v", [None, boxes({5: A}), None, boxes({5: A, 30: B})])
    write_video(tmp_path, "unlabeled", [None, None])
    unlabeled, video = folder(tmp_path)
    assert (unlabeled.name, list(unlabeled.annotated), dict(unlabeled.first_frames)) == (
        "unlabeled",
        [],
        {},
    )
    assert list(video.annotated) == [1, 3]
    assert dict(video.first_frames) == {5: 1, 30: 3}


def test_a_plain_folder_of_binary_masks_has_one_object(tmp_path):
    write_video(tmp_path, "v", [boxes({VOID: A})] * 2)
    assert np.array_equal(folder(tmp_path)[0].mask(1), boxes({1: A}))


def test_the_error_for_different_sizes_names_both_files(tmp_path):
    write_video(tmp_path, "v", [boxes({1: A})])
    write_mask(tmp_path / "Annotations" / "v" / "00000.png", boxes({1: A}, (20, 30)))
    with pytest.raises(ValueError, match=r"JPEGImages/v/00000\.jpg with 60x40.*v/00000\.png with 30x20"):
        folder(tmp_path)[0].mask(0)


def test_the_error_for_a_mask_with_colors_names_its_path(tmp_path):
    write_video(tmp_path, "v", [boxes({1: A})])
    Image.fromarray(smooth_image(0)).save(tmp_path / "Annotations" / "v" / "00000.png")
    with pytest.raises(ValueError, match=r"v/00000\.png.*mode RGB"):
        folder(tmp_path)[0].mask(0)


def test_broken_frames_are_refused_when_they_are_read(tmp_path):
    write_video(tmp_path, "v", [boxes({1: A})] * 2)
    path = tmp_path / "JPEGImages" / "v" / "00001.jpg"
    content = path.read_bytes()
    video = folder(tmp_path)[0]
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"00001\.jpg: the JPEG is truncated"):
        video.frame(1)
    for text in (b"no image", b""):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=r"00001\.jpg: not an image"):
            folder(tmp_path)[0].frame(1)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"00001\.jpg"):
        video.frame(1)


def test_frames_with_two_suffixes_are_refused(tmp_path):
    write_video(tmp_path, "v", [boxes({1: A})] * 2)
    write_frame(tmp_path / "JPEGImages" / "v" / "00000.png", smooth_image(0))
    with pytest.raises(ValueError, match=r"share one suffix; got \.jpg, \.png"):
        folder(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("by", [2, 4, 8])
def test_a_shrunk_frame_averages_blocks_of_pixels(tmp_path, suffix, by):
    path = tmp_path / f"x{suffix}"
    write_frame(path, smooth_image(3, (83, 121)))
    small, full = read_frame(path, by), read_frame(path)
    assert small.shape == (-(-83 // by), -(-121 // by), 3)
    rows, columns = 83 // by, 121 // by  # complete blocks
    blocks = full[: rows * by, : columns * by].reshape(rows, by, columns, by, 3).mean(axis=(1, 3))
    assert np.abs(small[:rows, :columns] - blocks).mean() < 2
    assert np.abs(shrink_image(full, by)[:rows, :columns] - blocks).max() <= 1


def test_videos_are_cheap_to_pickle(tmp_path):
    write_video(tmp_path, "v", [boxes({1: A})] * 20)
    video = folder(tmp_path)[0]
    pickled = pickle.dumps(video)
    assert len(pickled) < 2000
    assert np.array_equal(pickle.loads(pickled).mask(3), video.mask(3))


def test_real_davis_and_youtube_vos(shared_data):
    videos = davis(shared_data / "DAVIS", split="val")
    blackswan = next(video for video in videos if video.name == "blackswan")
    assert blackswan.frame(0).shape == (480, 854, 3) and dict(blackswan.first_frames) == {1: 0}
    two = next(video for video in videos if video.name == "bmx-trees-2obj")
    assert set(two.first_frames) == {1, 2}
    small = davis(shared_data / "DAVIS", split="train-240p", resolution="240p")
    assert len(small) == 28 and small[0].mask(0).shape[0] == 240
    video = youtube_vos(shared_data / "YouTubeVOS")[0]
    assert len(video.annotated) == 15 and set(video.categories.values()) == {"penguin"}
