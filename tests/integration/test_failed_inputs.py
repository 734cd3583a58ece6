"""Inputs on which the program once failed, through the commands: exit code and message or scores of each."""

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers import small_networks as small

from stm.cli import main as cli
from stm.evaluation import benchmarks
from stm.evaluation.evaluate import evaluate

REFUSED = "1 of 2 videos cannot be evaluated: b"
NOT_TURNED = "96x171 .*171x96"
COMMANDS = {
    "check base": (0, "0 errors, 0 warnings, 0 notes"),
    "check stale": (0, "0 errors, 0 warnings, 0 notes"),
    "check ipynb": (0, "folder: 1 video, 12 files: 0 errors, 0 warnings, 0 notes"),
    "check uppermask": (0, "folder: 1 video, 12 files: 0 errors, 0 warnings, 0 notes"),
    "check superscript": (0, "few-masks(.|\n)*0 errors, 1 warning, 0 notes"),
    "check d_utf16": (0, "davis: 1 video, 12 files: 0 errors, 0 warnings, 0 notes"),
    "check d_255_one": (1, "mask-binary(.|\n)*6 errors"),
    "check d_two_one": (1, "few-masks(.|\n)*1 error"),
    "check exif6": (1, "mask-size(.|\n)*frame-rotated(.|\n)*6 errors, 0 warnings, 6 notes"),
    "check y_entrynomask": (1, "mask-missing(.|\n)*valid/Annotations/v/00010.png"),
    "check films": (2, "films: must hold a data set"),
    "score base/Annotations --benchmark-root base --benchmark folder": (0, r"\b1\.000.*\b1\.000.*\b1\.000"),
    "score stale/Annotations --benchmark-root base --benchmark folder": (0, r"all objects .* 0\."),
    "score uppermask/Annotations --benchmark-root uppermask --benchmark folder": (0, r"\b1\.000.*\b1\.000"),
    "score ipynb/Annotations --benchmark-root ipynb --benchmark folder": (0, r"\b1\.000.*\b1\.000"),
    "score superscript/Annotations --benchmark-root superscript --benchmark folder": (2, "no ground truth"),
    "score exif6/Annotations --benchmark-root exif6 --benchmark folder": (2, NOT_TURNED),
    "score d_utf16/Annotations --benchmark-root d_utf16": (0, r"\b1\.000.*\b1\.000"),
    "score d_255_one/Annotations --benchmark-root d_255_one": (2, f"{REFUSED} must show an object"),
    "score d_two_one/Annotations --benchmark-root d_two_one": (2, f"{REFUSED} has no frame that counts"),
    "score d_two_one/Annotations --benchmark-root d_two_one --only a": (0, r"\b1\.000.*\b1\.000"),
    "score y_entrynomask/valid --benchmark-root y_entrynomask --benchmark youtube_vos --split valid": (
        2,
        "v has no mask .*00010.png, where object 2 enters",
    ),
    "track --video base/JPEGImages/v --mask base/Annotations/v/00000.png": (0, "6 frames"),
    "track --video uppermask/JPEGImages/v --mask uppermask/Annotations/v": (0, "6 frames"),
    "track --video ipynb/JPEGImages/v --mask ipynb/Annotations/v": (0, "6 frames"),
    "track --video superscript/JPEGImages/v --mask superscript/Annotations/v": (0, "1 frames"),
    "track --video exif6/JPEGImages/v --mask exif6/Annotations/v/00000.png": (2, f"{NOT_TURNED}; .*EXIF"),
    "track --video sizechange --mask films/m_172x96.png": (2, "sizechange/4.jpg: frames must have the size"),
    "track --video films/ok.mp4 --mask films/m_172x96.png": (0, "8 frames"),
    "track --video films/vfr.mp4 --mask films/m_172x96.png": (0, "8 frames"),
    "track --video films/cut.mkv --mask films/m_172x96.png": (1, "cut.mkv: the file was cut short"),
    "track --video films/zero.mp4 --mask films/m_172x96.png": (2, "zero.mp4: not a readable video"),
}


@pytest.fixture
def cases(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the inputs into the working folder."""
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"the inputs are not at {folder}")
    shutil.copytree(folder, tmp_path / "cases", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path / "cases")
    return tmp_path / "cases"


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_on_the_input(line: str, cases: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = line.split()
    if arguments[0] == "track":
        weights = small.save(cases / "w.ckpt")
        arguments += ["--output", "out", "--weights", str(weights), "--device", "cpu", "--no-overlay"]
    code, message = COMMANDS[line]
    assert cli.run(arguments) == code
    output = "".join(capsys.readouterr())
    assert re.search(message, output), output


def test_changed_files_are_evaluated_anew(cases: Path) -> None:
    """The names stay the same; scores of the same content are kept."""

    def scores(folder: str) -> dict:
        shutil.copytree(folder, "place", dirs_exist_ok=True)
        network = small.network()
        evaluate(network, None, benchmarks.folder("place"), Path("run"), progress=False, workers=0)
        return json.loads(Path("run/scores.json").read_text())

    base, stale, again = scores("base"), scores("stale"), scores("base")
    assert base["global"] == again["global"] != stale["global"]
    assert base["speed"] != again["speed"]  # those of `stale` replaced them
    assert scores("base") == again
