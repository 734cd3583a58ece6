"""The two command lines: a run from training to scores, and sweeps."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.commands import EVALUATE, ROOT, TINY, run, succeed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with a finished run `one`."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "printed").write_text(succeed("train.py", *TINY, "name=one", folder=folder))
    return folder


def weights(run_folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run_folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def equal_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- train, resume, evaluate ---


def test_files_and_output_of_a_run(trained: Path) -> None:
    folder, printed = trained / "runs" / "one", (trained / "printed").read_text()
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert (folder / ".hydra" / "config.yaml").exists()
    assert (folder / "logs" / "metrics.csv").exists()
    for text in ("plain-test-0-0000", "all objects", "copy-first", "masks", "overlays", "scores.json"):
        assert text in printed
    assert "Traceback" not in printed and "Warning" not in printed
    (scores,) = folder.glob("test_*/scores.json")
    assert {"global", "baselines", "sequences"} <= json.loads(scores.read_text()).keys()


def test_resuming_a_finished_run_keeps_weights_and_scores(trained: Path) -> None:
    before = weights(trained / "runs" / "one")
    (scores,) = (trained / "runs" / "one").glob("test_*/scores.json")
    masks = {path: path.stat().st_mtime_ns for path in scores.parent.rglob("*.png")}
    output = succeed("train.py", *TINY, "name=one", "resume=auto", folder=trained)
    assert "continuing from" in output and "all objects" in output
    assert equal_weights(before, weights(trained / "runs" / "one"))
    assert masks == {path: path.stat().st_mtime_ns for path in scores.parent.rglob("*.png")}


def test_a_second_run_does_not_overwrite_the_first(trained: Path) -> None:
    code, output = run("train.py", *TINY, "name=one", folder=trained)
    assert code == 1
    assert "already holds a run: continue it with resume=auto, or start another with name=NEW_NAME" in output


@pytest.mark.parametrize(
    "setting",
    [
        "network.similarity=dot",
        *(pytest.param(s, marks=pytest.mark.slow) for s in ("seed=9", "optimizer.lr=3e-4", "data.pixels=64")),
    ],
)
def test_resuming_with_other_settings_raises(setting: str, trained: Path) -> None:
    code, output = run("train.py", *TINY, "name=one", "resume=auto", setting, folder=trained)
    assert code == 1 and "Traceback" not in output, output
    assert f"that run started with {setting.split('.')[0].split('=')[0]}=" in output


def test_resuming_with_other_accumulation_raises_but_not_with_other_loading(trained: Path) -> None:
    accumulated = "trainer.accumulate_grad_batches=2"
    code, output = run("train.py", *TINY, "name=one", "resume=auto", accumulated, folder=trained)
    assert code == 1 and "that run started with trainer.accumulate_grad_batches=1; got" in output
    succeed(
        "train.py", *TINY, "name=one", "resume=auto", "data.num_workers=1", "init=gone.ckpt", folder=trained
    )


def test_init_starts_with_the_weights_of_another_run(trained: Path) -> None:
    init = "init=runs/one/checkpoints/last.ckpt"
    frozen = ("final_benchmark=null", "optimizer.lr=0.0", "scheduler=constant", "steps=1")
    succeed("train.py", *TINY, *frozen, init, "name=second_stage", "seed=9", folder=trained)
    assert equal_weights(weights(trained / "runs" / "one"), weights(trained / "runs" / "second_stage"))
    code, output = run("train.py", *TINY, init, "network.key_channels=12", "name=odd", folder=trained)
    assert code == 1
    assert "init=runs/one/checkpoints/last.ckpt: must hold a network with this run's arguments" in output
    assert "it has key_channels=8; got key_channels=12" in output and "Traceback" not in output


def test_evaluate_keeps_finished_sequences(trained: Path) -> None:
    arguments = ("checkpoint=runs/one/checkpoints/best.ckpt", *EVALUATE, "submission=davis")
    printed = succeed("evaluate.py", *arguments, folder=trained)
    folder = trained / "runs" / "evaluate" / "one-best_synthetic_every_5"
    assert "plain-val-0-0001" in printed and "submission" in printed
    assert (folder / "davis.zip").exists()
    sequences = sorted((folder / "sequences").glob("*.json"))
    assert len(sequences) == 2
    scores = json.loads((folder / "scores.json").read_text())
    sequences[1].unlink()  # as after an interruption
    kept = sequences[0].stat().st_mtime_ns
    succeed("evaluate.py", *arguments, folder=trained)
    assert sequences[0].stat().st_mtime_ns == kept
    assert json.loads((folder / "scores.json").read_text())["global"] == scores["global"]


def test_a_sweep_of_policies_has_a_numbered_folder_per_job(trained: Path) -> None:
    policies = ["every_5", "first", "first_previous", "previous"]
    swept = "memory=glob([every*,first*,previous])"
    arguments = ("-m", "checkpoint=runs/one/checkpoints/best.ckpt", swept, *EVALUATE)
    succeed("evaluate.py", *arguments, "output_root=table5", folder=trained)
    (sweep,) = (trained / "table5").iterdir()
    folders = sorted(path for path in sweep.iterdir() if path.is_dir() and path.name[0] != ".")
    assert [path.name for path in folders] == [f"{i}_memory-{p}" for i, p in enumerate(policies)]
    for folder in folders:
        assert (folder / "scores.json").exists()


def test_a_sweep_of_seeds_has_a_numbered_folder_per_job(trained: Path) -> None:
    succeed("train.py", *TINY, "final_benchmark=null", "name=seeds", "seed=1,2", "--multirun", folder=trained)
    folders = sorted(path for path in (trained / "runs" / "seeds").iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["0_seed-1", "1_seed-2"]
    assert equal_weights(weights(folders[0]), weights(trained / "runs" / "one")), (
        "a job of a sweep equals a single run with its seed"
    )
    assert not equal_weights(weights(folders[0]), weights(folders[1]))


@pytest.mark.parametrize(
    "preset", ["smoke", *(pytest.param(name, marks=pytest.mark.slow) for name in ("overfit", "profile"))]
)
def test_debug(preset: str, trained: Path) -> None:
    output = succeed("train.py", *TINY, f"debug={preset}", "steps=2", "validate_every=2", folder=trained)
    (folder,) = (trained / "runs").glob(f"debug_{preset}_*")
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert ("run_training_batch" in output) == (preset == "profile")


@pytest.mark.slow
def test_in_a_new_interpreter(tmp_path: Path) -> None:
    """The other tests fork from a server with imported packages; this one starts from scratch."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HYDRA", "PYTEST"))}
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "steps=1", "name=alone"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "all objects" in done.stdout


