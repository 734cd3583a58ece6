"""The sequence of training clips is independent of workers, processes and interruptions."""

import pickle

import pytest
import torch
from helpers.data_trees import OneStill, ten_frames
from torch.utils.data import DataLoader

from stm.data.sampling import ClipBatches, ClipDataset, StillClips, VideoClips, start_worker
from stm.data.stills import video_frames
from stm.video import ClipBatch


def same(a, b):
    return (
        torch.equal(a.frames, b.frames)
        and torch.equal(a.masks, b.masks)
        and (a.objects, a.index, a.source) == (b.objects, b.index, b.source)
    )


def mixed(seed=0, **more):
    sources = [
        VideoClips(
            [ten_frames(), ten_frames(name="w")], 32, shake=0.05, permute=0.3, rotate=10, name="videos"
        ),
        StillClips(OneStill(), 32, paste=0.5),
        StillClips(video_frames([ten_frames()]), 32),
    ]
    return ClipDataset(sources, [0.5, 0.3, 0.2], seed=seed, **more)


def test_a_clip_is_a_function_of_seed_and_index():
    dataset, other = mixed(), mixed()
    forwards = [dataset[k] for k in range(12)]
    backwards = [other[k] for k in reversed(range(12))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not any(same(a, mixed(seed=1)[k]) for k, a in enumerate(forwards))
    again = pickle.loads(pickle.dumps(dataset))
    assert same(again[5], forwards[5])


def batches(**loader):
    sampler = ClipBatches(4, 5)
    return list(DataLoader(mixed(), batch_sampler=sampler, collate_fn=ClipBatch.collate, **loader))


def equal_batches(first, second):
    return len(first) == len(second) and all(
        torch.equal(a.frames, b.frames) and torch.equal(a.masks, b.masks) and a.sources == b.sources
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_clips(workers):
    assert equal_batches(batches(), batches(num_workers=workers, worker_init_fn=start_worker))


def test_a_spawned_worker_gives_the_same_clips():
    spawned = batches(num_workers=1, multiprocessing_context="spawn", worker_init_fn=start_worker)
    assert equal_batches(batches(), spawned)


def test_ranks_share_the_global_batches_in_order():
    batches = list(ClipBatches(4, 5))
    assert batches == [list(range(4 * s, 4 * s + 4)) for s in range(5)]
    parts = [list(ClipBatches(4, 5, rank=rank, world_size=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == batches


def test_a_resumed_run_is_the_end_of_an_uninterrupted_one():
    for world_size in (1, 2):
        for rank in range(world_size):
            batches = list(ClipBatches(4, 9, 0, rank, world_size))
            assert list(ClipBatches(4, 9, 6, rank, world_size)) == batches[6:]
    assert len(ClipBatches(4, 9, 6)) == 3 and list(ClipBatches(4, 9, 9)) == []


def test_a_global_batch_must_be_divisible_by_the_processes():
    with pytest.raises(
        ValueError, match=r"batch_size=6: must be a multiple of the number of processes, 4, such as 8"
    ):
        ClipBatches(6, 1, world_size=4)
    with pytest.raises(ValueError, match="rank=2"):
        ClipBatches(4, 1, rank=2, world_size=2)


def test_sources_are_drawn_by_weight():
    names = [mixed()[k].source.split("/")[0].split(":")[0] for k in range(400)]
    assert {name: round(names.count(name) / 400, 1) for name in set(names)} == {
        "videos": 0.5,
        "one": 0.3,
        "frames": 0.2,
    }


@pytest.mark.parametrize("weights", [[], [1.0], [1.0, -1.0], [0.0, 0.0]])
def test_weights_must_match_their_sources(weights):
    source = StillClips(OneStill(), 32)
    with pytest.raises(ValueError, match="weights="):
        ClipDataset([source, source], weights)


def test_a_few_unique_clips_are_repeated():
    clips = mixed(num_unique_clips=3)
    assert same(clips[1], clips[4]) and not same(clips[1], clips[2])
    assert clips[4].index == 1
    with pytest.raises(IndexError):
        mixed(length=5)[5]
