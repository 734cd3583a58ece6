"""Two commands that write into one folder: the second is refused at once, and a killed run leaves no lock."""

from pathlib import Path

import pytest
from helpers.commands import TINY, run, start
from hydra import compose, initialize_config_dir

from stm.config.schema import CONF
from stm.runs.run_lock import RunLock, lock_folder

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


@pytest.mark.parametrize("name", ["a" * 300, "file/run"])
def test_folder_that_cannot_be_made_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"output_root={tmp_path}", f"name={name}", "hydra.job.num=0"]
        config = compose("train", overrides, return_hydra_config=True)
    with pytest.raises(
        SystemExit, match=r"the folder .* cannot be made: .*; name=NAME and output_root=FOLDER"
    ):
        RunLock().on_run_start(config)


def test_other_ranks_rely_on_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert lock_folder(tmp_path) is None
