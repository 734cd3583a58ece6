"""`stm check` on data sets: each fault is planted in a valid data set and is the only issue."""

import json
import os

import pytest
from helpers.check_trees import (
    CLEAN,
    TWO,
    A,
    B,
    C,
    check_issues,
    clean_davis,
    clean_folder,
    clean_stills,
    clean_youtube,
    damage_all_masks,
    save_binary,
    save_blurred,
    write_list,
    write_meta,
)
from helpers.data_trees import boxes, smooth_image, write_frame, write_video
from PIL import Image, ImageFilter

from stm.cli import main as cli
from stm.cli.check import Layout
from stm.data.lvos_videos import lvos
from stm.data.mose_videos import mose
from stm.data.sav_videos import sav
from stm.data.stills import pairs
from stm.data.videos import davis, folder, youtube_vos
from stm.data.vost_videos import vost
from stm.dataset_check.layouts import LAYOUTS
from stm.masks import write_mask
from stm.video import VOID

LOADERS = {
    "davis": lambda root: davis(root) + davis(root, split="val"),
    "youtube_vos": lambda root: youtube_vos(root) + youtube_vos(root, "valid"),
    "mose": lambda root: mose(root) + mose(root, "valid"),
    "lvos": lambda root: lvos(root) + lvos(root, "val") + lvos(root, "test"),
    "vost": lambda root: vost(root) + vost(root, "val") + vost(root, "test"),
    "sav": sav,
    "folder": folder,
    "stills": pairs,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_valid_data_set_has_no_issue_and_its_layout_is_detected(layout, tmp_path, capsys):
    CLEAN[layout](tmp_path / "set")
    assert check_issues(tmp_path / "set") == check_issues(tmp_path / "set", "--layout", layout) == []
    report = json.loads((tmp_path / "set.json").read_text())
    assert report["layout"] == layout and report["counts"] == {"error": 0, "warning": 0, "note": 0}
    loaded = LOADERS[layout](tmp_path / "set")  # the loaders agree
    assert len(loaded) == report["videos"] + report["stills"] > 0
    assert capsys.readouterr().out.startswith(f"{layout}: ")


def test_the_layout_option_accepts_every_layout():
    assert set(LAYOUTS) == set(Layout.__args__) - {"auto"}


def test_stills_in_two_folders_and_other_davis_splits_are_valid(tmp_path):
    for i in range(2):
        write_frame(tmp_path / "two" / "images" / f"{i}.png", smooth_image(i))
        write_mask(tmp_path / "two" / "ground_truth_mask" / f"{i}.png", boxes({VOID: A}))
    assert check_issues(tmp_path / "two") == []
    line = "/JPEGImages/480p/v/0000{0}.jpg /Annotations/480p/v/0000{0}.png"
    write_video(tmp_path / "2016", "v", [boxes({}), *[boxes({VOID: A})] * 3], below="480p")
    write_list(tmp_path / "2016", "480p/train", *(line.format(t) for t in range(4)))
    assert check_issues(tmp_path / "2016") == [("error", "first-mask-empty", "Annotations/480p/v/00000.png")]
    write_video(tmp_path / "dev", "v", [boxes({1: A}), None, None, None], below="480p")
    write_list(tmp_path / "dev", "2017/test-dev", "v")
    assert check_issues(tmp_path / "dev") == []


def test_each_resolution_may_have_its_own_lists(tmp_path):
    clean_davis(tmp_path / "set")
    for name in ("ant", "cow"):
        write_video(tmp_path / "set", name, TWO, below="240p")
    write_list(tmp_path / "set", "2017/small", "ant", "cow")
    assert check_issues(tmp_path / "set") == []


# --- planted faults ---


def test_binary_masks_are_errors_only_where_ids_are_expected(tmp_path):
    clean_davis(tmp_path / "davis")
    paths = damage_all_masks(tmp_path / "davis", save_binary)
    assert check_issues(tmp_path / "davis") == [("error", "mask-binary", path) for path in paths]
    clean_youtube(tmp_path / "youtube")
    paths = damage_all_masks(tmp_path / "youtube", save_binary, "aaa")
    assert check_issues(tmp_path / "youtube") == [("error", "mask-binary", path) for path in paths]
    clean_folder(tmp_path / "folder")
    paths = damage_all_masks(tmp_path / "folder", save_binary, "dog")
    assert check_issues(tmp_path / "folder") == [("note", "mask-binary", path) for path in paths]
    assert dict(folder(tmp_path / "folder")[1].first_frames) == {1: 0}  # the loader reads them as one object
    write_mask(tmp_path / "folder" / paths[3], boxes({3: A}))  # its id is then lost
    expected = [("error", "mask-binary", path) for path in paths[:3]]
    assert check_issues(tmp_path / "folder") == expected


def test_issues_of_davis_videos(tmp_path):
    root = tmp_path / "set"
    clean_davis(root)
    empty = boxes({})
    write_video(root, "b-empty-first", [empty, *TWO], below="480p")
    write_video(root, "c-empty", [empty] * 4, below="480p")
    write_video(root, "d-few", TWO[:2], below="480p")
    write_video(root, "e-void", [boxes({1: A, VOID: (0, 0, 4, 60)})] * 4, below="480p")
    write_video(root, "f-gap", [boxes({1: A, 4: B})] * 4, below="480p")
    write_video(root, "g-none", [None] * 4, below="480p")
    (root / "JPEGImages" / "480p" / "h-no-frames").mkdir()
    write_mask(root / "Annotations" / "480p" / "i-no-frames" / "00000.png", boxes({1: A}))
    write_video(root, "j-sizes", TWO, below="480p")
    write_frame(root / "JPEGImages" / "480p" / "j-sizes" / "00003.jpg", smooth_image(0, (20, 30)))
    write_mask(root / "Annotations" / "480p" / "j-sizes" / "00003.png", boxes({1: A}, (20, 30)))
    write_video(root, "k-suffixes", TWO, below="480p")
    write_frame(root / "JPEGImages" / "480p" / "k-suffixes" / "00009.png", smooth_image(0))
    videos = sorted(path.name for path in (root / "JPEGImages" / "480p").iterdir())
    write_list(root, "2017/train", *videos)
    masks = "Annotations/480p"
    assert check_issues(root) == [
        ("error", "first-mask-empty", f"{masks}/b-empty-first/00000.png"),
        ("error", "frame-sizes", "JPEGImages/480p/j-sizes"),
        ("error", "mixed-suffixes", "JPEGImages/480p/k-suffixes"),
        ("error", "no-frames", "JPEGImages/480p/h-no-frames"),
        ("error", "no-masks", f"{masks}/g-none"),
        ("error", "no-objects", f"{masks}/c-empty"),
        ("warning", "few-masks", f"{masks}/d-few"),
        ("warning", "mask-without-frame", f"{masks}/i-no-frames"),
        ("note", "id-gap", f"{masks}/f-gap"),
        ("note", "void", f"{masks}/e-void"),
    ]
    messages = {
        issue["code"]: issue["message"] for issue in json.loads((tmp_path / "set.json").read_text())["issues"]
    }
    assert messages["void"].startswith("10.00% of the mask pixels are void (255): ")
    assert messages["id-gap"].startswith("the ids are 1, 4, without 2, 3: ")
    assert messages["frame-sizes"].startswith("the frames have several sizes, 3 of 60x40, 1 of 30x20: ")


def test_a_gap_in_the_numbering_is_a_step_larger_than_the_usual_one(tmp_path):
    write_video(tmp_path / "set", "v", TWO * 3, step=5)
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        (tmp_path / "set" / kind / "v" / f"00015.{suffix}").unlink()
    assert check_issues(tmp_path / "set") == [("warning", "frame-gap", "JPEGImages/v")]
    message = json.loads((tmp_path / "set.json").read_text())["issues"][0]["message"]
    assert message.startswith("10 is followed by 20, but the usual step is 5: ")


def test_issues_of_davis_lists(tmp_path):
    root = tmp_path / "set"
    clean_davis(root)
    write_list(root, "2017/train", "ant", "cow", "../../../etc")
    write_list(root, "2017/val")
    (root / "ImageSets" / "2017" / "odd.txt").write_bytes(b"\xff\xfe\x00")
    (root / "ImageSets" / "2017" / "folder.txt").mkdir()
    assert check_issues(root) == [
        ("error", "list-broken", "ImageSets/2017/folder.txt"),
        ("error", "list-broken", "ImageSets/2017/odd.txt"),
        ("error", "list-broken", "ImageSets/2017/val.txt"),
        ("error", "listed-missing", "ImageSets/2017/train.txt"),
        ("error", "listed-missing", "ImageSets/2017/train.txt"),
        ("note", "unlisted", "JPEGImages/480p/bear"),
    ]
    for path in root.glob("ImageSets/2017/*.txt"):
        path.rmdir() if path.is_dir() else path.unlink()
    assert check_issues(root) == [("error", "no-lists", ".")]


def test_meta_json_is_compared_with_the_masks(tmp_path):
    root = tmp_path / "set"
    clean_youtube(root)
    write_video(root / "train", "ccc", [boxes({1: A, 7: B})] * 3, step=5)
    write_video(root / "train", "ddd", [boxes({1: A})] * 3, step=5)
    write_meta(
        root / "train",
        {"aaa": {1: [0, 5, 10], 2: [5, 10]}, "bbb": {1: [0]}, "ccc": {1: [0, 5, 10, 15], 2: [0]}},
    )
    (root / "valid" / "Annotations" / "bbb" / "00000.png").rename(tmp_path / "elsewhere.png")
    write_mask(root / "valid" / "Annotations" / "bbb" / "00005.png", boxes({1: A}))
    assert check_issues(root) == [
        ("error", "mask-missing", "valid/Annotations/bbb/00000.png"),
        ("error", "meta-missing", "train/meta.json"),
        ("error", "meta-missing", "train/meta.json"),
        ("error", "meta-no-mask", "train/Annotations/ccc"),
        ("warning", "id-not-in-meta", "train/Annotations/ccc"),
        ("warning", "meta-no-mask", "train/Annotations/aaa/00005.png"),
        ("note", "id-gap", "train/Annotations/ccc"),
        ("note", "unlisted", "train/JPEGImages/ddd"),
    ]


FRAMES_IS_A_NUMBER = '{"videos": {"aaa": {"objects": {"1": {"frames": 5}}}}}'


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"videos": {"aaa": {}}}', "[" * 100_000, "\0", FRAMES_IS_A_NUMBER]
)
def test_videos_are_checked_despite_a_broken_meta_json(text, tmp_path):
    clean_youtube(tmp_path / "set")
    (tmp_path / "set" / "train" / "meta.json").write_text(text)
    save_blurred(tmp_path / "set" / "train" / "Annotations" / "aaa" / "00005.png")
    assert check_issues(tmp_path / "set") == [
        ("error", "mask-antialiased", "train/Annotations/aaa/00005.png"),
        ("error", "meta-broken", "train/meta.json"),
    ]


