"""Progress: log lines where the output is not a terminal, a bar where it is."""

import logging
import os
import re
import sys
import time
from datetime import timedelta
from pathlib import Path

import lightning as L
import pytest
import torch
from helpers.commands import TINY, succeed
from helpers.small_networks import clip
from helpers.training_runs import rows
from lightning.pytorch.callbacks import RichProgressBar
from torch.utils.data import DataLoader

from stm.training.callbacks import ProgressLog, build_progress
from stm.video import ClipBatch

STEP = r"step (\d+)/4, loss ([\d.]+), learning rate ([\d.e-]+)(?:, ([\d.]+) clips/s, (\d+) MB)?"
REMAINING = r"(\d+:\d\d:\d\d) left"


@pytest.fixture(scope="module")
def run_and_output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder and the output of a training of four steps with two validations."""
    folder = tmp_path_factory.mktemp("progress")
    settings = ("callbacks.progress.seconds=0", "trainer.log_every_n_steps=1", "final_benchmark=null")
    trunk = ("backbone=efficientnet_lite0", "backbone.pretrained=false", "trunk_lr=0.1")
    # with a small learning rate, the network's random predictions stay, and the scores are above 0
    output = succeed("train.py", *TINY, *trunk, *settings, "optimizer.lr=1e-5", "name=run", folder=folder)
    return folder / "runs" / "run", output


def test_step_lines_agree_with_the_logged_metrics(run_and_output: tuple[Path, str]) -> None:
    run, output = run_and_output
    lines = re.findall(STEP + f"(?:, {REMAINING})?", output)
    metrics = [row for row in rows(run) if row["train/loss"]]
    assert [int(line[0]) for line in lines] == [1, 2, 3, 4]
    names = ("lr-Adam/pg1", "lr-Adam/pg2")  # the trunks' and the others'
    rates = [max(float(row[name]) for name in names) for row in rows(run) if row[names[0]]]
    for line, row, rate in zip(lines, metrics, rates, strict=True):
        assert float(line[1]) == pytest.approx(float(row["train/loss"]), abs=1e-4)
        assert float(line[2]) == pytest.approx(rate, rel=1e-2)
    for line, row in zip(lines[1:], metrics[1:], strict=True):
        assert float(line[3]) == pytest.approx(float(row["train/clips_per_second"]), abs=0.1)
        assert float(line[4]) == pytest.approx(float(row["train/peak_memory_mb"]), abs=1)
    assert [bool(line[5]) for line in lines] == [False, True, True, True], "the first step has no speed yet"
    assert lines[-1][5] == "0:00:00"


def test_validation_lines_agree_with_the_logged_scores(run_and_output: tuple[Path, str]) -> None:
    run, output = run_and_output
    videos = re.findall(rf"validation at step (\d): video 1/2, (\S+): J&F ([\d.]+), {REMAINING}", output)
    assert [video[:2] for video in videos] == [("2", "plain-val-0-0000"), ("4", "plain-val-0-0000")]
    totals = re.findall(r"validation at step (\d): J&F ([\d.]+), J ([\d.]+), F ([\d.]+) on 2 videos", output)
    validations = [row for row in rows(run) if row["val/J&F"]]
    assert [int(total[0]) for total in totals] == [2, 4] and all(float(total[1]) > 0 for total in totals)
    for total, row in zip(totals, validations, strict=True):
        for text, name in zip(total[1:], ("J&F", "J", "F"), strict=True):
            assert float(text) == pytest.approx(float(row[f"val/{name}"]), abs=1e-3)


def test_log_file_has_the_lines_and_no_line_is_noise(run_and_output: tuple[Path, str]) -> None:
    run, output = run_and_output
    file = (run / "train.log").read_text()
    assert len(re.findall(STEP, file)) == 4 and file.count("validation at step 4: J&F") == 1
    assert re.search(r"network: 0\.\d\d M parameters, 0\.\d\d M of them trainable", file)
    assert not re.search(r"eval mode|FLOPs|Sanity|━|\r", output), output


class Slow(L.LightningModule):
    """A module whose steps take a fifth of a second."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        time.sleep(0.2)
        self.log("train/loss", 0.5)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_interval_and_remaining_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="stm.training.callbacks")
    trainer = L.Trainer(
        max_steps=12,
        callbacks=[ProgressLog(seconds=0.5)],
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Slow(), DataLoader([clip(count=2)] * 12, batch_size=1, collate_fn=ClipBatch.collate))
    lines = [record.getMessage() for record in caplog.records if record.name == "stm.training.callbacks"]
    steps = [int(line.split("/")[0].removeprefix("step ")) for line in lines]
    assert steps[0] == 1 and steps[-1] == 12
    assert 3 <= len(steps) <= 6, "a step takes 0.2 s, an interval 0.5 s"
    for step, line in zip(steps[1:], lines[1:], strict=True):
        hours, minutes, seconds = map(int, re.search(REMAINING, line)[1].split(":"))  # type: ignore[index]
        left = timedelta(hours=hours, minutes=minutes, seconds=seconds).total_seconds()
        assert 0.2 * (12 - step) - 0.6 <= left <= 0.6 * (12 - step) + 0.6


def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(build_progress(), ProgressLog), "pytest captures the output"
    control, terminal = os.openpty()
    with os.fdopen(control), os.fdopen(terminal, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert isinstance(build_progress(), RichProgressBar)
