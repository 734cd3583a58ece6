"""The examples in docs/api.md."""

import doctest
from pathlib import Path

import pytest


@pytest.mark.filterwarnings("ignore:stm.load:UserWarning")
def test_the_examples_are_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = Path(__file__).parents[2] / "docs" / "api.md"
    found = doctest.testfile(str(path), module_relative=False)
    assert found.attempted > 40 and found.failed == 0
