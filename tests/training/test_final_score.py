"""The score of a training, by which sweeps and searches compare it."""

import csv
import json
from pathlib import Path

import pytest
from helpers.commands import TINY, succeed

POLICIES = ("+memory@final_policies.first=first", "+memory@final_policies.all=every_5")


@pytest.mark.slow
def test_the_final_evaluation_decides_with_several_policies_too(tmp_path: Path) -> None:
    succeed("train.py", *TINY, "name=run", *POLICIES, "final_benchmark.split=test", folder=tmp_path)
    run = tmp_path / "runs" / "run"
    scores = {
        path.parent.name.partition("_")[0]: json.loads(path.read_text())["global"]["J&F-Mean"]
        for path in run.glob("*/scores.json")
    }
    assert scores.keys() == {"test@first", "test@all"}
    with (run / "logs" / "metrics.csv").open() as file:
        validations = {float(row["val/J&F"]) for row in csv.DictReader(file) if row["val/J&F"]}
    score = json.loads((run / "job.json").read_text())["score"]
    assert score == scores["test@first"] and score not in validations
