"""A resumed run follows the configured schedule, as an uninterrupted run of that schedule does."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers import small_networks as small
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader

from stm.evaluation.evaluate import Benchmark
from stm.memory import MemoryPolicy
from stm.training.checkpointing import SaveLastAndBest
from stm.training.lightning_module import STMModule
from stm.training.loss import SegmentationLoss
from stm.training.resume import check_same_run, find_resume_checkpoint
from stm.video import ArrayVideo, ClipBatch

RATE = 1e-3
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*no longer recommended"),
]


def one_cycle(steps: int, max_lr: float = RATE, cycle_momentum: bool = False) -> partial:
    return partial(
        schedules.OneCycleLR,
        max_lr=max_lr,
        total_steps=steps,
        pct_start=0.3,
        anneal_strategy="linear",
        cycle_momentum=cycle_momentum,
        final_div_factor=4.0,
    )


def cosine(steps: int) -> partial:
    return partial(schedules.CosineAnnealingLR, T_max=steps)


CONSTANT = partial(schedules.ConstantLR, factor=1.0, total_iters=0)
WARMUP = partial(schedules.LinearLR, start_factor=0.1, total_iters=5)
CHANGES: dict[str, tuple[Any, int, Any, int]] = {  # schedule and steps before and after
    "longer one cycle": (one_cycle(3), 3, one_cycle(8), 8),
    "much longer one cycle": (one_cycle(2), 2, one_cycle(6), 6),
    "shorter one cycle": (one_cycle(9), 3, one_cycle(5), 5),
    "other peak": (one_cycle(6), 3, one_cycle(6, max_lr=5e-3), 6),
    "cycled momentum": (one_cycle(6), 3, one_cycle(6, cycle_momentum=True), 6),
    "no cycled momentum": (one_cycle(6, cycle_momentum=True), 3, one_cycle(6), 6),
    "longer cosine": (cosine(3), 3, cosine(7), 7),
    "constant to one cycle": (CONSTANT, 3, one_cycle(6), 6),
    "one cycle to constant": (one_cycle(3), 3, CONSTANT, 6),
    "warmup to cosine": (WARMUP, 2, cosine(6), 6),
    "cosine to warmup": (cosine(3), 3, WARMUP, 6),
    "cosine to none": (cosine(3), 3, None, 5),
    "none to cosine": (None, 3, cosine(5), 5),
    "unchanged": (cosine(6), 3, cosine(6), 6),
}


class Rates(L.Callback):
    """Records rate and first momentum of each optimizer step."""

    def __init__(self) -> None:
        self.values: list[tuple[float, float]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        group = optimizer.param_groups[0]
        self.values.append((group["lr"], group["betas"][0]))


def video(name: str) -> ArrayVideo:
    return ArrayVideo(name, small.frames(3).permute(0, 2, 3, 1).numpy(), small.masks(3, 1).numpy())


def fit(
    folder: Path,
    steps: int,
    scheduler: Any,
    resume: Path | None = None,
    validate_every: int | None = None,
    **config: Any,
) -> tuple[list[tuple[float, float]], SaveLastAndBest, list[int]]:
    """Train a small network; return the rates of its steps, the checkpoints and the validated steps."""
    validated: list[int] = []

    class Module(STMModule):
        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            validated.append(self.global_step)

    optimizer = partial(torch.optim.Adam, lr=RATE)
    config = {"steps": steps, "monitor": "val/J&F", "benchmark": {"name": "one"}, **config}
    benchmark = Benchmark("one", [video("v")])
    module = Module(
        small.network(), SegmentationLoss(), optimizer, scheduler, benchmark, MemoryPolicy(), config
    ).train()
    rates, checkpoints = Rates(), SaveLastAndBest(folder / "checkpoints", every=1, monitor=config["monitor"])
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=1,
        val_check_interval=validate_every or 10**6,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validate_every else 0,
        callbacks=[rates, checkpoints],
        logger=False,
        accelerator="cpu",
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=folder,
    )
    clips = DataLoader([small.clip(count=2)] * steps, batch_size=1, collate_fn=ClipBatch.collate)
    videos = DataLoader([video("v")], batch_size=None) if validate_every else None
    trainer.fit(module, clips, videos, ckpt_path=resume, weights_only=True)
    return rates.values, checkpoints, validated


@pytest.mark.filterwarnings("error:.*lr_scheduler")
@pytest.mark.parametrize(
    "change",
    [name if i % 3 == 0 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(CHANGES)],
)
def test_rates_are_those_of_an_uninterrupted_run(tmp_path: Path, change: str) -> None:
    before, done, after, steps = CHANGES[change]
    first, _, _ = fit(tmp_path, done, before)
    expected, _, _ = fit(tmp_path / "whole", steps, after)
    last = tmp_path / "checkpoints" / "last.ckpt"
    rates, _, _ = fit(tmp_path, steps, after, resume=last)
    assert len(first) == done and len(rates) == steps - done
    assert rates == expected[done:]
    assert all(rate >= 0 for rate, _ in rates)
    ours, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (tmp_path, tmp_path / "whole")
    )
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    assert ours["optimizer_states"][0]["param_groups"] == theirs["optimizer_states"][0]["param_groups"]


def test_schedule_that_ends_before_the_run_or_needs_a_metric_is_refused() -> None:
    def module(scheduler: Any) -> STMModule:
        optimizer = partial(torch.optim.Adam, lr=RATE)
        return STMModule(small.network(), SegmentationLoss(), optimizer, scheduler, config={"steps": 6})

    with pytest.raises(ValueError, match=r"scheduler.total_steps=3: must be at least steps=6"):
        module(one_cycle(3)).configure_optimizers()
    with pytest.raises(ValueError, match=r"scheduler._target_=.*ReduceLROnPlateau: must be a schedule by"):
        module(schedules.ReduceLROnPlateau).configure_optimizers()


@pytest.mark.parametrize(("steps", "every", "expected"), [(3, 5, [3]), (5, 2, [2, 4, 5]), (4, 2, [2, 4])])
def test_the_last_step_is_validated(tmp_path: Path, steps: int, every: int, expected: list[int]) -> None:
    _, checkpoints, validated = fit(tmp_path, steps, None, validate_every=every)
    assert validated == expected
    best, last = (
        torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")
    )
    assert best["global_step"] in expected and last["global_step"] == steps
    assert checkpoints.best is not None
    resumed, _, more = fit(
        tmp_path, 7, None, resume=tmp_path / "checkpoints" / "last.ckpt", validate_every=every
    )
    assert len(resumed) == 7 - steps
    assert more == sorted({step for step in range(steps + 1, 8) if step % every == 0} | {7})


def with_best(path: Path, value: float) -> Path:
    """Set the best score in a checkpoint."""
    contents = torch.load(path, weights_only=True)
    contents["callbacks"]["SaveLastAndBest"]["best"] = value
    torch.save(contents, path)
    return path


@pytest.mark.parametrize(
    "changes", [{"monitor": "val/F"}, {"benchmark": {"name": "two"}}, {"memory": {"every": 9}}, None]
)
def test_best_score_is_only_inherited_by_the_same_run(tmp_path: Path, changes: dict | None) -> None:
    fit(tmp_path, 2, None, validate_every=2)
    last, best = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    with_best(last, 2.0)  # above every score
    before = best.read_bytes()
    _, same, _ = fit(tmp_path, 3, None, resume=last, validate_every=3)
    assert same.best == 2.0 and best.read_bytes() == before
    folder = tmp_path / "other" if changes is None else tmp_path
    _, other, _ = fit(folder, 4, None, resume=with_best(last, 2.0), validate_every=4, **(changes or {}))
    assert other.best is not None and other.best <= 1
    written = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert written["global_step"] == 4 and written["callbacks"]["SaveLastAndBest"]["best"] == other.best


SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("seed", "batch_size", "network", "loss", "optimizer", "data"), 1),
    "trainer": {"accumulate_grad_batches": 1, "limit_val_batches": 1.0},
    "monitor": "val/J&F",
    "steps": 5,
}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Write the checkpoint of a run that has done 5 steps of 5."""
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"optimizer_states": [], "config": SETTINGS, "global_step": 5}, path)
    return path


