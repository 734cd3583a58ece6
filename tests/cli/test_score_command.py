"""`stm score` scores masks of other programs in the same way as an evaluation."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.small_networks import network
from PIL import Image

from stm.cli import main as cli
from stm.evaluation import benchmarks
from stm.evaluation.evaluate import evaluate
from stm.masks import read_mask, write_mask

NAMES = ("bear", "camel")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a DAVIS tree of two videos with one object, and an evaluation on it."""
    root = tmp_path_factory.mktemp("case")
    rng = np.random.default_rng(0)
    davis = root / "DAVIS"
    for year in ("2016", "2017"):
        (davis / "ImageSets" / year).mkdir(parents=True)
        (davis / "ImageSets" / year / "val.txt").write_text("\n".join(NAMES) + "\n")
    for name in NAMES:
        (davis / "JPEGImages" / "480p" / name).mkdir(parents=True)
        for t in range(6):
            frame = rng.integers(0, 256, (32, 48, 3), np.uint8)
            Image.fromarray(frame).save(davis / "JPEGImages" / "480p" / name / f"{t:05d}.jpg")
            mask = np.zeros((32, 48), np.uint8)
            mask[5 + t : 20 + t, 8 + 2 * t : 26 + 2 * t] = 1
            write_mask(davis / "Annotations" / "480p" / name / f"{t:05d}.png", mask)
    evaluate(network(), None, benchmarks.davis(davis), root / "ours", progress=False, workers=0)
    return root


def command(case: Path, masks: Path, *more: object) -> list[str]:
    return ["score", str(masks), "--benchmark-root", str(case / "DAVIS"), *map(str, more)]


def measures(folder: Path) -> dict:
    values = json.loads((folder / "scores.json").read_text())
    return {key: values[key] for key in ("global", "baselines", "sequences")}


@pytest.mark.parametrize("below", ["", "Annotations/480p/"])
@pytest.mark.parametrize("zipped", [False, True])
def test_scores_equal_those_of_the_evaluation(
    case: Path, tmp_path: Path, below: str, zipped: bool, capsys
) -> None:
    shutil.copytree(case / "ours" / "masks", tmp_path / "masks" / below)
    masks = tmp_path / "masks"
    if zipped:
        masks = Path(shutil.make_archive(str(tmp_path / "all"), "zip", masks))
    assert cli.run(command(case, masks, "--output", tmp_path / "scores")) == 0
    assert measures(tmp_path / "scores") == measures(case / "ours")
    printed = capsys.readouterr().out
    assert "all objects" in printed and "frames/s" not in printed


def test_the_report_of_the_scores(case: Path, tmp_path: Path) -> None:
    masks, output = case / "ours" / "masks", tmp_path / "scores"
    assert cli.run(command(case, masks, "--output", output)) == 0
    assert cli.run(["report", str(output)]) == 0
    text = (output / "report.html").read_text()
    assert f"davis2017-val: {masks}" in text and "no longer exist" not in text
    for row in measures(output)["sequences"]:
        assert f"<td>{row['sequence']}</td><td>{row['object']}</td>" in text


def test_a_missing_mask_is_an_error_unless_allowed(case: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(case / "ours" / "masks", tmp_path / "masks")
    (tmp_path / "masks" / "camel" / "00003.png").unlink()
    assert cli.run(command(case, tmp_path / "masks")) == 2
    error = capsys.readouterr().err
    assert "camel has no mask of 1 of the 4 frames" in error and "camel/00003.png" in error
    assert cli.run(command(case, tmp_path / "masks", "--skip-missing", "--output", tmp_path / "out")) == 0
    printed = capsys.readouterr()
    assert "left out:" in printed.err and "camel" not in printed.out
    rows = [row for row in measures(case / "ours")["sequences"] if row["sequence"] == "bear"]
    assert measures(tmp_path / "out")["sequences"] == rows


def test_masks_of_0_and_255_show_the_one_object(case: Path, tmp_path: Path) -> None:
    for path in (case / "ours" / "masks").rglob("*.png"):
        target = tmp_path / "masks" / path.relative_to(case / "ours" / "masks")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(read_mask(path) * 255).save(target)
    assert (
        cli.run(command(case, tmp_path / "masks", "--benchmark", "davis2016", "--output", tmp_path / "out"))
        == 0
    )
    assert measures(tmp_path / "out")["global"] == measures(case / "ours")["global"]


def test_a_wrong_output_is_refused_before_any_mask_is_read(case: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "masks" / "bear").mkdir(parents=True)
    assert cli.run(command(case, tmp_path / "masks", "--output", tmp_path / "file")) == 2
    assert f"--output {tmp_path / 'file'}: must be a folder; got a file" in capsys.readouterr().err


def test_bad_input_is_one_line(case: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "empty").mkdir()
    wrong = tmp_path / "wrong" / "bear"
    for t in range(6):
        write_mask(wrong / f"{t:05d}.png", np.ones((16, 24), np.uint8))
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        archive.writestr("../bear/00001.png", b"")
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as archive:
        for t in range(6):
            archive.writestr(f"bear/{t:05d}.png", b"no PNG")
    for masks, message in (
        (tmp_path / "broken.zip", "broken.zip/bear/00001.png: not an image"),
        (tmp_path / "nothing", "there is no such folder or zip"),
        (tmp_path / "text.zip", "must be a folder or a zip of masks"),
        (tmp_path / "empty", "holds no folder of a video, such as bear/"),
        (tmp_path / "wrong", "must have the frame's size 48x32; got 24x16"),
        (tmp_path / "up.zip", "holds no folder of a video, such as bear/"),
    ):
        assert cli.run(command(case, masks)) == 2, masks
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path.parent / "bear").exists()
