"""Which clips a run consists of: frames, objects, skips, sources, workers, processes."""

import logging
import pickle

import numpy as np
import pytest
import torch
from data_trees import boxes, grey_video, picture, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from stm.clip import VOID, ClipBatch
from stm.data.sampling import ClipBatches, ClipDataset, SkipCurriculum, StillClips, VideoClips, start_worker
from stm.data.stills import pairs, video_frames
from stm.data.videoclips import draw_places
from stm.data.videos import davis, folder, youtube_vos

A, B, C = (5, 5, 20, 25), (22, 30, 38, 55), (2, 40, 18, 58)
PLAIN = {"colour": 0.0, "colour_each": 0.0, "flip": 0.0}


def ten_frames(labels=(3, 11, 200), name="v"):
    return grey_video(name, [boxes(dict(zip(labels, (A, B, C), strict=False)))] * 10)


def same(one, other):
    return (
        torch.equal(one.frames, other.frames)
        and torch.equal(one.masks, other.masks)
        and (one.objects, one.index, one.source) == (other.objects, other.index, other.source)
    )


# --- skips ---


def test_the_papers_curriculum():
    grows = SkipCurriculum()
    per_epoch = 3771
    epochs = {0: 0, 19: 0, 20: 5, 39: 5, 40: 10, 99: 20, 100: 25, 259: 25}
    assert {epoch: grows.max_skip(epoch * per_epoch) for epoch in epochs} == epochs
    assert SkipCurriculum(largest=14, grow_by=1, every_clips=100, first=3).max_skip(250) == 5
    with pytest.raises(ValueError, match="every_clips=0"):
        SkipCurriculum(every_clips=0)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 5), st.integers(0, 60), st.integers(0, 30), st.integers(0, 2**32))
def test_places_are_ordered_within_the_video_and_not_too_far_apart(frames, more, max_skip, seed):
    length = frames + more
    places = draw_places(np.random.default_rng(seed), length, frames, max_skip)
    steps = np.diff(places)
    assert len(places) == frames and places[0] >= 0 and places[-1] < length
    assert (steps >= 1).all() and (steps <= 1 + max_skip).all()


def test_skips_are_uniform_where_the_video_is_long_enough():
    rng = np.random.default_rng(0)
    steps = np.diff([draw_places(rng, 100, 3, 4) for _ in range(4000)], axis=1).ravel()
    counts = np.bincount(steps, minlength=6)
    assert counts[0] == 0 and len(counts) == 6
    assert np.abs(counts[1:] / len(steps) - 0.2).max() < 0.02
    starts = np.array([draw_places(rng, 7, 3, 0)[0] for _ in range(2000)])
    assert np.abs(np.bincount(starts) / 2000 - 0.2).max() < 0.04


# --- clips of videos ---


def times(clip):
    """Which frames of a grey video are in the clip: the value in the middle tells."""
    return [int(frame[0].median()) // 10 for frame in clip.frames]


def test_a_clip_has_the_frames_that_its_source_tells_in_order():
    clips = ClipDataset([VideoClips([ten_frames()], 32, curriculum=SkipCurriculum(first=25), **PLAIN)])
    seen = set()
    for k in range(60):
        clip = clips[k]
        places = times(clip)
        assert clip.frames.shape == (3, 3, 32, 32) and clip.frames.dtype == torch.uint8
        assert clip.masks.shape == (3, 32, 32) and clip.masks.dtype == torch.uint8
        assert places == sorted(set(places)) and clip.index == k
        assert clip.source == "videos/v:" + ",".join(f"{t:05d}" for t in places)
        seen.update(np.diff(places))
    assert seen == {1, 2, 3, 4}  # (10 - 3) // 2 skipped at most


def test_the_largest_skip_grows_with_k_and_is_divided():
    curriculum = SkipCurriculum(every_clips=10)
    for divisor, largest in ((1, 6), (5, 2)):
        source = VideoClips(
            [grey_video("v", [boxes({1: A})] * 25)], 32, curriculum=curriculum, skip_divisor=divisor, **PLAIN
        )
        clips = ClipDataset([source])
        assert all(set(np.diff(times(clips[k]))) == {1} for k in range(10))
        assert max(np.diff(times(clips[k])).max() for k in range(10, 20)) <= largest
    assert max(np.diff(times(ClipDataset([source], seed=s)[15])).max() for s in range(20)) == 2


def test_time_may_run_backwards():
    places = [
        times(ClipDataset([VideoClips([ten_frames()], 32, reverse=0.5, **PLAIN)])[k]) for k in range(40)
    ]
    backwards = sum(p == sorted(p, reverse=True) for p in places)
    assert 8 < backwards < 32 and all(p in (sorted(p), sorted(p, reverse=True)) for p in places)


def test_objects_are_those_of_the_first_frame_relabelled_from_1():
    video = grey_video(
        "v", [boxes({11: A, 200: B}), boxes({11: A, 200: B, 5: C}), boxes({5: C, VOID: (0, 0, 4, 60)})]
    )
    clips = ClipDataset([VideoClips([video], (40, 60), scale=(1, 1), **PLAIN)])
    for k in range(5):
        clip = clips[k]
        assert clip.objects == 2
        assert np.array_equal(clip.masks[0], boxes({1: A, 2: B}))
        assert np.array_equal(clip.masks[1], boxes({1: A, 2: B}))  # 5 is background: it comes later
        assert np.array_equal(clip.masks[2], boxes({VOID: (0, 0, 4, 60)}))


def test_no_more_objects_than_told_and_each_is_drawn():
    source = VideoClips([ten_frames()], (40, 60), max_objects=2, scale=(1, 1), **PLAIN)
    kept = set()
    for k in range(40):
        clip = ClipDataset([source])[k]
        assert clip.objects == 2 and set(np.unique(clip.masks)) == {0, 1, 2}
        kept.add(tuple(bool(clip.masks[0, box[0] + 3, box[1] + 3]) for box in (A, B, C)))
    assert kept == {(True, True, False), (True, False, True), (False, True, True)}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.floats(1.0, 3.0), st.floats(0.0, 45.0))
