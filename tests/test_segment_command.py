"""`stm segment`: what it finds and writes, and what it says to what it cannot take."""

import io
import json
import os
import runpy
import sys
import zlib
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import small
import torch
from data_trees import boxes, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from small import save

from stm.apps import cli
from stm.masks import read_mask, write_mask
from stm.viz import heat

SCHEMA = json.loads(files("stm.apps").joinpath("prediction.schema.json").read_text())
ARTIFACTS = {"visualization", "raw_predictions", "mask"}
NAMES = ["prediction.json", "prediction_arrays.npz", "prediction_mask.png", "prediction_visualization.png"]


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """Two references of different sizes, the second without object 2, and a query of a third size."""
    for number, size in enumerate([(40, 60), (64, 48), (50, 70)]):
        Image.fromarray(picture(number, size)).save(tmp_path / f"{number}.png")
    write_mask(tmp_path / "m0.png", boxes({1: (5, 5, 20, 25), 7: (22, 30, 38, 55)}))
    write_mask(tmp_path / "m1.png", boxes({1: (10, 10, 40, 30)}, (64, 48)))
    save(tmp_path / "w.ckpt")
    return tmp_path


def words(case: Path, references: int = 2, **changes: object) -> list[str]:
    """A command line; a change of None leaves an option out."""
    flags = {"query-img": "2.png", "weights": "w.ckpt", "output": "out/prediction.json"} | {
        name.replace("_", "-"): value for name, value in changes.items()
    }
    command = ["segment"]
    for number in range(references):
        command += ["--ref-img", str(case / f"{number}.png"), "--ref-mask", str(case / f"m{number}.png")]
    for flag, value in flags.items():
        if value is not None:
            plain = flag in ("size", "device")
            command += [f"--{flag}", str(value) if plain else str(case / str(value))]
    return command


def told(case: Path) -> dict:
    """prediction.json, valid by the schema that is shipped."""
    found = json.loads((case / "out" / "prediction.json").read_text())
    jsonschema.validate(found, SCHEMA)
    return found


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
        torch.tensor(picture(n, s)).permute(2, 0, 1) / 255
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
            runpy.run_module("stm.apps.tool", run_name="__main__")
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
        Image.fromarray(picture(3, size)).save(case / "2.png")
        assert cli.run(words(case)) == 0
        assert read_mask(told(case)["artifacts"]["mask"]).shape == size
        assert max(Image.open(told(case)["artifacts"]["visualization"]).size) < 4000


def test_the_visualisation_shows_all_parts(case: Path) -> None:
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


def test_heat_glows_where_weights_are_high() -> None:
    frame = np.full((4, 6, 3), 200, np.uint8)
    weights = np.zeros((4, 6))
    weights[1, 2], weights[2, 2] = 1.0, 0.25
    picture = heat(frame, weights).astype(int)
    assert (picture[0] == 90).all(), "the rest is darkened and grey"
    saturation = picture.max(-1) - picture.min(-1)
    assert saturation[1, 2] > 50 and saturation[2, 2] > 50
    with pytest.raises(ValueError, match="weights of size"):
        heat(frame, weights[1:])


# bad input


def spoil_text(path: Path) -> None:
    path.write_text("no picture")


