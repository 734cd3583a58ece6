"""Two commands that write into one folder: the second is refused at once, and a killed run leaves no lock."""

from pathlib import Path

import pytest
from helpers.commands import TINY, run, start

from stm.runs.run_lock import lock_folder

LONG = (*TINY, "steps=2000", "validate_every=2000", "save_every=1", "final_benchmark=null", "name=same")


def test_the_second_run_is_refused_and_leaves_the_first_as_it_is(tmp_path: Path) -> None:
    first = start("train.py", *LONG, folder=tmp_path)
    folder = tmp_path / "runs" / "same"
    first.wait_until(lambda: (folder / "checkpoints" / "last.ckpt").exists())
    config = (folder / ".hydra" / "config.yaml").read_bytes()
    code, output = run("train.py", *LONG, "seed=7", folder=tmp_path)
    assert code == 1 and "Traceback" not in output
    assert f"process {first.process.pid} on" in output and "name=NEW_NAME" in output
    assert (folder / ".hydra" / "config.yaml").read_bytes() == config
    assert not (folder / "job.json").exists()
    first.kill()
    file = lock_folder(folder)
    assert file is not None, "a killed run leaves no lock"
    file.close()


def test_a_lock_ends_with_its_file(tmp_path: Path) -> None:
    file = lock_folder(tmp_path / "new" / "run")
    assert file is not None and (tmp_path / "new" / "run").is_dir()
    file.close()
    again = lock_folder(tmp_path / "new" / "run")
    assert again is not None
    again.close()


def test_other_ranks_rely_on_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert lock_folder(tmp_path) is None
