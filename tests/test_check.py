"""`stm check`: each fault is planted in a clean data set on disk, and is found, it alone, at its path."""

import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_trees import boxes, picture, write_frame, write_video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from stm.apps import cli
from stm.apps.check import Layout
from stm.apps.doctor.facts import look_at_frame, look_at_mask
from stm.apps.doctor.findings import CODES, SEVERITIES
from stm.apps.doctor.layouts import LAYOUTS
from stm.clip import VOID
from stm.data.files import read_frame
from stm.data.stills import pairs
from stm.data.videos import davis, folder, youtube_vos
from stm.masks import PALETTE, object_ids, read_mask, write_mask

A, B, C = (5, 5, 20, 25), (22, 30, 38, 55), (2, 40, 12, 58)
TWO = [boxes({1: A, 2: B})] * 4


def clean_davis(root: Path) -> None:
    for name in ("ant", "bear"):
        write_video(root, name, TWO, below="480p")
    write_list(root, "2017/train", "ant")
    write_list(root, "2017/val", "bear")


def write_list(root: Path, name: str, *videos: str) -> None:
    path = root / "ImageSets" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{video}\n" for video in videos))


def clean_youtube(root: Path) -> None:
    late = [boxes({1: A}), boxes({1: A}), boxes({1: A, 2: B})]
    write_video(root / "train", "aaa", late, step=5)
    write_video(root / "valid", "bbb", [boxes({1: A}), None, None], step=5)
    write_meta(root / "train", {"aaa": {1: [0, 5, 10], 2: [10]}})
    write_meta(root / "valid", {"bbb": {1: [0, 5, 10]}})
    for t in range(11):
        write_frame(root / "valid_all_frames" / "JPEGImages" / "bbb" / f"{t:05d}.jpg", picture(t))


def write_meta(split: Path, videos: dict[str, dict[int, list[int]]]) -> None:
    described = {
        name: {
            "objects": {
                str(label): {"category": "cat", "frames": [f"{t:05d}" for t in frames]}
                for label, frames in objects.items()
            }
        }
        for name, objects in videos.items()
    }
    (split / "meta.json").write_text(json.dumps({"videos": described}))


def clean_folder(root: Path) -> None:
    write_video(root, "dog", TWO)
    write_video(root, "cat", [boxes({1: A}), None, boxes({1: B}), boxes({1: B})])


def clean_stills(root: Path) -> None:
    for i, mask in enumerate([boxes({1: A}), boxes({1: A, 2: B}), boxes({VOID: A})]):
        write_frame(root / f"{i}.jpg", picture(i))
        write_mask(root / f"{i}.png", mask)
    Image.fromarray(boxes({VOID: B})).save(root / "0.png")  # grey, as salient-object sets have them


CLEAN = {"davis": clean_davis, "youtube_vos": clean_youtube, "folder": clean_folder, "stills": clean_stills}
LOADERS = {
    "davis": lambda root: davis(root) + davis(root, split="val"),
    "youtube_vos": lambda root: youtube_vos(root) + youtube_vos(root, "valid"),
    "folder": folder,
    "stills": pairs,
}


def found(root: Path, *options: str, code: int | None = None) -> list[tuple[str, str, str]]:
    """Severity, code and path of what the command finds; its exit code is as it should be."""
    report = root.parent / f"{root.name}.json"
    exit_code = cli.run(["check", str(root), "--output", str(report), *options])
    findings = json.loads(report.read_text())["findings"]
    has_errors = any(finding["severity"] == "error" for finding in findings)
    assert exit_code == (int(has_errors) if code is None else code)
    return [(finding["severity"], finding["code"], finding["path"]) for finding in findings]


# --- clean data sets ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_clean_data_set_has_no_finding_and_its_layout_is_seen(layout, tmp_path, capsys):
    CLEAN[layout](tmp_path / "set")
    assert found(tmp_path / "set") == found(tmp_path / "set", "--layout", layout) == []
    report = json.loads((tmp_path / "set.json").read_text())
    assert report["layout"] == layout and report["counts"] == {"error": 0, "warning": 0, "note": 0}
    loaded = LOADERS[layout](tmp_path / "set")  # the loaders agree
    assert len(loaded) == report["videos"] + report["stills"] > 0
    assert capsys.readouterr().out.startswith(f"{layout}: ")


def test_every_layout_can_be_named():
    assert set(LAYOUTS) == set(Layout.__args__) - {"auto"}