def test_a_plain_folder_may_have_sparse_masks_and_late_objects(tmp_path):
    root = tmp_path / "set"
    clean_folder(root)
    write_video(root, "late", [boxes({}), boxes({1: A}), boxes({1: A, 2: B})])
    write_video(root, "later", [boxes({1: A}), boxes({1: A, 2: B}), boxes({2: B})])
    write_video(root, "one", [boxes({1: A}), None, None])
    write_video(root, "none", [None, None])
    assert check_issues(root) == [
        ("error", "no-masks", "Annotations/none"),
        ("warning", "few-masks", "Annotations/one"),
        ("note", "first-mask-empty", "Annotations/late/00000.png"),
        ("note", "late-object", "Annotations/later/00001.png"),
    ]


def test_issues_of_stills(tmp_path):
    root = tmp_path / "set"
    clean_stills(root)
    write_frame(root / "3.jpg", smooth_image(3))
    write_mask(root / "4.png", boxes({1: A}))
    masks = {
        "5": Image.fromarray(boxes({VOID: A})).filter(ImageFilter.GaussianBlur(2)),  # read as 128 and above
        "6": Image.fromarray(boxes({1: A, 2: B, VOID: C})),
        "7": Image.fromarray(boxes({1: A})),
        "8": Image.fromarray(boxes({})),
        "9": Image.fromarray(smooth_image(0)),
    }
    for name, mask in masks.items():
        write_frame(root / f"{name}.jpg", smooth_image(1))
        mask.save(root / f"{name}.png")
    assert check_issues(root) == [
        ("error", "mask-missing", "3.png"),
        ("error", "mask-rgb", "9.png"),
        ("warning", "mask-gray", "6.png"),
        ("warning", "mask-without-frame", "4.png"),
        ("warning", "no-objects", "8.png"),
        ("note", "mask-antialiased", "5.png"),
        ("note", "mask-gray", "7.png"),
    ]


