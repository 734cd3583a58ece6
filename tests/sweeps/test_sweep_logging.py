"""The table of a sweep in W&B."""

import json
from pathlib import Path

from hydra import compose, initialize_config_dir

from stm.config.schema import CONF
from stm.sweeps.job_records import collect_results, write_job_list


def test_table_is_logged_to_wandb(tmp_path: Path) -> None:
    """Offline, for a sweep of one job that has not run."""
    job = {"number": 0, "stage": "", "folder": "0_x", "settings": {"seed": "1"}, "overrides": ["seed=1"]}
    write_job_list(tmp_path, [job], {"command": "python train.py sweep=seeds"})
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["logger=wandb", "sweep=seeds"])
    collect_results(tmp_path, config)
    (file,) = (tmp_path / "wandb" / "latest-run").rglob("*.table.json")
    table = json.loads(file.read_text())
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert (row["job"], row["status"], row["seed"], row["J"]) == (0, "unfinished", "1", None)
    assert (tmp_path / "table.md").read_text().count("0_x: unfinished") == 1
