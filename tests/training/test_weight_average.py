"""The average of the weights: what is stored, validated and loaded."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers import small_networks as small
from torch import Tensor
from torch.utils.data import DataLoader

import stm
from stm.training.callbacks import ExponentialMovingAverage
from stm.training.lightning_module import STMModule
from stm.training.loss import SegmentationLoss
from stm.video import ClipBatch


class Record(L.Callback):
    """Keeps the weights after each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.weights.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def test_checkpoints_hold_the_average_and_what_it_continues_from(tmp_path: Path) -> None:
    network, record = small.network(), Record()
    config = {"network": small.NETWORK}
    sgd = partial(torch.optim.SGD, lr=0.1)
    module = STMModule(network, SegmentationLoss(), sgd, config=config).train()
    batches = [ClipBatch.collate([small.clip(1, 3, seed=seed)]) for seed in range(3)]
    trainer = L.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        callbacks=[ExponentialMovingAverage(0.75), record],
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    first, second, third = record.weights
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for name, value in first.items():
        average = 0.75 * (0.75 * value + 0.25 * second[name]) + 0.25 * third[name]
        torch.testing.assert_close(stored["state_dict"][name], average)
        assert torch.equal(stored["current_model_state"][name], third[name])
    loaded = stm.load(tmp_path / "last.ckpt").state_dict()
    assert all(torch.equal(stored["state_dict"][f"network.{name}"], value) for name, value in loaded.items())


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 2.0])
def test_decay_is_between_0_and_1(decay: float) -> None:
    with pytest.raises(ValueError, match=r"average.decay=.*: must be between 0 and 1"):
        ExponentialMovingAverage(decay)