def test_every_object_of_a_clip_is_seen_in_its_first_frame(seed, max_objects, largest, rotate):
    source = VideoClips(
        [ten_frames()], 32, max_objects=max_objects, scale=(1.0, largest), rotate=rotate, shake=0.1
    )
    clip = ClipDataset([source], seed=seed)[0]
    assert 1 <= clip.objects <= max_objects
    assert set(np.unique(clip.masks[0])) - {0} == set(range(1, clip.objects + 1))


def test_short_videos_are_left_out_with_a_warning(caplog):
    short = grey_video("short", [boxes({1: A})] * 2)
    with caplog.at_level(logging.WARNING):
        source = VideoClips([short, ten_frames()], 32)
    assert [video.name for video in source.videos] == ["v"]
    assert "1 of 2 videos have fewer than 3 annotated frames" in caplog.text and "short" in caplog.text
    with pytest.raises(ValueError, match="none of 1 videos has 3 annotated frames"):
        VideoClips([short], 32)


def test_a_set_without_objects_is_told_after_a_bounded_search():
    blank = grey_video("blank", [boxes({VOID: A})] * 5)
    with pytest.raises(ValueError, match=r"no object in 20 first frames.*blank:0000"):
        ClipDataset([VideoClips([blank], 32)])[0]


def test_first_frames_without_objects_are_drawn_again():
    half = grey_video("half", [boxes({})] * 5 + [boxes({1: A})] * 5)
    clips = ClipDataset([VideoClips([half], 32, **PLAIN)])
    assert all(times(clips[k])[0] >= 5 for k in range(20))


def test_files_are_cut_as_arrays_are(tmp_path):
    """Decoded at a reduced size or not, a clip shows the same."""
    masks = [boxes({1: (20, 20, 100, 130)}, (160, 240))] * 3
    write_video(tmp_path, "v", masks, size=(160, 240))
    video = folder(tmp_path)[0]
    in_memory = grey_video("v", masks)
    in_memory._frames = np.stack([video.frame(t) for t in range(3)])
    for crop in (32, 64, 150):
        clips = [ClipDataset([VideoClips([v], crop)])[0] for v in (video, in_memory)]
        assert torch.equal(clips[0].masks, clips[1].masks)
        assert (clips[0].frames.float() - clips[1].frames.float()).abs().mean() < 2


@pytest.mark.parametrize("wrong", [{"frames": 1}, {"max_objects": 0}, {"skip_divisor": 0}, {"crop": 4}])
def test_impossible_clips_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VideoClips([ten_frames()], **({"crop": 32} | wrong))


# --- clips of stills ---


class OneStill:
    name = "one"

    def __init__(self, mask=None, count=5):
        self.mask, self.count = boxes({4: A, 100: B}) if mask is None else mask, count

    def __len__(self):
        return self.count

    def read(self, i):
        return picture(i), self.mask


def test_a_stills_clip_differs_from_frame_to_frame_and_keeps_its_objects():
    clip = ClipDataset([StillClips(OneStill(), 48)])[3]
    assert clip.frames.shape == (3, 3, 48, 48) and clip.source.startswith("one:")
    assert not torch.equal(clip.masks[0], clip.masks[1]) and not torch.equal(clip.masks[1], clip.masks[2])
    assert set(np.unique(clip.masks[0])) - {0} == set(range(1, clip.objects + 1))


