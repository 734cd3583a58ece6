"""Writing a checkpoint needs no place but its own, and what goes wrong meanwhile is told as what it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.commands import ROOT, TINY
from helpers.training_runs import checkpoint

from stm.training.checkpointing import SaveLastAndBest


def test_a_full_temporary_folder_is_no_matter(tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 2**19))
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "final_benchmark=null", "name=run"]
    there = {**os.environ, "TMPDIR": str(small_disk)}
    done = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert checkpoint(tmp_path / "runs" / "run")["global_step"] == 4
    assert (tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt").stat().st_size > 2**20, "it had no room"


def test_a_process_that_dies_meanwhile_is_no_full_disk(tmp_path: Path) -> None:
    """The others wait for each other when it is written."""

    def save(path: Path) -> None:
        raise RuntimeError("Connection closed by peer")

    trainer: Any = SimpleNamespace(is_global_zero=True, global_step=3, save_checkpoint=save)
    with pytest.raises(RuntimeError, match="^Connection closed by peer$"):
        SaveLastAndBest(tmp_path)._save(trainer, "last")