def test_resuming_without_a_meaning_is_refused(finished: Path, tmp_path: Path) -> None:
    run = finished.parents[1]
    assert check_same_run(finished, SETTINGS, run) == 5
    assert check_same_run(finished, SETTINGS | {"steps": 6, "monitor": "val/F"}, tmp_path / "new") == 5
    with pytest.raises(ValueError, match=r"^steps=3: must be at least 5, the steps that resume=.* has done"):
        check_same_run(finished, SETTINGS | {"steps": 3}, run)
    with pytest.raises(ValueError, match=r"^steps=5: must be more than 5, .* with another monitor, since"):
        check_same_run(finished, SETTINGS | {"monitor": "val/F"}, run)
    with pytest.raises(ValueError, match=r"^steps=5: must be more than 5, .* with another name, since"):
        check_same_run(finished, SETTINGS, tmp_path / "new")


def test_resuming_refuses_other_text_but_takes_other_paths(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    data = {"root": "data", "split": "train", "clips": {"kind": "plain", "images": "a/b"}, "num_workers": 1}
    network = {"border": "black", "backbone": "timm/resnet18.a1_in1k"}
    before = SETTINGS | {"data": data, "network": {**network, "pretrained": True}}
    torch.save({"optimizer_states": [], "config": before, "global_step": 3}, path)
    moved = {"root": "/mnt", "split": "train", "clips": {"kind": "plain", "images": "c"}, "num_workers": 2}
    assert check_same_run(path, before | {"data": moved, "network": network}, tmp_path) == 3
    event = data | {"clips": {"kind": "event", "images": "a/b"}}
    for key, value in (
        ("network", network | {"border": "mean"}),
        ("network", network | {"backbone": "timm/resnet34.a1_in1k"}),
        ("data", data | {"split": "val"}),
        ("data", event),
        ("mask_disturbance", {"warp": 0.5}),
        ("trainer", SETTINGS["trainer"] | {"gradient_clip_val": 1.0}),
    ):
        with pytest.raises(ValueError, match=rf"that run started with {key}[.=]"):
            check_same_run(path, before | {key: value}, tmp_path)


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"optimizer_states": [], "global_step": 3}, path)
    with pytest.raises(ValueError, match=r"other\.ckpt: must be the checkpoint of a run of this project"):
        check_same_run(path, SETTINGS, tmp_path)


def test_another_runs_checkpoint_does_not_replace_a_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    new = tmp_path / "new"
    assert find_resume_checkpoint(str(finished), new) == finished
    assert find_resume_checkpoint(str(finished), finished.parents[1]) == finished
    own = new / "checkpoints" / "last.ckpt"
    own.parent.mkdir(parents=True)
    own.write_bytes(finished.read_bytes())
    with pytest.raises(ValueError, match="already holds a run: continue it with resume=auto"):
        find_resume_checkpoint(str(finished), new)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert find_resume_checkpoint(str(finished), new) == own, "a requeued job continues its own run"
