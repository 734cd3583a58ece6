"""Training clips and validation videos for a Lightning trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from stm.data.sampling import ClipBatches, ClipDataset, start_worker
from stm.video import Clip, ClipBatch, Video


class ClipDataModule(L.LightningDataModule):
    """Training clips of a run, from the trainer's current step on, and whole videos for validation.

    A run is one epoch of `steps` optimizer steps. The trainer must have `use_distributed_sampler=False`,
    since each process takes its own part of the global batch.

    Args:
        sources: name -> a mapping with the keys `clips` (a `stm.data.sampling.ClipSource`) and `weight`
            (how often the source is drawn relative to the others).
        batch_size: clips of a batch over all processes.
        steps: optimizer steps of the whole run (the trainer's `max_steps`). With `accumulate_grad_batches=n`
            each step takes n batches.
        seed: seed of the training sequence.
        num_workers: loading processes for each training process. The clips do not depend on it.
        num_unique_clips: see `stm.data.sampling.ClipDataset`.
        validation: whole videos to validate on, one at a time; they are divided among the processes.

    Raises:
        ValueError: a source has other keys than `clips` and `weight`, or the weights are invalid.
    """

    def __init__(
        self,
        sources: Mapping[str, Mapping[str, Any]],
        batch_size: int,
        steps: int,
        seed: int = 0,
        num_workers: int = 0,
        num_unique_clips: int | None = None,
        validation: Sequence[Video] = (),
    ) -> None:
        super().__init__()
        for name, source in sources.items():
            if source.keys() != {"clips", "weight"}:
                raise ValueError(
                    f"sources.{name}: must have the keys clips and weight; got {', '.join(source)}"
                )
        self.dataset = ClipDataset(
            [source["clips"] for source in sources.values()],
            [source["weight"] for source in sources.values()],
            seed=seed,
            num_unique_clips=num_unique_clips,
        )
        self.batch_size, self.steps, self.num_workers = batch_size, steps, num_workers
        self.validation = validation

    def train_dataloader(self) -> DataLoader[Clip]:
        """Return the batches from the trainer's step to the last one.

        Raises:
            ValueError: the batch cannot be divided evenly among the trainer's processes.
        """
        trainer = self.trainer
        rank, world_size, step, accumulated = 0, 1, 0, 1
        if trainer is not None:
            rank, world_size = trainer.global_rank, trainer.world_size
            step, accumulated = trainer.global_step, trainer.accumulate_grad_batches
        batches = _RemainingBatches(
            self.batch_size, self.steps * accumulated, step * accumulated, rank=rank, world_size=world_size
        )
        return _ResumableLoader(
            self.dataset,
            batch_sampler=batches,
            collate_fn=ClipBatch.collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=start_worker if self.num_workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Video]:
        """Return the validation videos themselves; their frames are read during segmentation.

        Where there are fewer videos than processes, some videos are repeated. A process without a video would
        skip validation, and the other processes would wait for it forever.
        """
        rank, world_size = (
            (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        )
        count = len(self.validation)
        indices = [i % count for i in range(rank, max(count, world_size), world_size)] if count else []
        return DataLoader(_Videos(self.validation), sampler=indices, batch_size=None)


class _Videos(Dataset[Video]):
    def __init__(self, videos: Sequence[Video]) -> None:
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> Video:
        return self.videos[i]


class _RemainingBatches(ClipBatches):
    """The remaining batches of a run, with the length of the whole run: a resumed trainer counts from 0."""

    def __len__(self) -> int:
        return self.steps


class _ResumableLoader(DataLoader[Clip]):
    """A loader with an empty state, so that Lightning resumes within an epoch; the step is state enough."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: Mapping) -> None:
        pass
