"""`stm segment`: its results and files."""

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
from helpers.segmenting import SCHEMA, read_result, segment_command, write_inputs
from PIL import Image

from stm.cli import main as cli
from stm.masks import read_mask

ARTIFACTS = {"visualization", "raw_predictions", "mask"}
NAMES = ["prediction.json", "prediction_arrays.npz", "prediction_mask.png", "prediction_visualization.png"]


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_inputs(tmp_path)


def test_the_schema_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for wrong in ({}, {"tool": "stm", "status": "ok", "results": [], "timing": {}, "artifacts": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)


def test_the_json_agrees_with_the_files(case: Path) -> None:
    assert cli.run(segment_command(case)) == 0
    result = read_result(case)
    assert result["status"] == "ok"
    assert sorted(path.name for path in (case / "out").iterdir()) == NAMES
    assert result["artifacts"].keys() == ARTIFACTS
    mask = read_mask(result["artifacts"]["mask"])
    assert mask.shape == (50, 70)
    assert Image.open(result["artifacts"]["mask"]).mode == "P"
    arrays = np.load(result["artifacts"]["raw_predictions"])
    assert arrays["object_ids"].tolist() == [1, 7]
    assert arrays["probabilities"].shape == (3, 50, 70)
    assert arrays["retrieved_feature_map"].shape == (2, 16, 4, 5)
    ordered = np.sort(arrays["probabilities"].astype(float), axis=0)
    is_clear = ordered[-1] - ordered[-2] > 1e-2  # the file holds half precision
    labels = np.array([0, 1, 7])[arrays["probabilities"].argmax(0)]
    assert np.array_equal(labels[is_clear], mask[is_clear]) and is_clear.mean() > 0.5
    assert [entry["object_id"] for entry in result["results"]] == [1, 7]
    for index, entry in enumerate(result["results"]):
        rows, columns = np.nonzero(mask == entry["object_id"])
        assert entry["area"] == len(rows) and entry["score"] == entry["confidence_score"]
        if len(rows):
            box = entry["bounding_box"]
            assert (box["left"], box["top"]) == (columns.min(), rows.min())
            assert (box["left"] + box["width"], box["top"] + box["height"]) == (
                columns.max() + 1,
                rows.max() + 1,
            )
        else:
            assert entry["bounding_box"] is None and entry["score"] == 0
        assert entry["retrieved_feature_map"]["index"] == index
        references = entry["visual_attention_weights"]
        names = ["0.png", "1.png"] if entry["object_id"] == 1 else ["0.png"]
        assert [Path(reference["reference"]).name for reference in references] == names
        assert sum(reference["share"] for reference in references) == pytest.approx(1, abs=1e-4)
        for reference, cells in zip(references, [(3, 4), (4, 3)], strict=False):
            weights = arrays[reference["weights"]["name"]]
            assert weights.shape == tuple(reference["weights"]["shape"]) == cells
            assert weights.sum() == pytest.approx(reference["share"], abs=1e-5)
    assert result["timing"]["seconds"] > 0 and result["timing"]["device"].startswith("cpu")


def test_files_of_a_killed_run_are_replaced(case: Path) -> None:
    """In containers, each run may have the same process id."""
    (case / "out" / f".prediction.json.{os.getpid()}.parts").mkdir(parents=True)
    assert cli.run(segment_command(case)) == 0
    assert sorted(path.name for path in (case / "out").iterdir()) == NAMES


def test_probabilities_equal_those_of_the_network(case: Path) -> None:
    """Object 1 is read from the cells of both references, object 7 from the first reference only."""
    assert cli.run(segment_command(case)) == 0
    network = small.network()
    images = [
        torch.tensor(smooth_image(n, s)).permute(2, 0, 1) / 255
        for n, s in ((0, (40, 60)), (1, (64, 48)), (2, (50, 70)))
    ]
    first, second = (read_mask(case / f"m{n}.png") for n in (0, 1))
    with torch.no_grad():
        both = network.memorize(
            images[0], torch.stack([torch.from_numpy(first == i).float() for i in (1, 7)])
        )
        one = network.memorize(images[1], torch.from_numpy(second == 1).float()[None])
        of_1 = [torch.cat([a[:1].flatten(2), b.flatten(2)], -1) for a, b in zip(both, one, strict=True)]
        of_7 = [a[1:].flatten(2) for a in both]
        expected = network.segment(images[2], [tuple(of_1), tuple(of_7)]).softmax(0)
    probabilities = np.load(case / "out" / "prediction_arrays.npz")["probabilities"]
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=2e-3)


def test_python_dash_m_has_the_same_options(case: Path, monkeypatch, capsys) -> None:
    assert cli.run(segment_command(case)) == 0
    expected_result, mask = read_result(case), (case / "out" / "prediction_mask.png").read_bytes()
    for path in (case / "out").iterdir():
        path.unlink()
    for more, code in (([], 0), (["--weights", "no.ckpt"], 2)):
        monkeypatch.setattr(sys, "argv", ["tool.py", *segment_command(case)[1:], *more])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("stm.cli.tool", run_name="__main__")
        assert ended.value.code == code
        if code == 0:
            assert {**read_result(case), "timing": 0} == {**expected_result, "timing": 0}
            assert (case / "out" / "prediction_mask.png").read_bytes() == mask
    assert capsys.readouterr().err == "stm: checkpoint no.ckpt does not exist\n"
    assert read_result(case)["status"] == "error"


def test_results_keep_the_query_s_size(case: Path) -> None:
    assert cli.run(segment_command(case, size=20)) == 0
    result = read_result(case)
    assert read_mask(result["artifacts"]["mask"]).shape == (50, 70)
    assert result["results"][0]["retrieved_feature_map"]["shape"] == [2, 16, 2, 2]  # 20 x 28 padded


def test_masks_of_0_and_255_have_one_object(case: Path) -> None:
    mask = (read_mask(case / "m0.png") == 1) * np.uint8(255)
    Image.fromarray(mask).save(case / "m0.png")
    assert cli.run(segment_command(case, references=1)) == 0
    assert [result["object_id"] for result in read_result(case)["results"]] == [1]


def test_images_of_any_shape(case: Path) -> None:
    for size in ((1, 1), (1, 300), (200, 3), (17, 16)):
        Image.fromarray(smooth_image(3, size)).save(case / "2.png")
        assert cli.run(segment_command(case)) == 0
        assert read_mask(read_result(case)["artifacts"]["mask"]).shape == size
        assert max(Image.open(read_result(case)["artifacts"]["visualization"]).size) < 4000


def test_the_visualization_has_all_parts(case: Path) -> None:
    """Two references and the query are in one row, and each object has a row."""
    assert cli.run(segment_command(case)) == 0
    with Image.open(read_result(case)["artifacts"]["visualization"]) as sheet:
        assert sheet.height > 3 * 240 and sheet.width > 3 * 240


@pytest.mark.slow
def test_the_published_weights_are_accepted(case: Path, golden: Path) -> None:
    weights = runpy.run_path(str(golden / "weights.py"))["state_dict"]()
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, case / "STM_weights.pth")
    assert cli.run(segment_command(case, weights="STM_weights.pth")) == 0
    assert read_result(case)["results"][0]["retrieved_feature_map"]["shape"] == [2, 512, 4, 5]
