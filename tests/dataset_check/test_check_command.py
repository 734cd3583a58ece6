"""`stm check` as a command: what it says, shows and refuses."""

import re
from pathlib import Path

import pytest
from helpers.check_trees import (
    A,
    B,
    clean_davis,
    clean_folder,
    colored,
    every_mask,
    found,
)
from helpers.data_trees import boxes, write_video

from stm.cli import main as cli
from stm.dataset_check.issues import ISSUE_CODES, SEVERITIES


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
    paths = every_mask(tmp_path / "set", colored)
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
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \|", page, re.MULTILINE))
    assert rows == {name: code.severity for name, code in ISSUE_CODES.items()}
    assert {code.severity for code in ISSUE_CODES.values()} == set(SEVERITIES)
