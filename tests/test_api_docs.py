"""The examples in docs/api.md."""

import doctest
from pathlib import Path

import small


def test_the_examples_are_true(tmp_path: Path) -> None:
    names = {
        "network": small.network(),
        "frames": small.frames(10).permute(0, 2, 3, 1).numpy(),
        "masks": small.masks(10, 2).numpy(),
        "other_frame": small.frames(1, (64, 80))[0],
        "folder": tmp_path,
    }
    path = Path(__file__).parents[1] / "docs" / "api.md"
    found = doctest.testfile(str(path), module_relative=False, globs=names)
    assert found.attempted > 15 and found.failed == 0
