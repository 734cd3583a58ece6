"""Writing a checkpoint only needs room at its own path, and reports errors as what they are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from helpers.commands import ROOT, TINY
from helpers.training_runs import checkpoint

from stm.evaluation.evaluate import Benchmark
from stm.training.checkpointing import SaveLastAndBest, copy_to_address


@pytest.mark.slow
def test_full_temporary_folder_does_not_matter(tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 2**19))
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "final_benchmark=null", "name=run"]
    environment = {**os.environ, "TMPDIR": str(small_disk)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert checkpoint(tmp_path / "runs" / "run")["global_step"] == 4
    assert (tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt").stat().st_size > 2**20, (
        "too large for the temporary folder"
    )


def test_death_of_another_process_is_not_reported_as_a_full_disk(tmp_path: Path) -> None:
    """The processes wait for each other while the checkpoint is written."""

    def save(path: Path) -> None:
        raise RuntimeError("Connection closed by peer")

    trainer: Any = SimpleNamespace(is_global_zero=True, global_step=3, save_checkpoint=save)
    with pytest.raises(RuntimeError, match="^Connection closed by peer$"):
        SaveLastAndBest(tmp_path)._save(trainer, "last")


def test_checkpoints_are_copied_to_an_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "last.ckpt"
    file.write_bytes(b"weights")
    copy_to_address(file, "memory://bucket/run/last.ckpt")
    assert fsspec.filesystem("memory").cat("/bucket/run/last.ckpt") == b"weights"
    copy_to_address(file, "nosuch://bucket/last.ckpt")
    assert "could not be copied to nosuch://bucket/last.ckpt" in caplog.text


@pytest.mark.parametrize(
    ("protocol", "metric"),
    [("davis", "J&F"), ("youtube", "J&F"), ("all", "J&F"), ("mose", "J&F"), ("mosev2", "J&Fdot")]
    + [("lvos", "J&F"), ("vost", "J_tr"), ("sav", "J&F")],
)
def test_the_benchmark_names_the_metric(protocol: str, metric: str, tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace())
    module: Any = SimpleNamespace(benchmark=Benchmark("x", [], protocol=protocol))
    for given, expected in ((None, f"val/{metric}"), ("val/J", "val/J")):
        checkpoints = SaveLastAndBest(tmp_path, monitor=given)
        checkpoints.setup(trainer, module, "fit")
        assert checkpoints.monitor == expected
