"""Hyper-parameter search: Optuna's trials, and the commands that W&B's agent builds from its file."""

from __future__ import annotations

import copy
import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.commands import ROOT, TINY, run, start
from helpers.logged_values import history, records, told_run
from hydra import compose, initialize_config_dir

from stm.config.schema import CONF

SEARCH = ("sweep=search", *TINY, "steps=2", "validate_every=2", "hydra.sweeper.n_trials=3")
KEYS = ("optimizer.lr", "loss.bootstrap_fraction", "trunk_lr")


def result(sweep: Path) -> dict[str, Any]:
    return yaml.safe_load((sweep / "optimization_results.yaml").read_text())


def jobs(sweep: Path) -> list[Path]:
    return sorted(path.parent for path in sweep.glob("*/job.json"))


def trials(sweep: Path) -> list[dict[str, str]]:
    """Return the table's rows so far."""
    table = sweep / "table.csv"
    return list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []


def test_every_key_of_the_search_can_be_set() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["sweep=search"], return_hydra_config=True)
        assert set(config.hydra.sweeper.params) == set(KEYS)
        assert config.final_benchmark is None, "the test split stays unseen"
        assert compose("train", ["sweep=search", "optimizer.lr=2e-05", "loss.bootstrap_fraction=0.3"])


@pytest.mark.slow
def test_killed_search_continues(tmp_path: Path) -> None:
    """A killed search leaves its table; the same command proposes the same trials and trains the rest."""
    sweep = tmp_path / "runs" / "search_quickstart"
    running = start("train.py", *SEARCH, "logger=wandb", folder=tmp_path)
    running.wait_until(lambda: [row["status"] for row in trials(sweep)] == ["completed"] * 2)
    running.kill()
    kept = {path: path.stat().st_mtime_ns for path in sweep.glob("*/job.json")}
    code, output = run("train.py", *SEARCH, "logger=wandb", folder=tmp_path)
    assert code == 0, output
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(jobs(sweep)) == 3
    scores = [json.loads((job / "job.json").read_text())["score"] for job in jobs(sweep)]
    assert result(sweep)["best_value"] == max(scores)
    assert set(result(sweep)["best_params"]) == set(KEYS)
    rows = trials(sweep)
    assert [float(row["J&F"]) for row in rows] == sorted(scores, reverse=True)
    assert {key: rows[0][key] for key in KEYS} == {
        key: str(value) for key, value in result(sweep)["best_params"].items()
    }
    assert (sweep / "table.md").read_text() in output
    groups = {told_run(one).run_group for job in jobs(sweep) for one in records(job)}
    assert groups == {"search_quickstart"}


@pytest.mark.slow
def test_failed_trial_does_not_end_the_search(tmp_path: Path) -> None:
    sweep = tmp_path / "runs" / "search_quickstart"
    space = ("trunk_lr=choice(0.5,-1,1.0)", "optimizer.lr=tag(log,interval(1e-4,1e-3))")
    space += ("loss.dice=interval(0.1,0.5)", "hydra.sweeper.sampler.seed=5")  # dice is not in the file
    # the last step is validated, however rarely the others are
    code, output = run("train.py", *SEARCH, "validate_every=9", *space, folder=tmp_path)
    assert code == 0, output
    assert "trunk_lr=-1.0: must be at least 0" in (sweep / "table.md").read_text()
    best = result(sweep)["best_params"]
    assert best["trunk_lr"] in (0.5, 1.0) and 1e-4 <= best["optimizer.lr"] <= 1e-3
    assert len({row["loss.dice"] for row in trials(sweep)}) == 3
    code, output = run("train.py", *SEARCH, "validate_every=9", *space, folder=tmp_path)
    assert code == 0, output  # the same command continues


# --- W&B's agent ---

FILE = yaml.safe_load((ROOT / "docs" / "wandb_sweep.yaml").read_text())


def agent_command(arguments: dict[str, Any]) -> list[str]:
    """Return the command that the agent would run, built by W&B's own functions."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    parts = create_sweep_command_args({"args": {key: {"value": value} for key, value in arguments.items()}})
    parts |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [FILE["program"]]}
    words: list[str] = []
    for chunk in create_sweep_command(copy.deepcopy(FILE["command"])):
        words += parts[chunk[2:-1]] if chunk[:2] == "${" and chunk[-1] == "}" else [chunk]
    return words


def proposals() -> list[dict[str, Any]]:
    """Return the smallest and the largest value of each parameter, or its first and last choice."""
    ranges = {
        key: values.get("values") or (values["min"], values["max"])
        for key, values in FILE["parameters"].items()
    }
    return [{key: values[end] for key, values in ranges.items()} for end in (0, -1)]


def test_wandb_accepts_the_file() -> None:
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    config = _validate_config_and_fill_distribution(
        load_sweep_config(str(ROOT / "docs" / "wandb_sweep.yaml"))
    )
    assert config["parameters"]["loss.bootstrap_fraction"]["distribution"] == "uniform"


@pytest.mark.parametrize("proposal", proposals(), ids=["first", "last"])
def test_every_parameter_composes(proposal: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "abc12345")
    env, python, program, *overrides = agent_command(proposal)
    assert (env, python, program) == ("/usr/bin/env", "python", "train.py")
    assert (ROOT / program).exists()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides)
    assert (config.optimizer.lr, config.loss.bootstrap_fraction, config.trunk_lr) == tuple(
        proposal[key] for key in KEYS
    )
    assert config.name == "search/abc12345"


@pytest.mark.slow
def test_agent_command_runs(tmp_path: Path) -> None:
    """Started as by the agent, offline and small, the run belongs to the search and has the id from W&B."""
    smaller = (*TINY, "init=null", "steps=1", "validate_every=1", "logger.wandb.mode=offline")
    parameters = tmp_path / "parameters.yaml"
    proposal = {"optimizer.lr": 1e-3, "network.similarity": "l2"}
    parameters.write_text(yaml.safe_dump({key: {"value": value} for key, value in proposal.items()}))
    given = {"WANDB_RUN_ID": "abc12345", "WANDB_SWEEP_ID": "s1", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
    _, _, program, *overrides = agent_command(proposal)
    code, output = run(program, *overrides, *smaller, folder=tmp_path, environment=dict(os.environ) | given)
    assert code == 0, output
    (one,) = records(tmp_path / "runs" / "search" / "abc12345")
    assert (told_run(one).run_id, told_run(one).sweep_id) == ("abc12345", "s1")
    assert any(FILE["metric"]["name"] in line for line in history(one))


def test_search_without_any_score_ends_in_one_message(tmp_path: Path) -> None:
    code, output = run("train.py", *SEARCH, "network.similarity=dott", "name=none", folder=tmp_path)
    assert code == 1 and "Traceback" not in output
    assert "no trial of the search has a score; table.md has the error of each" in output
    tables = list((tmp_path / "runs").glob("*/table.md"))
    assert len(tables) == 1 and "similarity=dott: must be one of" in tables[0].read_text()
