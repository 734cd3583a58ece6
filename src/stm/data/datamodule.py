"""Training clips and validation videos for a Lightning trainer; the only file here that knows Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from stm.data.sampling import ClipBatches, ClipDataset, start_worker
from stm.video import Clip, ClipBatch, Video


class ClipDataModule(L.LightningDataModule):
    """Feeds a trainer with the clips of a run, from the step on at which the trainer is.

    The run is one epoch of `steps` optimizer steps. The trainer must have use_distributed_sampler=False: each
    process takes its own part of the global batch.

    Args:
        dataset: the training sequence.
        batch_size: clips of a batch over all processes.
        steps: optimizer steps of the whole run (the trainer's max_steps). With accumulate_grad_batches=n each
            takes n batches.
        num_workers: loading processes for each training process. The clips do not depend on it.
        validation: whole videos to validate on, one at a time; each process takes its share of them.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        steps: int,
        num_workers: int = 0,
        validation: Sequence[Video] = (),
    ) -> None:
        super().__init__()
        self.dataset, self.batch_size, self.steps, self.num_workers = dataset, batch_size, steps, num_workers
        self.validation = validation

    def train_dataloader(self) -> DataLoader[Clip]:
        """The batches from the trainer's step to the last.

        Raises:
            ValueError: the batch does not divide among the trainer's processes.
        """
        trainer = self.trainer
        rank, world_size, step, accumulated = 0, 1, 0, 1
        if trainer is not None:
            rank, world_size = trainer.global_rank, trainer.world_size
            step, accumulated = trainer.global_step, trainer.accumulate_grad_batches
        batches = _RestOfRun(
            self.batch_size, self.steps * accumulated, step * accumulated, rank=rank, world_size=world_size
        )
        return _ResumingLoader(
            self.dataset,
            batch_sampler=batches,
            collate_fn=ClipBatch.collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=start_worker if self.num_workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Video]:
        """The validation videos, as they are: their frames are read when they are segmented.

        Where there are fewer than processes, some are given twice: a process without any would skip the
        validation, at whose end the others wait for it.
        """
        rank, world_size = (
            (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        )
        count = len(self.validation)
        places = [place % count for place in range(rank, max(count, world_size), world_size)] if count else []
        return DataLoader(_Videos(self.validation), sampler=places, batch_size=None)


class _Videos(Dataset[Video]):
    def __init__(self, videos: Sequence[Video]) -> None:
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> Video:
        return self.videos[i]


class _RestOfRun(ClipBatches):
    """Yields the rest of a run, but has the length of all of it: a resumed trainer counts from its start."""

    def __len__(self) -> int:
        return self.steps


class _ResumingLoader(DataLoader[Clip]):
    """Tells the trainer that it may resume within an epoch. Nothing is stored: the step says it all."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: Mapping) -> None:
        pass
