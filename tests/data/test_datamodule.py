"""The data module: resuming within a run, and dividing batches and videos among processes."""

import re
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from helpers.composing import composed
from helpers.data_trees import A, B, boxes, gray_video, smooth_image, write_frame, write_video
from lightning.pytorch.callbacks import ModelCheckpoint

from stm.data.datamodule import ClipDataModule
from stm.data.sampling import VideoClips
from stm.masks import write_mask
from stm.runs.training_run import build_data


def sources():
    clips = VideoClips([gray_video("v", [boxes({1: (5, 5, 30, 40)})] * 6)], 16)
    return {"videos": {"clips": clips, "weight": 1}}


class Recorder(L.LightningModule):
    """A module that records the clips it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, _):
        self.seen += batch.indices.tolist()
        return (self.weight * batch.frames.float().mean()).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-6)


def train(folder, resume=None, accumulate=1, workers=0):
    model = Recorder()
    every_step = ModelCheckpoint(
        folder, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=6,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        callbacks=[every_step],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=ClipDataModule(sources(), 2, 6, num_workers=workers), ckpt_path=resume)
    assert trainer.global_step == 6
    return model.seen


@pytest.mark.parametrize(("accumulate", "workers"), [(1, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize("step", [1, 4])
def test_a_resumed_trainer_sees_the_rest_of_the_run(tmp_path, step, accumulate, workers):
    uninterrupted = train(tmp_path / "whole", accumulate=accumulate, workers=workers)
    assert uninterrupted == list(range(12 * accumulate))
    resumed = train(tmp_path / "rest", tmp_path / "whole" / f"{step}.ckpt", accumulate, workers)
    assert resumed == uninterrupted[2 * step * accumulate :]


def loader(rank=0, world_size=1, step=0, accumulate=1, batch_size=4):
    module = ClipDataModule(sources(), batch_size, 3)
    module.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, global_step=step, accumulate_grad_batches=accumulate
    )
    return module.train_dataloader()


def test_each_global_batch_is_divided_among_the_processes():
    batches = [batch.indices.tolist() for batch in loader()]
    parts = [[batch.indices.tolist() for batch in loader(rank, 2)] for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == batches
    with pytest.raises(ValueError, match="batch_size=4: must be a multiple of the number of processes, 3"):
        loader(world_size=3)


def test_a_loader_starts_at_the_trainers_step():
    assert [batch.indices.tolist() for batch in loader(step=2)] == [[8, 9, 10, 11]]
    assert [b.indices.tolist() for b in loader(step=2, accumulate=2)] == [[16, 17, 18, 19], [20, 21, 22, 23]]


@pytest.mark.parametrize(("videos", "processes"), [(5, 2), (2, 3), (1, 4), (3, 1)])
def test_every_process_has_a_validation_video(videos, processes):
    """A process without one would skip validation while the others wait for its scores."""
    validation = [gray_video(f"v{i}", [boxes({1: (5, 5, 30, 40)})] * 3) for i in range(videos)]
    parts = []
    for rank in range(processes):
        module = ClipDataModule(sources(), processes, 3, validation=validation)
        module.trainer = SimpleNamespace(global_rank=rank, world_size=processes)
        parts.append([video.name for video in module.val_dataloader()])
    assert all(parts) and {name for part in parts for name in part} == {video.name for video in validation}
    assert sum(map(len, parts)) == max(videos, processes)


def test_the_data_module_works_without_a_trainer():
    assert len(list(ClipDataModule(sources(), 4, 3).train_dataloader())) == 3


@pytest.mark.parametrize("keys", [{}, {"wieght": 2}])
def test_a_source_has_clips_and_a_weight(keys):
    source = {"clips": sources()["videos"]["clips"], **keys}
    with pytest.raises(ValueError, match=r"sources\.a: must have the keys clips and weight; got clips"):
        ClipDataModule({"a": source}, 4, 3)


def test_own_videos_are_mixed_with_stills_where_there_is_a_folder_of_them(tmp_path: Path) -> None:
    """A source of weight 0 is not even opened: its folder does not exist."""
    write_video(tmp_path, "clip", [boxes({1: A})] * 3)
    write_frame(tmp_path / "stills" / "images" / "X.jpg", smooth_image(9))
    write_mask(tmp_path / "stills" / "masks" / "X.png", boxes({1: B}))
    without = (
        "data=folder",
        f"data.root={tmp_path}",
        "data.crop=32",
        "data.sources.synthetic.clips.videos.count=2",
    )
    settings = (*without, f"data.stills={tmp_path / 'stills'}", "data.sources.synthetic.weight=1")
    weights = {
        without: [1, 0.5, 0.1],
        (*without, "data.sources.stills.weight=0", "data.stills=nowhere"): [1, 0.5, 0.1],
        settings: [1, 0.5, 0.5, 1],
    }
    for overrides, expected in weights.items():
        with composed(*overrides) as config:
            dataset = build_data(config, []).dataset
        assert dataset.probabilities.tolist() == pytest.approx([one / sum(expected) for one in expected])
    drawn = {re.split("[/:]", dataset[k].source)[0] for k in range(12)}
    assert drawn == {"folder", "frames", "images", "synthetic"}
