"""The trees of MOSE, LVOS, VOST and SA-V through `stm score`, against the evaluators' own output."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.small_networks import network
from PIL import Image

from stm.cli import main as cli
from stm.evaluation import benchmarks, protocols
from stm.evaluation.evaluate import evaluate
from stm.evaluation.mask_scores import score_mask_folder
from stm.evaluation.tables import write_scores
from stm.masks import read_mask, write_mask
from stm.memory import MemoryPolicy

CASES = {
    "mose": ("mose", "MOSE"),
    "mosev2": ("mosev2", "MOSEv2"),
    "lvos": ("lvos_v1", "LVOS_V1"),
    "lvosv2": ("lvos_v2", "LVOS_V2"),
    "vost": ("vost", "VOST"),
    "sav": ("sav", "sav_val"),
}

MEANS = {"J-Mean": "J_mean", "F-Mean": "F_mean", "V-Mean": "V", "J_last-Mean": "J_last_mean"}
QUIET = {"progress": False, "workers": 0, "overlays": False}


@pytest.fixture(scope="module")
def originals(tmp_path_factory, golden: Path) -> Path:
    """Extract the trees; only `layouts` is to be changed."""
    folder = tmp_path_factory.mktemp("originals")
    with tarfile.open(golden / "metrics2026" / "layouts.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "layouts"


@pytest.fixture
def layouts(originals: Path, tmp_path: Path) -> Path:
    shutil.copytree(originals, tmp_path / "layouts")
    return tmp_path / "layouts"


def build(layouts: Path, name: str, **arguments):
    folder, root = CASES[name]
    function, defaults = {
        "mose": (benchmarks.mose, {"version": 1}),
        "mosev2": (benchmarks.mose, {}),
        "lvos": (benchmarks.lvos, {}),
        "lvosv2": (benchmarks.lvos, {"version": 2}),
        "vost": (benchmarks.vost, {}),
        "sav": (benchmarks.sav, {}),
    }[name]
    return function(layouts / folder / root, **{**defaults, **arguments})


def expected_of(layouts: Path, name: str) -> dict:
    return json.loads((layouts / CASES[name][0] / "expected.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_evaluator_s(originals: Path, tmp_path: Path, name: str) -> None:
    folder, root = CASES[name]
    masks, root = originals / folder / "predictions", originals / folder / root
    command = ["score", str(masks), "--benchmark-root", str(root), "--benchmark", name]
    assert cli.run([*command, "--output", str(tmp_path)]) == 0
    scores, expected = json.loads((tmp_path / "scores.json").read_text()), expected_of(originals, name)
    overall = expected.get("overall") or expected["overall_percent"]
    tolerance = 1e-9 if name == "sav" else 1e-12
    assert {key: scores["global"][key] for key in overall} == pytest.approx(overall, abs=tolerance)
    if name == "mose":
        tool = {key: 100 * scores["global"][f"{key}_vos_benchmark"] for key in ("J&F", "J", "F")}
        assert tool == pytest.approx({key: expected["simple"][key] for key in tool}, abs=1e-9)
    rows = {(row["sequence"], row["object"]): row for row in scores["sequences"]}
    assert len(rows) == len(expected["objects"])
    for label, values in expected["objects"].items():
        video, _, number = label.replace("/", "_").rpartition("_")
        row = rows[video, int(number) + (name == "sav")]
        for key in {"J", "Fdot", "F"} & values.keys() if "mose" in name else ():
            assert row[key] == pytest.approx(values[key], abs=1e-12)
        for key, mean in (
            ("J-Mean", "J_mean"),
            ("F-Mean", "F_mean"),
            ("V-Mean", "V"),
            ("J_last-Mean", "J_last_mean"),
        ):
            if mean in values and name != "sav":
                assert row[key] == pytest.approx(values[mean], abs=1e-12)
        if name == "sav":
            assert [row["J"], row["F"]] == pytest.approx([values["J_mean"], values["F_mean"]], abs=1e-9)
            assert row["frames"] == values["counted_frames"]


@pytest.mark.parametrize("name", ["mose", "mosev2"])
def test_a_missing_video_of_mose_counts_as_zero(layouts: Path, name: str) -> None:
    masks = layouts / CASES[name][0] / "predictions"
    shutil.rmtree(masks / "4e5f6a7b")
    with pytest.raises(FileNotFoundError, match="4e5f6a7b has no mask of 6 of the 6 frames"):
        score_mask_folder(build(layouts, name), masks)
    scores, (line,) = score_mask_folder(build(layouts, name), masks, skip_missing=True)
    expected = expected_of(layouts, name)["overall_percent_rounded_without_folder_4e5f6a7b"]
    assert {key: round(100 * scores.overall[key], 2) for key in expected} == expected
    assert "it counts with scores of 0" in line


@pytest.mark.parametrize("name", CASES)
def test_frames_are_not_needed_to_score(layouts: Path, name: str) -> None:
    folder, root = CASES[name]
    expected = score_mask_folder(build(layouts, name), layouts / folder / "predictions")[0]
    for frames in [*(layouts / folder / root).rglob("JPEGImages*")]:
        shutil.rmtree(frames)
    scores = score_mask_folder(build(layouts, name), layouts / folder / "predictions")[0]
    np.testing.assert_equal(scores.overall, expected.overall)


def test_the_truth_of_mose_may_lie_anywhere(layouts: Path) -> None:
    masks = layouts / "mosev2" / "predictions"
    expected = score_mask_folder(build(layouts, "mosev2"), masks)[0].overall
    truth = layouts / "mosev2" / "truth"
    assert score_mask_folder(benchmarks.mose(truth), masks)[0].overall == expected
    truth.rename(layouts / "hidden")
    with pytest.raises(ValueError, match="0a1b2c3d has no ground truth to score; pass .* as truth"):
        score_mask_folder(build(layouts, "mosev2"), masks)
    assert score_mask_folder(build(layouts, "mosev2", truth=layouts / "hidden"), masks)[0].overall == expected
    valid = layouts / "mosev2" / "MOSEv2" / "valid" / "Annotations"
    shutil.rmtree(valid)
    (layouts / "hidden" / "Annotations").rename(valid)
    assert score_mask_folder(build(layouts, "mosev2"), masks)[0].overall == expected


def test_lvos_without_the_list_of_unseen_videos(layouts: Path) -> None:
    """Only the seen half is defined; the headline measure is then that of the half."""
    masks = layouts / "lvos_v1" / "predictions"
    expected = score_mask_folder(build(layouts, "lvos"), masks)[0].overall
    (layouts / "lvos_v1" / "evaluator_files" / "unseen_videos.txt").rename(layouts / "list.txt")
    scores = score_mask_folder(build(layouts, "lvos"), masks)[0]
    assert np.isnan(scores.overall["J&F-Mean"]) and np.isnan(scores.overall["J-unseen-Mean"])
    means = [np.mean([row.row()[key] for row in scores.objects]) for key in ("J-Mean", "F-Mean")]
    assert scores.headline == pytest.approx(np.mean(means))
    with_list = build(layouts, "lvos", unseen_videos=layouts / "list.txt")
    assert score_mask_folder(with_list, masks)[0].overall == expected


def first_mask(folder: Path, number: int = 2) -> Path:
    return sorted(folder.rglob("*.png"))[number]


def cut(path: Path) -> None:
    write_mask(path, read_mask(path)[1:])


def color(path: Path) -> None:
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)


def add_unexpected(path: Path) -> None:
    shutil.copy(path, path.with_name("frame_7.png"))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "has no mask of 1 of the .+ frames that are scored"),
        (cut, "must have the frame's size 64x48; got 64x47"),
        (color, "must hold labels"),
        (lambda path: path.write_bytes(path.read_bytes()[:90]), "broken|not an image"),
        (add_unexpected, "frame_7.png: unexpected mask"),
        (lambda path: shutil.rmtree(path.parent), "has no mask of"),
    ],
    ids=["missing", "size", "color", "truncated", "unexpected", "no folder"],
)
def test_damaged_predictions_are_refused(originals, tmp_path, name: str, damage, message: str) -> None:
    masks = tmp_path / "predictions"
    shutil.copytree(originals / CASES[name][0] / "predictions", masks)
    damage(first_mask(masks))
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        score_mask_folder(build(originals, name), masks)


def test_a_missing_first_frame_would_shift_the_numbers_of_mose(layouts: Path) -> None:
    masks = layouts / "mosev2" / "predictions"
    (masks / "0a1b2c3d" / "00000.png").unlink()
    with pytest.raises(FileNotFoundError, match="first is 0a1b2c3d/00000.png"):
        score_mask_folder(build(layouts, "mosev2"), masks)


@pytest.mark.parametrize(
    ("name", "below", "message"),
    [
        (
            "mosev2",
            "truth/Annotations/0a1b2c3d/00004.png",
            "must have the 9 frames|must have a mask of every frame",
        ),
        ("lvos", "LVOS_V1/val/Annotations/aB3dE5fG/00000016.png", "must have a mask of every frame"),
        ("lvos", "LVOS_V1/val/JPEGImages/aB3dE5fG/00000016.jpg", "there is no such frame"),
        ("vost", "VOST/Annotations/101_cut_onion/frame00000.png", "frame00000.png: there is no such mask"),
        ("sav", "sav_val/JPEGImages_24fps/sav_000001/00008.jpg", "has no frame 00008"),
    ],
)
def test_damaged_truth_is_refused(layouts: Path, name: str, below: str, message: str) -> None:
    (layouts / CASES[name][0] / below).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        score_mask_folder(build(layouts, name), layouts / CASES[name][0] / "predictions")


@pytest.mark.parametrize("name", ["mosev2", "lvosv2", "vost", "sav"])
def test_a_network_s_masks_have_the_scores_of_its_evaluation(
    layouts: Path, tmp_path: Path, name: str
) -> None:
    benchmark = build(layouts, name)
    policy = MemoryPolicy(first=True, every=100)
    scores = evaluate(network(), policy, benchmark, tmp_path / "out", **QUIET)
    again, skipped = score_mask_folder(benchmark, tmp_path / "out" / "masks")
    assert not skipped
    np.testing.assert_equal(again.overall, scores.overall)
    assert [row.measures for row in again.objects] == [row.measures for row in scores.objects]
    kept = evaluate(network(), policy, benchmark, tmp_path / "out", **QUIET)
    np.testing.assert_equal(kept.overall, scores.overall)
    if name == "sav":
        paths = sorted((tmp_path / "out" / "masks" / "sav_000001").glob("*/*.png"))
        assert {path.parent.name for path in paths} == {"000", "001", "002"} and len(paths) == 24


def test_ranges_of_lvos_with_more_frames_than_files(layouts: Path) -> None:
    """Frames that only frame_nums counts score 0, as in `score_masks`; they have no number in the results."""
    meta = layouts / "lvos_v1" / "LVOS_V1" / "val" / "valid_meta.json"
    values = json.loads(meta.read_text())
    values["videos"]["aB3dE5fG"]["objects"]["2"]["frame_range"]["frame_nums"] = "9"
    meta.write_text(json.dumps(values))
    masks = layouts / "lvos_v1" / "predictions"
    row = score_mask_folder(build(layouts, "lvos", only=["aB3dE5fG"]), masks)[0].objects[1]
    truth, prediction = (
        np.stack([read_mask(path) for path in sorted((folder / "aB3dE5fG").glob("*.png"))])
        for folder in (meta.parent / "Annotations", masks)
    )
    frames = protocols.score_masks("lvos", truth, prediction, [1, 2], [[1, 41, 9], [11, 41, 9]])
    expected = protocols.find_protocol("lvos").summarize_objects(frames)
    assert row.frames == tuple(t for t in frames["frames"][1].tolist() if t >= 0)
    assert row.measures["J_mean"] == expected["J_mean"][1] < row.measures["J_corrected_mean"]
    assert row.measures["V"] == expected["V"][1]
    values["videos"]["aB3dE5fG"]["objects"]["2"]["frame_range"]["end"] = "00000061"
    meta.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="aB3dE5fG, object 2: frame_range=.*must have frame_nums >= 10"):
        score_mask_folder(build(layouts, "lvos"), masks)
    values["videos"]["aB3dE5fG"]["objects"]["2"]["frame_range"]["frame_nums"] = 12
    meta.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="object 2 must have the frames of its range 11 to 61; got no frame"):
        score_mask_folder(build(layouts, "lvos"), masks)


@pytest.mark.parametrize("name", ["lvos", "lvosv2", "vost", "sav"])
def test_the_files_of_the_evaluator(layouts: Path, tmp_path: Path, name: str) -> None:
    expected = {key: text for key, text in expected_of(layouts, name).items() if key.endswith(".csv")}
    scores, _ = score_mask_folder(build(layouts, name), layouts / CASES[name][0] / "predictions")
    write_scores(scores, tmp_path)
    assert expected and {key: (tmp_path / key).read_text() for key in expected} == expected


def test_a_part_of_train_is_scored(layouts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = layouts / "mosev2" / "MOSEv2"
    command = ["score", str(root / "train" / "Annotations"), "--benchmark", "mosev2", "--split", "holdout"]
    command += ["--benchmark-root", str(root), "--output", str(tmp_path)]
    assert cli.run([*command, "--holdout-share", "1.0"]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["global"]["J&Fdot"] == 1.0
    assert cli.run(command) == 2
    assert cli.run([*command, "--holdout-share", "7"]) == 2
    errors = capsys.readouterr().err
    assert "the split has no video; holdout_share must be above 0" in errors
    assert "holdout_share=7.0: must be in 0..1" in errors
