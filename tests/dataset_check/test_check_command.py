"""Command line of `stm check`: its messages, table and options."""

import re
from pathlib import Path

import pytest
from helpers.check_trees import (
    A,
    B,
    check_issues,
    clean_davis,
    clean_folder,
    damage_all_masks,
    save_colored,
)
from helpers.data_trees import boxes, write_video

from stm.cli import main as cli
from stm.dataset_check.issues import ISSUE_CODES, SEVERITIES


def test_a_folder_without_a_data_set_fails_in_one_line_that_names_the_layouts(tmp_path, capsys):
    clean_davis(tmp_path / "below")
    for options in ([], ["--layout", "folder"]):
        assert cli.run(["check", str(tmp_path), *options]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1
        assert (
            "JPEGImages/<video>/*.jpg" in printed.err
            and f"{tmp_path / 'below'} looks like davis" in printed.err
        )
        assert ("meta.json" in printed.err) == (not options)
    assert cli.run(["check", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"stm: {tmp_path / 'nowhere'}: there is no such folder\n"
    assert cli.run(["check", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert "--output" in capsys.readouterr().err


def test_the_table_shows_the_count_and_the_first_paths(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    clean_davis(tmp_path / "set")
    paths = damage_all_masks(tmp_path / "set", save_colored)
    assert cli.run(["check", str(tmp_path / "set")]) == 1
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "A mask must hold object ids" in line)
    assert row.split()[1:6] == ["error", "│", "4", "│", "A"]
    assert [path in printed for path in paths] == [True, True, True, False]
    assert "davis: 2 videos, 16 files: 4 errors, 0 warnings, 0 notes" in printed


@pytest.mark.parametrize("workers", ["1", "7"])
def test_the_number_of_workers_does_not_change_the_issues(workers, tmp_path):
    clean_folder(tmp_path / "set")
    for i in range(30):
        write_video(tmp_path / "set", f"v{i}", [boxes({1: A, 3: B})] * 3)
    expected = [("note", "id-gap", path) for path in sorted(f"Annotations/v{i}" for i in range(30))]
    assert check_issues(tmp_path / "set", "--workers", workers) == expected


def test_the_documentation_lists_every_code_with_its_severity():
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \|", page, re.MULTILINE))
    assert rows == {name: code.severity for name, code in ISSUE_CODES.items()}
    assert {code.severity for code in ISSUE_CODES.values()} == set(SEVERITIES)