@pytest.mark.slow
def test_overfit_overfits(tmp_path: Path) -> None:
    """The loss on four clips must approach 0 within 300 steps, else the training step is wrong."""
    arguments = ("experiment=quickstart", "debug=overfit", "threads=1", "data.pixels=64", "data.count=8")
    small = ("benchmark.count=1", "benchmark.kind=plain", "benchmark.frames=6", "loss.dice=0", "name=overfit")
    succeed("train.py", *arguments, *small, folder=tmp_path)
    lines = (tmp_path / "runs" / "overfit" / "logs" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/loss")
    losses = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
    assert losses[0] > 0.05
    assert sum(losses[-3:]) / 3 < 0.01


@pytest.mark.slow
def test_without_a_final_evaluation_the_score_is_the_best_validation(tmp_path: Path) -> None:
    """A hyper-parameter search uses the score that selected best.ckpt, not the last validation."""
    rates = (
        "steps=4",
        "validate_every=1",
        "final_benchmark=null",
        "optimizer.lr=0.002",
        "scheduler=constant",
    )
    succeed("train.py", *TINY, *rates, "name=x", folder=tmp_path)
    with (tmp_path / "runs/x/logs/metrics.csv").open(newline="") as file:
        validations = [float(row["val/J&F"]) for row in csv.DictReader(file) if row["val/J&F"]]
    assert validations[-1] < max(validations), "else the test is void"
    assert json.loads((tmp_path / "runs/x/job.json").read_text())["score"] == max(validations)