def test_the_ramp_begins_near_identity():
    def motion(k):
        clip = ClipDataset([StillClips(OneStill(), 48, ramp_clips=1000)])[k]
        return (clip.masks[0] != clip.masks[2]).float().mean()

    early, late = (np.mean([motion(k) for k in range(begin, begin + 15)]) for begin in (0, 1500))
    assert early < 0.01 and late > 5 * early


def test_pasted_objects_are_objects_or_occluders():
    source = StillClips(OneStill(boxes({4: (5, 5, 35, 55)})), 48, paste=1.0)
    clips = [ClipDataset([source])[k] for k in range(40)]
    assert {clip.objects for clip in clips} == {1, 2}
    assert all("+" in clip.source for clip in clips)
    assert not any("+" in ClipDataset([StillClips(OneStill(), 48)])[k].source for k in range(10))


def test_stills_without_objects_are_told():
    with pytest.raises(ValueError, match=r"one: no object in 20 first frames"):
        ClipDataset([StillClips(OneStill(boxes({})), 48)])[0]
    with pytest.raises(ValueError, match="holds no still"):
        StillClips(OneStill(count=0), 48)


# --- the training sequence ---


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
    one, other = mixed(), mixed()
    forwards = [one[k] for k in range(12)]
    backwards = [other[k] for k in reversed(range(12))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not any(same(a, mixed(seed=1)[k]) for k, a in enumerate(forwards))
    again = pickle.loads(pickle.dumps(one))
    assert same(again[5], forwards[5])


def batches(**loader):
    sampler = ClipBatches(4, 5)
    return list(DataLoader(mixed(), batch_sampler=sampler, collate_fn=ClipBatch.collate, **loader))


def equal_batches(one, other):
    return len(one) == len(other) and all(
        torch.equal(a.frames, b.frames) and torch.equal(a.masks, b.masks) and a.sources == b.sources
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_clips(workers):
    assert equal_batches(batches(), batches(num_workers=workers, worker_init_fn=start_worker))


def test_a_worker_started_afresh_gives_the_same_clips():
    spawned = batches(num_workers=1, multiprocessing_context="spawn", worker_init_fn=start_worker)
    assert equal_batches(batches(), spawned)


def test_ranks_share_the_global_batches_in_order():
    whole = list(ClipBatches(4, 5))
    assert whole == [list(range(4 * s, 4 * s + 4)) for s in range(5)]
    parts = [list(ClipBatches(4, 5, rank=rank, world_size=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_a_resumed_run_is_the_tail_of_an_uninterrupted_one():
    for world_size in (1, 2):
        for rank in range(world_size):
            whole = list(ClipBatches(4, 9, 0, rank, world_size))
            assert list(ClipBatches(4, 9, 6, rank, world_size)) == whole[6:]
    assert len(ClipBatches(4, 9, 6)) == 3 and list(ClipBatches(4, 9, 9)) == []


def test_a_global_batch_must_divide_among_the_processes():
    with pytest.raises(ValueError, match=r"batch_size=6.*multiple of their number, 4, for example 8"):
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
def test_weights_must_fit_their_sources(weights):
    source = StillClips(OneStill(), 32)
    with pytest.raises(ValueError, match="weights="):
        ClipDataset([source, source], weights)


def test_a_few_distinct_clips_come_round_again():
    clips = mixed(distinct=3)
    assert same(clips[1], clips[4]) and not same(clips[1], clips[2])
    assert clips[4].index == 1
    with pytest.raises(IndexError):
        mixed(length=5)[5]


def test_real_clips(shared_data):
    every = SkipCurriculum(first=10)
    sources = [
        VideoClips(davis(shared_data / "DAVIS", split="train"), 128, curriculum=every, name="davis"),
        VideoClips(
            youtube_vos(shared_data / "YouTubeVOS"), 128, curriculum=every, skip_divisor=5, name="youtube"
        ),
        StillClips(
            pairs(shared_data / "stills" / "images", shared_data / "stills" / "masks"), 128, paste=0.3
        ),
    ]
    clips = ClipDataset(sources)
    for k in range(24):
        clip = clips[k]
        assert clip.frames.shape == (3, 3, 128, 128)
        shown = np.bincount(clip.masks[0].ravel(), minlength=4)[1 : clip.objects + 1]
        assert (shown >= 1).all() and shown.max() >= 0.002 * 128 * 128
    assert {clips[k].source.split("/")[0].split(":")[0] for k in range(24)} == {"davis", "youtube", "images"}