def test_stills_in_two_folders_and_more_davis_trees_are_clean(tmp_path):
    for i in range(2):
        write_frame(tmp_path / "two" / "images" / f"{i}.png", picture(i))
        write_mask(tmp_path / "two" / "ground_truth_mask" / f"{i}.png", boxes({VOID: A}))
    assert found(tmp_path / "two") == []
    line = "/JPEGImages/480p/v/0000{0}.jpg /Annotations/480p/v/0000{0}.png"
    write_video(tmp_path / "2016", "v", [boxes({}), *[boxes({VOID: A})] * 3], below="480p")
    write_list(tmp_path / "2016", "480p/train", *(line.format(t) for t in range(4)))
    assert found(tmp_path / "2016") == [("error", "first-mask-empty", "Annotations/480p/v/00000.png")]
    write_video(tmp_path / "dev", "v", [boxes({1: A}), None, None, None], below="480p")
    write_list(tmp_path / "dev", "2017/test-dev", "v")
    assert found(tmp_path / "dev") == []


def test_two_resolutions_have_lists_of_their_own(tmp_path):
    clean_davis(tmp_path / "set")
    for name in ("ant", "cow"):
        write_video(tmp_path / "set", name, TWO, below="240p")
    write_list(tmp_path / "set", "2017/small", "ant", "cow")
    assert found(tmp_path / "set") == []


# --- planted faults ---


def grey(path: Path) -> None:
    Image.fromarray(read_mask(path)).save(path)