def spoil_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def spoil_rgb(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def spoil_empty(path: Path) -> None:
    write_mask(path, np.zeros((40, 60), np.uint8))


def spoil_size(path: Path) -> None:
    write_mask(path, boxes({1: (5, 5, 20, 25)}, (40, 61)))


def spoil_smooth(path: Path) -> None:
    mask = Image.fromarray((read_mask(path) == 1) * np.uint8(255))
    mask.filter(ImageFilter.GaussianBlur(2)).save(path)


def spoil_bomb(path: Path) -> None:
    """A header that asks for 60000 x 60000 pixels."""
    content = bytearray(path.read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def spoil_other_weights(path: Path) -> None:
    torch.save({"some": torch.zeros(3)}, path)


def spoil_shapes(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["config"]["network"]["key_channels"] = 9
    torch.save(checkpoint, path)


def spoil_config(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"config": 3}, path)


def spoil_nan(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    next(iter(checkpoint["state_dict"].values())).fill_(torch.nan)
    torch.save(checkpoint, path)


def spoil_pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch %s'\ntR." % bytes(path.with_name("harmed")))


BAD = [
    ("0.png", Path.unlink, "0.png: there is no such file"),
    ("m0.png", Path.unlink, "m0.png: there is no such file"),
    ("2.png", Path.unlink, "2.png: there is no such file"),
    ("w.ckpt", Path.unlink, "w.ckpt does not exist"),
    ("0.png", spoil_text, "0.png: the content is no picture"),
    ("2.png", spoil_cut, "2.png: "),
    ("m0.png", spoil_cut, "m0.png: "),
    ("m0.png", spoil_rgb, "mode RGB"),
    ("m0.png", spoil_empty, "shows no object"),
    ("m0.png", spoil_size, "the mask is 61x40"),
    ("m0.png", spoil_smooth, "smoothed"),
    ("2.png", spoil_bomb, "asks for"),
    ("m0.png", spoil_bomb, "asks for"),
    ("w.ckpt", spoil_text, "cannot be read"),
    ("w.ckpt", spoil_cut, "cannot be read"),
    ("w.ckpt", spoil_other_weights, "neither of this project nor the published"),
    ("w.ckpt", spoil_shapes, "do not fit"),
    ("w.ckpt", spoil_config, "w.ckpt"),
    ("w.ckpt", spoil_nan, "not finite"),
    ("w.ckpt", spoil_pickle, "cannot be read"),
]


def refused(case: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a refused command, told in the JSON as well; nothing else is written."""
    capsys.readouterr()
    assert cli.run(command) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert [path.name for path in (case / "out").iterdir()] == ["prediction.json"]
    found = told(case)
    assert found["status"] == "error"
    assert printed.err == f"stm: {found['error']}\n"
    return found["error"]


@pytest.mark.parametrize(("file", "spoil", "named"), BAD)
def test_bad_input_is_told(file: str, spoil, named: str, case: Path, capsys) -> None:
    spoil(case / file)
    assert named in refused(case, words(case), capsys)
    assert not (case / "harmed").exists()


def test_bad_options_are_told(case: Path, capsys) -> None:
    assert "give pairs" in refused(case, [*words(case), "--ref-img", str(case / "0.png")], capsys)
    assert "must be auto, cpu or cuda" in refused(case, words(case, device="tpu9"), capsys)
    assert "must be auto, cpu or cuda" in refused(case, words(case, device="meta"), capsys)
    if not torch.cuda.is_available():
        assert "torch sees 0 CUDA GPUs" in refused(case, words(case, device="cuda"), capsys)


def test_where_no_json_can_be_written_the_line_remains(case: Path, capsys) -> None:
    (case / "out").write_text("a file")
    assert cli.run(words(case)) == 2
    assert capsys.readouterr().err == f"stm: --output {case}/out/prediction.json: {case}/out is no folder\n"
    assert cli.run(words(case, output=".")) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["0.png", "m0.png", "2.png", "w.ckpt", "case.json"])
def test_no_file_that_is_given_is_overwritten(output: str, case: Path, capsys) -> None:
    """With `case.json` the mask that is written would be `case_mask.png`."""
    (case / "m1.png").rename(case / "case_mask.png")
    before = {path: path.read_bytes() for path in case.iterdir()}
    command = [word.replace("m1.png", "case_mask.png") for word in words(case, output=output)]
    assert cli.run(command) == 2
    assert capsys.readouterr().err.endswith("is given and would be overwritten\n")
    assert {path: path.read_bytes() for path in case.iterdir()} == before


def test_a_failure_takes_the_place_of_an_earlier_result(case: Path, capsys) -> None:
    assert cli.run(words(case)) == 0
    assert cli.run(words(case, query_img="absent.png")) == 2
    assert told(case)["status"] == "error"


def test_what_is_no_users_mistake_is_in_the_json_and_keeps_its_traceback(case: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("stm.apps.prediction.find", fail)
    with pytest.raises(KeyError):
        cli.run(words(case))
    assert told(case)["error"] == "'ours'"
    monkeypatch.undo()
    monkeypatch.setattr("stm.apps.prediction.write_picture", fail)
    with pytest.raises(KeyError):
        cli.run(words(case))
    assert [path.name for path in (case / "out").iterdir()] == ["prediction.json"], "nothing half-written"


FILES = ("0.png", "m0.png", "2.png", "w.ckpt", "2.jpg")


def hostile(data: st.DataObject, whole: bytes) -> bytes:
    """A file cut short, with bytes changed or put in, or something else altogether."""
    content = bytearray(whole)
    how = data.draw(st.sampled_from(["cut", "change", "header", "insert", "other"]))
    if how == "cut":
        return bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    if how == "other":
        return data.draw(st.binary(max_size=64))
    end = 64 if how == "header" else len(content)
    for place in data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=8)):
        if how == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            content[place] = data.draw(st.integers(0, 255))
    return bytes(content)


@settings(max_examples=110, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_files_are_read_or_refused(data: st.DataObject, case: Path, capsys) -> None:
    """Either all is well, or one line and a JSON say what is not; nothing is half-written."""
    file = data.draw(st.sampled_from(FILES))
    path = case / file
    if file.endswith(".jpg"):
        buffer = io.BytesIO()
        Image.fromarray(picture(2, (50, 70))).save(buffer, "JPEG")
        whole = buffer.getvalue()
    else:
        whole = path.read_bytes()
    for left in (case / "out").glob("*"):
        left.unlink()
    path.write_bytes(hostile(data, whole))
    command = words(case, references=1, query_img="2.jpg" if file == "2.jpg" else "2.png")
    try:
        capsys.readouterr()
        code = cli.run(command)
        if code:
            (case / "out" / "prediction.json").unlink()
            refused(case, command, capsys)
        else:
            assert told(case)["status"] == "ok" and len(list((case / "out").iterdir())) == 4
    finally:
        path.write_bytes(whole)
