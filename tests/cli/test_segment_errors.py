"""Errors of `stm segment`, which leave no other files behind."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_trees import boxes, smooth_image
from helpers.segmenting import read_result, segment_command, write_inputs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from stm.cli import main as cli
from stm.masks import read_mask, write_mask


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_inputs(tmp_path)


def damage_text(path: Path) -> None:
    path.write_text("not an image")


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def damage_rgb(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def damage_empty(path: Path) -> None:
    write_mask(path, np.zeros((40, 60), np.uint8))


def damage_size(path: Path) -> None:
    write_mask(path, boxes({1: (5, 5, 20, 25)}, (40, 61)))


def damage_smooth(path: Path) -> None:
    mask = Image.fromarray((read_mask(path) == 1) * np.uint8(255))
    mask.filter(ImageFilter.GaussianBlur(2)).save(path)


def damage_bomb(path: Path) -> None:
    """Write a header that declares 60000 x 60000 pixels."""
    content = bytearray(path.read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def damage_other_weights(path: Path) -> None:
    torch.save({"some": torch.zeros(3)}, path)


def damage_shapes(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["config"]["network"]["key_channels"] = 9
    torch.save(checkpoint, path)


def damage_config(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"config": 3}, path)


def damage_nan(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    next(iter(checkpoint["state_dict"].values())).fill_(torch.nan)
    torch.save(checkpoint, path)


def damage_pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch %s'\ntR." % bytes(path.with_name("executed")))


def damage_module(path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), path)


BAD = [
    ("0.png", Path.unlink, "0.png: there is no such file"),
    ("m0.png", Path.unlink, "m0.png: there is no such file"),
    ("2.png", Path.unlink, "2.png: there is no such file"),
    ("w.ckpt", Path.unlink, "w.ckpt does not exist"),
    ("0.png", damage_text, "0.png: the content is not an image"),
    ("2.png", damage_cut, "2.png: "),
    ("m0.png", damage_cut, "m0.png: "),
    ("m0.png", damage_rgb, "mode RGB"),
    ("m0.png", damage_empty, "the mask must show an object"),
    ("m0.png", damage_size, "60x40 (width x height); got 61x40"),
    ("m0.png", damage_smooth, "smoothed"),
    ("2.png", damage_bomb, "asks for"),
    ("m0.png", damage_bomb, "asks for"),
    ("w.ckpt", damage_text, "cannot be read"),
    ("w.ckpt", damage_cut, "cannot be read"),
    ("w.ckpt", damage_other_weights, "neither of this project nor a published"),
    ("w.ckpt", damage_shapes, "do not fit"),
    ("w.ckpt", damage_config, "w.ckpt"),
    ("w.ckpt", damage_nan, "not finite"),
    ("w.ckpt", damage_pickle, "cannot be read"),
    ("w.ckpt", damage_module, "weights only (UnpicklingError: Weights only load failed)"),
]


def assert_rejected(case: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr of a rejected command; only the JSON is written, with the same text."""
    capsys.readouterr()
    assert cli.run(command) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert [path.name for path in (case / "out").iterdir()] == ["prediction.json"]
    result = read_result(case)
    assert result["status"] == "error"
    assert printed.err == f"stm: {result['error']}\n"
    return result["error"]


@pytest.mark.parametrize(("file", "damage", "message"), BAD)
def test_bad_input_is_reported(file: str, damage, message: str, case: Path, capsys) -> None:
    damage(case / file)
    assert message in assert_rejected(case, segment_command(case), capsys)
    assert not (case / "executed").exists()


def test_bad_options_are_reported(case: Path, capsys) -> None:
    assert "give pairs" in assert_rejected(
        case, [*segment_command(case), "--ref-img", str(case / "0.png")], capsys
    )
    assert "must be auto, cpu or cuda" in assert_rejected(case, segment_command(case, device="tpu9"), capsys)
    assert "must be auto, cpu or cuda" in assert_rejected(case, segment_command(case, device="meta"), capsys)
    if not torch.cuda.is_available():
        assert "torch sees 0 CUDA GPUs" in assert_rejected(case, segment_command(case, device="cuda"), capsys)


def test_without_a_writable_json_the_error_is_on_stderr(case: Path, capsys) -> None:
    (case / "out").write_text("a file")
    assert cli.run(segment_command(case)) == 2
    assert (
        capsys.readouterr().err == f"stm: --output {case}/out/prediction.json: {case}/out is not a folder\n"
    )
    assert cli.run(segment_command(case, output=".")) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["0.png", "m0.png", "2.png", "w.ckpt", "case.json"])
def test_inputs_are_never_overwritten(output: str, case: Path, capsys) -> None:
    """With `case.json`, the written mask would be `case_mask.png`."""
    (case / "m1.png").rename(case / "case_mask.png")
    before = {path: path.read_bytes() for path in case.iterdir()}
    command = [word.replace("m1.png", "case_mask.png") for word in segment_command(case, output=output)]
    assert cli.run(command) == 2
    assert capsys.readouterr().err.endswith("is an input and would be overwritten\n")
    assert {path: path.read_bytes() for path in case.iterdir()} == before


def test_an_error_replaces_an_earlier_result(case: Path, capsys) -> None:
    assert cli.run(segment_command(case)) == 0
    assert cli.run(segment_command(case, query_img="absent.png")) == 2
    assert read_result(case)["status"] == "error"


def test_internal_errors_are_in_the_json_and_keep_their_traceback(case: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("stm.cli.segment_image.segment_query", fail)
    with pytest.raises(KeyError):
        cli.run(segment_command(case))
    assert read_result(case)["error"] == "'ours'"
    monkeypatch.undo()
    monkeypatch.setattr("stm.cli.segment_image.write_image", fail)
    with pytest.raises(KeyError):
        cli.run(segment_command(case))
    assert [path.name for path in (case / "out").iterdir()] == ["prediction.json"], "nothing half-written"


FILES = ("0.png", "m0.png", "2.png", "w.ckpt", "2.jpg")


def hostile(data: st.DataObject, whole: bytes) -> bytes:
    """Draw a truncated file, one with changed or inserted bytes, or random content."""
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


@pytest.mark.slow
@settings(max_examples=110, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_files_are_read_or_rejected(data: st.DataObject, case: Path, capsys) -> None:
    """The command succeeds, or reports one line and a JSON; no partial file remains."""
    file = data.draw(st.sampled_from(FILES))
    path = case / file
    if file.endswith(".jpg"):
        buffer = io.BytesIO()
        Image.fromarray(smooth_image(2, (50, 70))).save(buffer, "JPEG")
        whole = buffer.getvalue()
    else:
        whole = path.read_bytes()
    for left in (case / "out").glob("*"):
        left.unlink()
    path.write_bytes(hostile(data, whole))
    command = segment_command(case, references=1, query_img="2.jpg" if file == "2.jpg" else "2.png")
    try:
        capsys.readouterr()
        code = cli.run(command)
        if code:
            (case / "out" / "prediction.json").unlink()
            assert_rejected(case, command, capsys)
        else:
            assert read_result(case)["status"] == "ok" and len(list((case / "out").iterdir())) == 4
    finally:
        path.write_bytes(whole)