@pytest.mark.parametrize("layout", ["davis", "folder", "youtube_vos", "stills"])
def test_circular_links_and_unprintable_names_are_handled(layout, tmp_path, capsys):
    root = tmp_path / "set"
    CLEAN[layout](root)
    for path in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (path / "circle.png").symlink_to("circle.png")
        (path / "up").symlink_to("..")
        (path / "here.txt").symlink_to(".")
    name = os.fsdecode(b"[bold]\x1b[31m\xff\n.png")
    target = {"davis": "Annotations/480p/ant", "folder": "Annotations/dog", "stills": "."}
    odd = root / target.get(layout, "train/Annotations/aaa") / name
    odd.write_text("x")
    severity = "error" if layout != "stills" else "warning"
    assert (severity, "mask-without-frame", str(odd.relative_to(root))) in check_issues(root)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "[bold]" in printed


def test_real_clips_are_valid(shared_data, tmp_path):
    (tmp_path / "set").symlink_to(shared_data / "YouTubeVOS")
    assert check_issues(tmp_path / "set") == []
    assert cli.run(["check", str(shared_data / "stills")]) == 0


@pytest.mark.slow
def test_real_davis_is_valid(shared_data, tmp_path):
    (tmp_path / "set").symlink_to(shared_data / "DAVIS")
    assert check_issues(tmp_path / "set") == []
