"""A run that was killed and resumed equals an uninterrupted one: bit-equal weights, optimizer and log."""

import csv
import random
import time
from pathlib import Path

import pytest
import torch
from helpers.commands import TINY, start, succeed

RUN = (*TINY, "final_benchmark=null", "trainer.log_every_n_steps=1")
VARIANTS = {
    "plain": ("scheduler=constant",),
    "scheduler": ("scheduler=warmup_linear",),
    "accumulation": ("trainer.accumulate_grad_batches=2",),
    "adamw, bootstrapping": (
        "optimizer=adamw",
        "loss.bootstrap_fraction=0.3",
        "loss.bootstrap_start_step=1",
        "loss.bootstrap_end_step=5",
    ),
    "average of the weights": ("callbacks=ema", "callbacks.average.decay=0.5"),
    "slow trunk": ("optimizer=adamw", "trunk_lr=0.1", "frozen_stages=1", "scheduler=cosine"),
    "frozen norms": ("backbone.norm=frozen",),
    "stills": ("data=synthetic_stills", "data.crop=48"),
    "workers": ("data.num_workers=2",),
}


def checkpoint(run: Path, name: str = "last") -> dict:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def log(run: Path) -> list[dict[str, str]]:
    """Return the logged metrics without those of time and memory."""
    measured = ("_per_second", "_memory_mb", "mfu")
    with (run / "logs" / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.endswith(measured)} for row in csv.DictReader(file)]


def assert_equal(ours: object, theirs: object, where: str = "") -> None:
    """Compare two nested values bit by bit."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(one, other, f"{where}[{i}]")
    else:
        assert ours == theirs, where


def assert_same_run(whole: Path, resumed: Path) -> None:
    for name in ("last", "best"):
        one, other = checkpoint(whole, name), checkpoint(resumed, name)
        keys = {"state_dict", "optimizer_states", "lr_schedulers", "global_step", "callbacks"}
        for key in keys | ({"current_model_state", "averaging_state"} & one.keys()):
            assert_equal(one[key], other[key], f"{name}: {key}")
    assert log(whole) == log(resumed)


def steps_done(run: Path) -> int:
    """Return the number of optimizer steps in the log of a running training."""
    file = run / "logs" / "metrics.csv"
    if not file.exists():
        return 0
    with file.open(newline="") as lines:
        return max(
            [int(row["step"]) + 1 for row in csv.DictReader(lines) if row.get("train/loss")], default=0
        )


def kill_at(step: int, run: Path, *arguments: str, delay: float = 0) -> None:
    """Start or resume a run, and kill it after that many steps."""
    running = start("train.py", *arguments, f"name={run.name}", "resume=auto", folder=run.parents[1])
    running.wait_until(lambda: steps_done(run) >= step)
    time.sleep(delay)
    running.kill()


def finish(run: Path, *arguments: str) -> str:
    return succeed("train.py", *arguments, f"name={run.name}", "resume=auto", folder=run.parents[1])


def test_killed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    arguments = (*RUN, "steps=6", "validate_every=3", "save_every=2")
    whole, cut = tmp_path / "runs" / "whole", tmp_path / "runs" / "cut"
    finish(whole, *arguments)
    kill_at(4, cut, *arguments)
    assert 3 <= checkpoint(cut)["global_step"] < 6
    output = finish(cut, *arguments)
    assert "continuing from" in output
    assert "not resumable" not in output
    assert "Warning" not in output
    assert_same_run(whole, cut)
    assert [float(row["val/J&F"]) for row in log(whole) if row["val/J&F"]] != []


@pytest.mark.slow
def test_run_killed_in_a_validation_repeats_it(tmp_path: Path) -> None:
    arguments = (*RUN, "steps=3", "validate_every=2", "save_every=1", "benchmark.count=12")
    whole, cut = tmp_path / "runs" / "whole", tmp_path / "runs" / "cut"
    finish(whole, *arguments)
    kill_at(2, cut, *arguments)
    assert checkpoint(cut)["global_step"] == 1, "the validation of step 2 had ended: it must take longer"
    finish(cut, *arguments)
    assert_same_run(whole, cut)


@pytest.mark.slow
def test_run_can_be_extended(tmp_path: Path) -> None:
    arguments = (*RUN, "scheduler=constant", "validate_every=2", "save_every=2")
    whole, longer = tmp_path / "runs" / "whole", tmp_path / "runs" / "longer"
    finish(whole, *arguments, "steps=5")
    finish(longer, *arguments, "steps=2")
    finish(longer, *arguments, "steps=5")
    assert_equal(checkpoint(whole)["state_dict"], checkpoint(longer)["state_dict"])
    assert checkpoint(longer)["config"]["steps"] == 5


@pytest.mark.slow
def test_extended_run_follows_the_longer_schedule(tmp_path: Path) -> None:
    arguments = (*RUN, "scheduler=warmup_linear", "validate_every=9", "save_every=9")
    whole, longer = tmp_path / "runs" / "whole", tmp_path / "runs" / "longer"
    finish(whole, *arguments, "steps=4")
    finish(longer, *arguments, "steps=2")
    finish(longer, *arguments, "steps=4")
    assert_equal(checkpoint(whole)["lr_schedulers"], checkpoint(longer)["lr_schedulers"])
    rates = [
        [group["lr"] for group in checkpoint(run)["optimizer_states"][0]["param_groups"]]
        for run in (whole, longer)
    ]
    assert rates[0] == rates[1]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_run_killed_at_random_moments(tmp_path: Path, variant: str) -> None:
    """Killed four times, at steps and moments from a seeded generator."""
    draw = random.Random(variant)
    arguments = (*RUN, "steps=12", "validate_every=4", "save_every=3", *VARIANTS[variant])
    whole, cut = tmp_path / "runs" / "whole", tmp_path / "runs" / "cut"
    finish(whole, *arguments)
    for step in sorted(draw.sample(range(1, 12), 4)):
        kill_at(step, cut, *arguments, delay=draw.uniform(0, 0.2))
    finish(cut, *arguments)
    assert_same_run(whole, cut)
