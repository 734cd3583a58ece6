"""Loggers: invalid settings, the id of a run, the CSV file, throughput, finishing."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from helpers.commands import TINY, succeed
from helpers.logged_values import rows
from helpers.small_networks import clip, network
from torch.utils.data import DataLoader

from stm.training import loggers as run_loggers
from stm.training.callbacks import LogClipImages, render_clips
from stm.training.csv_logger import CSVLogger
from stm.training.throughput import Throughput
from stm.video import ClipBatch


def test_unknown_mode_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode='ofline': must be offline, online or disabled"):
        run_loggers.wandb_logger(str(tmp_path), mode="ofline")


def test_unknown_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logger.wandb.checkpoints=\['first'\]: must be best or last"):
        run_loggers.wandb_logger(str(tmp_path), checkpoints=["first", "best"])


def test_processes_with_equal_numbers_on_several_nodes_agree_on_the_id(tmp_path: Path) -> None:
    """Threads take the place of the processes, as they share one process number too."""
    with ThreadPoolExecutor(8) as nodes:
        for number in range(40):
            folder = tmp_path / str(number)
            folder.mkdir()
            ids = set(nodes.map(run_loggers.run_id, [folder] * 8))
            assert ids == {run_loggers.run_id(folder)}
            assert [path.name for path in folder.iterdir()] == ["wandb_id.txt"]


def test_run_folder_keeps_its_id(tmp_path: Path) -> None:
    assert run_loggers.run_id(tmp_path) == run_loggers.run_id(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    assert run_loggers.run_id(other) != run_loggers.run_id(tmp_path)


def test_csv_continues_where_the_run_does(tmp_path: Path) -> None:
    log = CSVLogger(tmp_path)
    for step in range(4):
        log.log_metrics({"loss": 4.0 - step}, step)
    log.log_metrics({"val": 0.5}, 3)
    with log.file.open("a") as file:
        file.write("4,0.")  # killed while writing
    resumed = CSVLogger(tmp_path)
    resumed.log_metrics({"loss": 9.0}, 2)
    resumed.log_metrics({"val": 0.7, "new": 1.0}, 2)
    assert rows(log.file) == [
        {"step": "0", "loss": "4.0"},
        {"step": "1", "loss": "3.0"},
        {"step": "2", "loss": "9.0"},
        {"step": "2", "val": "0.7", "new": "1.0"},
    ]


class Slow(L.LightningModule):
    """A module whose steps take 0.2 seconds and whose validations take a second."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        time.sleep(0.2)
        return self.weight.sum()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        time.sleep(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("accumulated", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_throughput_excludes_validations(tmp_path: Path, accumulated: int) -> None:
    log = CSVLogger(tmp_path)
    trainer = L.Trainer(
        max_steps=8 // accumulated,
        val_check_interval=2,
        log_every_n_steps=4 // accumulated,
        accumulate_grad_batches=accumulated,
        callbacks=[Throughput()],
        logger=[log],
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    batches = DataLoader([clip(count=3)] * 16, batch_size=2, collate_fn=ClipBatch.collate)
    trainer.fit(Slow(), batches, DataLoader([0]))
    logged = [row for row in rows(log.file) if "train/clips_per_second" in row]
    assert [int(row["step"]) for row in logged] == [4 // accumulated - 1, 8 // accumulated - 1]
    for row in logged:
        clips, frames = float(row["train/clips_per_second"]), float(row["train/frames_per_second"])
        assert 5 < clips <= 10, "two clips in 0.2 seconds; below 4 with validations"
        assert frames == pytest.approx(3 * clips, rel=1e-4)
        resident = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        assert 0.5 * resident < float(row["train/peak_memory_mb"]) < 2 * resident


def test_every_logger_is_finished(tmp_path: Path) -> None:
    calls: list[Any] = []
    logger = SimpleNamespace(
        finalize=calls.append, _experiment=SimpleNamespace(finish=lambda exit_code: calls.append(exit_code))
    )
    run_loggers.close([logger, CSVLogger(tmp_path)], failed=True)  # type: ignore[list-item]
    assert calls == ["failed", 1]


@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_images_of_clips_leave_the_training_mode(norm: str) -> None:
    trained = network(norm=norm).train()
    modes = [module.training for module in trained.modules()]
    images = render_clips(trained, ClipBatch.collate([clip(), clip()]), 2)
    assert [image.shape for image in images] == [(64, 144, 3)] * 2
    assert [module.training for module in trained.modules()] == modes


@pytest.mark.slow
def test_metrics_of_steps_can_be_switched_off(tmp_path: Path) -> None:
    succeed("train.py", *TINY, "name=run", "trainer.log_every_n_steps=0", folder=tmp_path)
    assert "train/clips_per_second" not in (tmp_path / "runs" / "run" / "logs" / "metrics.csv").read_text()


@pytest.mark.parametrize("values", [{"every": 0}, {"clips": 0}])
def test_images_of_no_step_or_no_clip_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"callbacks\.images\.(every|clips)=0: must be at least 1"):
        LogClipImages(**values)