def coloured(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def smoothed(path: Path) -> None:
    white = Image.fromarray(255 * (read_mask(path) > 0).astype(np.uint8))
    white.filter(ImageFilter.GaussianBlur(1)).save(path)


def black_and_white(path: Path) -> None:
    Image.fromarray(255 * (read_mask(path) > 0).astype(np.uint8)).save(path)


def relabelled(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: write_mask(path, change(read_mask(path)))


def smaller(path: Path) -> None:
    write_mask(path, boxes({1: A, 2: B})[::2, ::2])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def a_bomb(path: Path) -> None:
    path.write_bytes(png_header(60_000, 60_000))


def a_small_bomb(path: Path) -> None:
    """Small enough for PIL's own limit, too large for ours."""
    path.write_bytes(png_header(10_000, 10_000))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


JPG, PNG = "JPEGImages/480p/ant/00002.jpg", "Annotations/480p/ant/00002.png"
FILES = [
    (JPG, lambda path: path.write_bytes(b""), "error", "empty-file"),
    (JPG, lambda path: path.write_text("no picture"), "error", "broken-file"),
    (JPG, cut_short, "error", "broken-file"),
    (JPG, a_folder, "error", "not-a-file"),
    (JPG, a_pipe, "error", "not-a-file"),
    (JPG, a_circle, "error", "not-a-file"),
    (JPG, a_bomb, "error", "huge-picture"),
    (JPG, a_small_bomb, "error", "huge-picture"),
    (JPG, turned, "warning", "frame-turned"),
    (JPG, lambda path: Image.open(path).convert("L").save(path), "note", "frame-mode"),
    (JPG, lambda path: Image.open(path).save(path, "BMP"), "warning", "wrong-format"),
    (PNG, lambda path: path.write_bytes(b""), "error", "empty-file"),
    (PNG, lambda path: path.write_text("no picture"), "error", "broken-file"),
    (PNG, lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n"), "error", "broken-file"),
    (PNG, cut_short, "error", "broken-file"),
    (PNG, a_folder, "error", "not-a-file"),
    (PNG, a_pipe, "error", "not-a-file"),
    (PNG, a_circle, "error", "not-a-file"),
    (PNG, a_bomb, "error", "huge-picture"),
    (PNG, coloured, "error", "mask-rgb"),
    (PNG, lambda path: Image.open(path).convert("RGBA").save(path), "error", "mask-rgb"),
    (PNG, lambda path: Image.open(path).convert("LA").save(path), "error", "mask-mode"),
    (PNG, lambda path: Image.fromarray(read_mask(path).astype(np.uint16)).save(path), "error", "mask-mode"),
    (PNG, smoothed, "error", "mask-smooth"),
    (PNG, grey, "note", "mask-grey"),
    (PNG, lambda path: Image.open(path).save(path, "BMP"), "warning", "wrong-format"),
    (PNG, smaller, "error", "mask-size"),
    (PNG, black_and_white, "warning", "mask-binary"),
    (PNG, relabelled(lambda mask: mask + 4 * boxes({1: C})), "warning", "late-object"),
    (PNG, Path.unlink, "error", "mask-missing"),
    (JPG, Path.unlink, "error", "mask-alone"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "damage", "severity", "code"), FILES)
def test_a_fault_of_one_file_is_found_it_alone(path, damage, severity, code, tmp_path):
    clean_davis(tmp_path / "set")
    target = tmp_path / "set" / path
    damage(target)
    expected = [(severity, code, path)]
    if code == "mask-alone":
        expected = [("error", "mask-alone", PNG), ("warning", "frame-gap", "JPEGImages/480p/ant")]
    if code == "late-object":
        expected.append(("note", "id-gap", "Annotations/480p/ant"))
    assert found(tmp_path / "set") == expected


def every_mask(root: Path, damage: Callable[[Path], None], video: str = "ant") -> list[str]:
    paths = sorted(root.glob(f"**/Annotations/**/{video}/*.png"))
    for path in paths:
        damage(path)
    return [str(path.relative_to(root)) for path in paths]


def test_black_and_white_masks_are_errors_where_ids_are_expected_only(tmp_path):
    clean_davis(tmp_path / "davis")
    paths = every_mask(tmp_path / "davis", black_and_white)
    assert found(tmp_path / "davis") == [("error", "mask-binary", path) for path in paths]
    clean_youtube(tmp_path / "youtube")
    paths = every_mask(tmp_path / "youtube", black_and_white, "aaa")
    assert found(tmp_path / "youtube") == [("error", "mask-binary", path) for path in paths]
    clean_folder(tmp_path / "folder")
    paths = every_mask(tmp_path / "folder", black_and_white, "dog")
    assert found(tmp_path / "folder") == [("note", "mask-binary", path) for path in paths]
    assert dict(folder(tmp_path / "folder")[1].entries) == {1: 0}  # so do loaders read it
    write_mask(tmp_path / "folder" / paths[3], boxes({3: A}))  # and then this one's id is lost
    told = [("error", "mask-binary", path) for path in paths[:3]]
    assert found(tmp_path / "folder") == told


def test_what_a_video_of_davis_lacks(tmp_path):
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
    write_frame(root / "JPEGImages" / "480p" / "j-sizes" / "00003.jpg", picture(0, (20, 30)))
    write_mask(root / "Annotations" / "480p" / "j-sizes" / "00003.png", boxes({1: A}, (20, 30)))
    write_video(root, "k-suffixes", TWO, below="480p")
    write_frame(root / "JPEGImages" / "480p" / "k-suffixes" / "00009.png", picture(0))
    videos = sorted(path.name for path in (root / "JPEGImages" / "480p").iterdir())
    write_list(root, "2017/train", *videos)
    masks = "Annotations/480p"
    assert found(root) == [
        ("error", "first-mask-empty", f"{masks}/b-empty-first/00000.png"),
        ("error", "frame-sizes", "JPEGImages/480p/j-sizes"),
        ("error", "mixed-suffixes", "JPEGImages/480p/k-suffixes"),
        ("error", "no-frames", "JPEGImages/480p/h-no-frames"),
        ("error", "no-masks", f"{masks}/g-none"),
        ("error", "no-objects", f"{masks}/c-empty"),
        ("warning", "few-masks", f"{masks}/d-few"),
        ("warning", "mask-alone", f"{masks}/i-no-frames"),
        ("note", "id-gap", f"{masks}/f-gap"),
        ("note", "void", f"{masks}/e-void"),
    ]
    messages = {f["code"]: f["message"] for f in json.loads((tmp_path / "set.json").read_text())["findings"]}
    assert messages["void"].startswith("10.00% of its masks' pixels are void (255): ")
    assert messages["id-gap"].startswith("there are the ids 1, 4, not 2, 3: ")
    assert messages["frame-sizes"].startswith("there are 3 of 60x40, 1 of 30x20: ")


def test_a_gap_in_the_numbering_is_told_by_the_usual_step(tmp_path):
    write_video(tmp_path / "set", "v", TWO * 3, step=5)
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        (tmp_path / "set" / kind / "v" / f"00015.{suffix}").unlink()
    assert found(tmp_path / "set") == [("warning", "frame-gap", "JPEGImages/v")]
    message = json.loads((tmp_path / "set.json").read_text())["findings"][0]["message"]
    assert message.startswith("after 10 comes 20, elsewhere the numbers rise by 5: ")


def test_lists_of_davis(tmp_path):
    root = tmp_path / "set"
    clean_davis(root)
    write_list(root, "2017/train", "ant", "cow", "../../../etc")
    write_list(root, "2017/val")
    (root / "ImageSets" / "2017" / "odd.txt").write_bytes(b"\xff\xfe\x00")
    (root / "ImageSets" / "2017" / "folder.txt").mkdir()
    assert found(root) == [
        ("error", "list-broken", "ImageSets/2017/folder.txt"),
        ("error", "list-broken", "ImageSets/2017/odd.txt"),
        ("error", "list-broken", "ImageSets/2017/val.txt"),
        ("error", "listed-absent", "ImageSets/2017/train.txt"),
        ("error", "listed-absent", "ImageSets/2017/train.txt"),
        ("note", "unlisted", "JPEGImages/480p/bear"),
    ]
    for path in root.glob("ImageSets/2017/*.txt"):
        path.rmdir() if path.is_dir() else path.unlink()
    assert found(root) == [("error", "no-lists", ".")]


def test_meta_json_against_the_masks(tmp_path):
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
    assert found(root) == [
        ("error", "mask-missing", "valid/Annotations/bbb/00000.png"),
        ("error", "meta-absent", "train/meta.json"),
        ("error", "meta-absent", "train/meta.json"),
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
def test_a_broken_meta_json_is_told_and_the_videos_are_looked_at_all_the_same(text, tmp_path):
    clean_youtube(tmp_path / "set")
    (tmp_path / "set" / "train" / "meta.json").write_text(text)
    smoothed(tmp_path / "set" / "train" / "Annotations" / "aaa" / "00005.png")
    assert found(tmp_path / "set") == [
        ("error", "mask-smooth", "train/Annotations/aaa/00005.png"),
        ("error", "meta-broken", "train/meta.json"),
    ]


def test_a_plain_folder_may_be_sparse_and_its_objects_late(tmp_path):
    root = tmp_path / "set"
    clean_folder(root)
    write_video(root, "late", [boxes({}), boxes({1: A}), boxes({1: A, 2: B})])
    write_video(root, "later", [boxes({1: A}), boxes({1: A, 2: B}), boxes({2: B})])
    write_video(root, "one", [boxes({1: A}), None, None])
    write_video(root, "none", [None, None])
    assert found(root) == [
        ("error", "no-masks", "Annotations/none"),
        ("warning", "few-masks", "Annotations/one"),
        ("note", "first-mask-empty", "Annotations/late/00000.png"),
        ("note", "late-object", "Annotations/later/00001.png"),
    ]


def test_stills(tmp_path):
    root = tmp_path / "set"
    clean_stills(root)
    write_frame(root / "3.jpg", picture(3))
    write_mask(root / "4.png", boxes({1: A}))
    masks = {
        "5": Image.fromarray(boxes({VOID: A})).filter(ImageFilter.GaussianBlur(2)),  # read from 128 on
        "6": Image.fromarray(boxes({1: A, 2: B, VOID: C})),
        "7": Image.fromarray(boxes({1: A})),
        "8": Image.fromarray(boxes({})),
        "9": Image.fromarray(picture(0)),
    }
    for name, mask in masks.items():
        write_frame(root / f"{name}.jpg", picture(1))
        mask.save(root / f"{name}.png")
    assert found(root) == [
        ("error", "mask-missing", "3.png"),
        ("error", "mask-rgb", "9.png"),
        ("warning", "mask-alone", "4.png"),
        ("warning", "mask-grey", "6.png"),
        ("warning", "no-objects", "8.png"),
        ("note", "mask-grey", "7.png"),
        ("note", "mask-smooth", "5.png"),
    ]


@pytest.mark.parametrize("layout", ["davis", "folder", "youtube_vos", "stills"])
def test_links_in_circles_and_odd_names_are_survived(layout, tmp_path, capsys):
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
    told = found(root)
    assert ("error" if layout != "stills" else "warning", "mask-alone", str(odd.relative_to(root))) in told
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "[bold]" in printed


# --- agreement with the loaders ---


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_passes_can_be_read(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / data.draw(st.sampled_from(["x.jpg", "x.png", "frame.png"]))
    write_mask(path, TWO[0]) if path.name == "x.png" else write_frame(path, picture(1))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    is_mask = path.name == "x.png"
    facts = (look_at_mask if is_mask else look_at_frame)(path)
    passes = facts.fault is None and (not is_mask or facts.mode in ("P", "L", "1"))
    try:
        read = read_mask(path) if is_mask else read_frame(path)
    except Exception:  # what a loader raises for hostile files is its own matter
        read = None
    if passes:
        assert read is not None and facts.size == read.shape[:2]
    if is_mask:
        assert passes == (read is not None)
        assert not passes or object_ids(read) == sorted(facts.labels.keys() - {0, VOID})


def test_small_objects_are_not_taken_for_smooth_edges(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):  # up to 12 boxes of 2 to 8 pixels a side, over one another
        mask = np.zeros((60, 80), np.uint8)
        for label in range(1, int(rng.integers(4, 13))):
            y, x, h, w = *rng.integers(0, 50, 2), *rng.integers(2, 9, 2)
            mask[y : y + h, x : x + w] = label
        write_mask(tmp_path / "x.png", mask)
        assert not look_at_mask(tmp_path / "x.png").smooth, i


@pytest.mark.parametrize("kind", ["blur", "reduced", "enlarged", "jpeg"])
def test_smoothed_masks_are_known_however_they_came_about(kind, tmp_path):
    path = tmp_path / "x.png"
    y, x = np.mgrid[:100, :140]
    white = Image.fromarray(255 * (((y - 50) / 30) ** 2 + ((x - 70) / 45) ** 2 < 1).astype(np.uint8))
    if kind == "jpeg":
        white.save(path, "JPEG", quality=90)
    else:
        size = {"blur": (140, 100), "reduced": (84, 60), "enlarged": (233, 166)}[kind]
        radius = 1 if kind == "blur" else 0
        white.filter(ImageFilter.GaussianBlur(radius)).resize(size, Image.Resampling.BILINEAR).save(path)
    assert look_at_mask(path).smooth


# --- the command ---


def test_what_is_no_data_set_is_told_in_one_line_with_what_was_expected(tmp_path, capsys):
    clean_davis(tmp_path / "below")
    for options in ([], ["--layout", "folder"]):
        assert cli.run(["check", str(tmp_path), *options]) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == 1
        assert "JPEGImages/<video>/*.jpg" in told.err and f"{tmp_path / 'below'} looks like davis" in told.err
        assert ("meta.json" in told.err) == (not options)
    assert cli.run(["check", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"stm: {tmp_path / 'nowhere'}: there is no such folder\n"
    assert cli.run(["check", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert "--output" in capsys.readouterr().err


def test_the_table_counts_and_shows_the_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    clean_davis(tmp_path / "set")
    paths = every_mask(tmp_path / "set", coloured)
    assert cli.run(["check", str(tmp_path / "set")]) == 1
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "A mask must hold object ids" in line)
    assert row.split()[1:6] == ["error", "│", "4", "│", "A"]
    assert [path in printed for path in paths] == [True, True, True, False]
    assert "davis: 2 videos, 16 files: 4 errors, 0 warnings, 0 notes" in printed


@pytest.mark.parametrize("workers", ["1", "7"])
def test_the_number_of_workers_changes_nothing(workers, tmp_path):
    clean_folder(tmp_path / "set")
    for i in range(30):
        write_video(tmp_path / "set", f"v{i}", [boxes({1: A, 3: B})] * 3)
    expected = [("note", "id-gap", path) for path in sorted(f"Annotations/v{i}" for i in range(30))]
    assert found(tmp_path / "set", "--workers", workers) == expected


def test_the_page_lists_every_code_with_its_severity():
    page = (Path(__file__).parents[1] / "docs" / "check.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \|", page, re.MULTILINE))
    assert rows == {name: code.severity for name, code in CODES.items()}
    assert {code.severity for code in CODES.values()} == set(SEVERITIES)


def test_real_clips_are_clean(shared_data, tmp_path):
    (tmp_path / "set").symlink_to(shared_data / "YouTubeVOS")
    assert found(tmp_path / "set") == []
    assert cli.run(["check", str(shared_data / "stills")]) == 0


@pytest.mark.slow
def test_real_davis_is_clean(shared_data, tmp_path):
    (tmp_path / "set").symlink_to(shared_data / "DAVIS")
    assert found(tmp_path / "set") == []


def test_the_palette_has_no_colour_twice():
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == 256
