"""`stm segment`: what it finds and writes."""

import os
import runpy
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from helpers import small_networks as small
from helpers.data_trees import smooth_image
from helpers.segmenting import SCHEMA, laid_out, told, words
from PIL import Image

from stm.cli import main as cli
from stm.masks import read_mask

ARTIFACTS = {"visualization", "raw_predictions", "mask"}
NAMES = ["prediction.json", "prediction_arrays.npz", "prediction_mask.png", "prediction_visualization.png"]


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return laid_out(tmp_path)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for wrong in ({}, {"tool": "stm", "status": "ok", "results": [], "timing": {}, "artifacts": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)


def test_what_is_told_is_what_is_in_the_files(case: Path) -> None:
    assert cli.run(words(case)) == 0
    found = told(case)
    assert found["status"] == "ok"
    assert sorted(path.name for path in (case / "out").iterdir()) == NAMES
    assert found["artifacts"].keys() == ARTIFACTS
    mask = read_mask(found["artifacts"]["mask"])
    assert mask.shape == (50, 70)
    assert Image.open(found["artifacts"]["mask"]).mode == "P"
    arrays = np.load(found["artifacts"]["raw_predictions"])
    assert arrays["object_ids"].tolist() == [1, 7]
    assert arrays["probabilities"].shape == (3, 50, 70)
    assert arrays["retrieved_feature_map"].shape == (2, 16, 4, 5)
    sure = np.sort(arrays["probabilities"].astype(float), axis=0)
    clear = sure[-1] - sure[-2] > 1e-2  # the file holds half precision
    labels = np.array([0, 1, 7])[arrays["probabilities"].argmax(0)]
    assert np.array_equal(labels[clear], mask[clear]) and clear.mean() > 0.5
    assert [result["object_id"] for result in found["results"]] == [1, 7]
    for index, result in enumerate(found["results"]):
        rows, columns = np.nonzero(mask == result["object_id"])
        assert result["area"] == len(rows) and result["score"] == result["confidence_score"]
        if len(rows):
            box = result["bounding_box"]
            assert (box["left"], box["top"]) == (columns.min(), rows.min())
            assert (box["left"] + box["width"], box["top"] + box["height"]) == (
                columns.max() + 1,
                rows.max() + 1,
            )
        else:
            assert result["bounding_box"] is None and result["score"] == 0
        assert result["retrieved_feature_map"]["index"] == index
        looked = result["visual_attention_weights"]
        shown = ["0.png", "1.png"] if result["object_id"] == 1 else ["0.png"]
        assert [Path(reference["reference"]).name for reference in looked] == shown
        assert sum(reference["share"] for reference in looked) == pytest.approx(1, abs=1e-4)
        for reference, cells in zip(looked, [(3, 4), (4, 3)], strict=False):
            weights = arrays[reference["weights"]["name"]]
            assert weights.shape == tuple(reference["weights"]["shape"]) == cells
            assert weights.sum() == pytest.approx(reference["share"], abs=1e-5)
    assert found["timing"]["seconds"] > 0 and found["timing"]["device"].startswith("cpu")


def test_what_a_killed_run_left_is_no_hindrance(case: Path) -> None:
    """In containers each run may have the same process id."""
    (case / "out" / f".prediction.json.{os.getpid()}.parts").mkdir(parents=True)
    assert cli.run(words(case)) == 0
    assert sorted(path.name for path in (case / "out").iterdir()) == NAMES


def test_the_probabilities_are_the_networks_own(case: Path) -> None:
    """Object 1 from both references' cells side by side, object 7 from the first reference alone."""
    assert cli.run(words(case)) == 0
    network = small.network()
    pictures = [
        torch.tensor(smooth_image(n, s)).permute(2, 0, 1) / 255
        for n, s in ((0, (40, 60)), (1, (64, 48)), (2, (50, 70)))
    ]
    first, second = (read_mask(case / f"m{n}.png") for n in (0, 1))
    with torch.no_grad():
        both = network.memorize(
            pictures[0], torch.stack([torch.from_numpy(first == i).float() for i in (1, 7)])
        )
        one = network.memorize(pictures[1], torch.from_numpy(second == 1).float()[None])
        of_1 = [torch.cat([a[:1].flatten(2), b.flatten(2)], -1) for a, b in zip(both, one, strict=True)]
        of_7 = [a[1:].flatten(2) for a in both]
        expected = network.segment(pictures[2], [tuple(of_1), tuple(of_7)]).softmax(0)
    found = np.load(case / "out" / "prediction_arrays.npz")["probabilities"]
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)


def test_python_dash_m_takes_the_same_flags(case: Path, monkeypatch, capsys) -> None:
    assert cli.run(words(case)) == 0
    here, mask = told(case), (case / "out" / "prediction_mask.png").read_bytes()
    for path in (case / "out").iterdir():
        path.unlink()
    for more, code in (([], 0), (["--weights", "no.ckpt"], 2)):
        monkeypatch.setattr(sys, "argv", ["tool.py", *words(case)[1:], *more])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("stm.cli.tool", run_name="__main__")
        assert ended.value.code == code
        if code == 0:
            assert {**told(case), "timing": 0} == {**here, "timing": 0}
            assert (case / "out" / "prediction_mask.png").read_bytes() == mask
    assert capsys.readouterr().err == "stm: checkpoint no.ckpt does not exist\n"
    assert told(case)["status"] == "error"


def test_a_smaller_size_for_the_network_keeps_the_querys_own(case: Path) -> None:
    assert cli.run(words(case, size=20)) == 0
    found = told(case)
    assert read_mask(found["artifacts"]["mask"]).shape == (50, 70)
    assert found["results"][0]["retrieved_feature_map"]["shape"] == [2, 16, 2, 2]  # 20 x 28 padded


def test_black_and_white_masks_are_one_object(case: Path) -> None:
    mask = (read_mask(case / "m0.png") == 1) * np.uint8(255)
    Image.fromarray(mask).save(case / "m0.png")
    assert cli.run(words(case, references=1)) == 0
    assert [result["object_id"] for result in told(case)["results"]] == [1]


def test_pictures_of_any_shape(case: Path) -> None:
    for size in ((1, 1), (1, 300), (200, 3), (17, 16)):
        Image.fromarray(smooth_image(3, size)).save(case / "2.png")
        assert cli.run(words(case)) == 0
        assert read_mask(told(case)["artifacts"]["mask"]).shape == size
        assert max(Image.open(told(case)["artifacts"]["visualization"]).size) < 4000


def test_the_visualization_shows_all_parts(case: Path) -> None:
    """Two references and the query in a row, and a row an object."""
    assert cli.run(words(case)) == 0
    with Image.open(told(case)["artifacts"]["visualization"]) as sheet:
        assert sheet.height > 3 * 240 and sheet.width > 3 * 240


@pytest.mark.slow
def test_the_authors_weights_are_taken(case: Path, golden: Path) -> None:
    weights = runpy.run_path(str(golden / "weights.py"))["state_dict"]()
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, case / "STM_weights.pth")
    assert cli.run(words(case, weights="STM_weights.pth")) == 0
    assert told(case)["results"][0]["retrieved_feature_map"]["shape"] == [2, 512, 4, 5]
