"""Sampling of clips: skips, frames, objects, stills."""

import logging

import numpy as np
import pytest
import torch
from helpers.data_trees import (
    A,
    B,
    C,
    OneStill,
    boxes,
    gray_video,
    smooth_image,
    ten_frames,
    write_frame,
    write_video,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.data.sampling import ClipDataset, SkipCurriculum, StillClips, VideoClips
from stm.data.stills import pairs
from stm.data.video_clips import sample_frame_indices
from stm.data.videos import FileVideo, davis, folder, youtube_vos
from stm.masks import write_mask
from stm.video import VOID

PLAIN = {"color": 0.0, "color_each": 0.0, "flip": 0.0}


# --- skips ---


def test_the_default_curriculum_is_the_papers():
    curriculum = SkipCurriculum()
    per_epoch = 3771
    epochs = {0: 0, 19: 0, 20: 5, 39: 5, 40: 10, 99: 20, 100: 25, 259: 25}
    assert {epoch: curriculum.max_skip(epoch * per_epoch) for epoch in epochs} == epochs
    assert SkipCurriculum(largest=14, grow_by=1, every_clips=100, first=3).max_skip(250) == 5
    with pytest.raises(ValueError, match="every_clips=0: must be at least"):
        SkipCurriculum(every_clips=0)


def test_a_curriculum_in_stages_may_fall_again():
    curriculum = SkipCurriculum(stages=[[0, 5], [100, 10], [900, 5]])
    assert [curriculum.max_skip(k) for k in (0, 99, 100, 899, 900, 10**6)] == [5, 5, 10, 10, 5, 5]
    for stages in ([], [[1, 5]], [[0, 5], [0, 6]], [[0, -1]]):
        with pytest.raises(ValueError, match="stages=.*must ascend from clip 0"):
            SkipCurriculum(stages=stages)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 5), st.integers(0, 60), st.integers(0, 30), st.integers(0, 2**32))
def test_frame_indices_ascend_within_the_video_and_the_limit(frames, extra, max_skip, seed):
    length = frames + extra
    indices = sample_frame_indices(np.random.default_rng(seed), length, frames, max_skip)
    steps = np.diff(indices)
    assert len(indices) == frames and indices[0] >= 0 and indices[-1] < length
    assert (steps >= 1).all() and (steps <= 1 + max_skip).all()


def test_skips_are_uniform_in_a_long_video():
    rng = np.random.default_rng(0)
    steps = np.diff([sample_frame_indices(rng, 100, 3, 4) for _ in range(4000)], axis=1).ravel()
    counts = np.bincount(steps, minlength=6)
    assert counts[0] == 0 and len(counts) == 6
    assert np.abs(counts[1:] / len(steps) - 0.2).max() < 0.02
    starts = np.array([sample_frame_indices(rng, 7, 3, 0)[0] for _ in range(2000)])
    assert np.abs(np.bincount(starts) / 2000 - 0.2).max() < 0.04


# --- clips of videos ---


def times(clip):
    """Return the indices of a gray video's frames in a clip, which their median value encodes."""
    return [int(frame[0].median()) // 10 for frame in clip.frames]


def test_a_clip_has_the_frames_of_its_source_in_order():
    clips = ClipDataset([VideoClips([ten_frames()], 32, curriculum=SkipCurriculum(first=25), **PLAIN)])
    skips = set()
    for k in range(60):
        clip = clips[k]
        indices = times(clip)
        assert clip.frames.shape == (3, 3, 32, 32) and clip.frames.dtype == torch.uint8
        assert clip.masks.shape == (3, 32, 32) and clip.masks.dtype == torch.uint8
        assert indices == sorted(set(indices)) and clip.index == k
        assert clip.source == "videos/v:" + ",".join(f"{t:05d}" for t in indices)
        skips.update(np.diff(indices))
    assert skips == {1, 2, 3, 4}  # at most (10 - 3) // 2 frames are skipped


def test_the_largest_skip_grows_with_k_and_has_a_divisor():
    curriculum = SkipCurriculum(every_clips=10)
    for divisor, largest in ((1, 6), (5, 2)):
        source = VideoClips(
            [gray_video("v", [boxes({1: A})] * 25)], 32, curriculum=curriculum, skip_divisor=divisor, **PLAIN
        )
        clips = ClipDataset([source])
        assert all(set(np.diff(times(clips[k]))) == {1} for k in range(10))
        assert max(np.diff(times(clips[k])).max() for k in range(10, 20)) <= largest
    assert max(np.diff(times(ClipDataset([source], seed=s)[15])).max() for s in range(20)) == 2


def test_clips_are_reversed_at_random():
    indices = [
        times(ClipDataset([VideoClips([ten_frames()], 32, reverse=0.5, **PLAIN)])[k]) for k in range(40)
    ]
    reversed_clips = sum(i == sorted(i, reverse=True) for i in indices)
    assert 8 < reversed_clips < 32 and all(i in (sorted(i), sorted(i, reverse=True)) for i in indices)


def test_objects_of_the_first_frame_are_relabeled_from_1():
    video = gray_video(
        "v", [boxes({11: A, 200: B}), boxes({11: A, 200: B, 5: C}), boxes({5: C, VOID: (0, 0, 4, 60)})]
    )
    clips = ClipDataset([VideoClips([video], (40, 60), scale=(1, 1), **PLAIN)])
    for k in range(5):
        clip = clips[k]
        assert clip.objects == 2
        assert np.array_equal(clip.masks[0], boxes({1: A, 2: B}))
        assert np.array_equal(clip.masks[1], boxes({1: A, 2: B}))  # 5 enters later, so it is background
        assert np.array_equal(clip.masks[2], boxes({VOID: (0, 0, 4, 60)}))


def test_objects_are_drawn_up_to_the_limit():
    source = VideoClips([ten_frames()], (40, 60), max_objects=2, scale=(1, 1), **PLAIN)
    kept = set()
    for k in range(40):
        clip = ClipDataset([source])[k]
        assert clip.objects == 2 and set(np.unique(clip.masks)) == {0, 1, 2}
        kept.add(tuple(bool(clip.masks[0, box[0] + 3, box[1] + 3]) for box in (A, B, C)))
    assert kept == {(True, True, False), (True, False, True), (False, True, True)}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 3), st.floats(1.0, 3.0), st.floats(0.0, 45.0, allow_subnormal=False)
)
def test_every_object_of_a_clip_is_visible_in_its_first_frame(seed, max_objects, largest, rotate):
    source = VideoClips(
        [ten_frames()], 32, max_objects=max_objects, scale=(1.0, largest), rotate=rotate, shake=0.1
    )
    clip = ClipDataset([source], seed=seed)[0]
    assert 1 <= clip.objects <= max_objects
    assert set(np.unique(clip.masks[0])) - {0} == set(range(1, clip.objects + 1))


def test_short_videos_are_dropped_with_a_warning(caplog):
    short = gray_video("short", [boxes({1: A})] * 2)
    with caplog.at_level(logging.WARNING):
        source = VideoClips([short, ten_frames()], 32)
    assert [video.name for video in source.videos] == ["v"]
    assert "dropping 1 of 2 videos, which have fewer than 3 annotated frames: short" in caplog.text
    with pytest.raises(ValueError, match="num_frames=3: must be at most 2"):
        VideoClips([short], 32)


def test_videos_whose_masks_show_no_object_are_dropped_with_a_warning(tmp_path, caplog):
    empty, shown = boxes({}), boxes({1: A})
    void = np.where(shown > 0, VOID, 0).astype(np.uint8)
    videos = {
        "all_void": [void] * 4,
        "empty": [empty] * 4,
        "late": [empty, empty, shown, empty],
        "too_late": [empty, empty, empty, shown],  # no clip of two frames begins with the last frame
        "usable": [shown] * 4,
    }
    for name, masks in videos.items():
        write_video(tmp_path, name, masks)
    listed = [
        FileVideo(name, tmp_path / "JPEGImages" / name, tmp_path / "Annotations" / name) for name in videos
    ]
    with caplog.at_level(logging.WARNING):
        source = VideoClips(listed, 32, num_frames=2)
    assert [video.name for video in source.videos] == ["late", "usable"]
    assert "dropping 3 of 5 videos, whose masks show no object (0 is background, 255 is void)" in caplog.text
    assert caplog.text.strip().endswith("all_void, empty, too_late")
    reversible = VideoClips(listed, 32, num_frames=2, reverse=0.5)
    assert [video.name for video in reversible.videos] == ["late", "too_late", "usable"]
    with pytest.raises(ValueError, match="videos: must have a video whose masks show an object"):
        VideoClips(listed[:2], 32, num_frames=2)


def test_stills_without_objects_are_named_once(tmp_path, caplog):
    for number in range(8):
        write_frame(tmp_path / f"{number}.jpg", smooth_image(number))
        write_mask(tmp_path / f"{number}.png", boxes({1: A} if number in (0, 3) else {}))
    source = StillClips(pairs(tmp_path), 32)
    with caplog.at_level(logging.WARNING):
        clips = [ClipDataset([source])[k] for k in range(30)]
    assert {clip.source for clip in clips} == {f"{source.stills.name}:{number}" for number in (0, 3)}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) == 5, "it stops after five"
    assert all("never drawn, as its mask shows no object" in line for line in lines)
    assert lines[-1].endswith("further ones are not listed")


def test_videos_without_objects_are_refused_after_a_bounded_search():
    blank = gray_video("blank", [boxes({VOID: A})] * 5)
    with pytest.raises(ValueError, match=r"no object in 20 first frames.*blank:0000"):
        ClipDataset([VideoClips([blank], 32)])[0]


def test_first_frames_without_objects_are_drawn_again():
    half = gray_video("half", [boxes({})] * 5 + [boxes({1: A})] * 5)
    clips = ClipDataset([VideoClips([half], 32, **PLAIN)])
    assert all(times(clips[k])[0] >= 5 for k in range(20))


def test_clips_of_files_equal_clips_of_arrays(tmp_path):
    """A clip is the same whether or not its frames are decoded at a reduced size."""
    masks = [boxes({1: (20, 20, 100, 130)}, (160, 240))] * 3
    write_video(tmp_path, "v", masks, size=(160, 240))
    video = folder(tmp_path)[0]
    in_memory = gray_video("v", masks)
    in_memory._frames = np.stack([video.frame(t) for t in range(3)])
    for crop in (32, 64, 150):
        clips = [ClipDataset([VideoClips([v], crop)])[0] for v in (video, in_memory)]
        assert torch.equal(clips[0].masks, clips[1].masks)
        assert (clips[0].frames.float() - clips[1].frames.float()).abs().mean() < 2


@pytest.mark.parametrize("wrong", [{"num_frames": 1}, {"max_objects": 0}, {"skip_divisor": 0}, {"crop": 4}])
def test_invalid_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VideoClips([ten_frames()], **({"crop": 32} | wrong))


# --- clips of stills ---


def test_a_clip_of_a_still_moves_and_keeps_its_objects():
    clip = ClipDataset([StillClips(OneStill(), 48)])[3]
    assert clip.frames.shape == (3, 3, 48, 48) and clip.source.startswith("one:")
    assert not torch.equal(clip.masks[0], clip.masks[1]) and not torch.equal(clip.masks[1], clip.masks[2])
    assert set(np.unique(clip.masks[0])) - {0} == set(range(1, clip.objects + 1))


def test_the_ramp_starts_without_motion():
    def motion(k):
        clip = ClipDataset([StillClips(OneStill(), 48, ramp_clips=1000)])[k]
        return (clip.masks[0] != clip.masks[2]).float().mean()

    early, late = (np.mean([motion(k) for k in range(start, start + 15)]) for start in (0, 1500))
    assert early < 0.01 and late > 5 * early


def test_pasted_objects_are_objects_or_occluders():
    source = StillClips(OneStill(boxes({4: (5, 5, 35, 55)})), 48, paste=1.0)
    clips = [ClipDataset([source])[k] for k in range(40)]
    assert {clip.objects for clip in clips} == {1, 2}
    assert all("+" in clip.source for clip in clips)
    assert not any("+" in ClipDataset([StillClips(OneStill(), 48)])[k].source for k in range(10))


def test_stills_without_objects_are_refused():
    with pytest.raises(ValueError, match=r"one: no object in 20 first frames"):
        ClipDataset([StillClips(OneStill(boxes({})), 48)])[0]
    with pytest.raises(ValueError, match="one: must hold at least one still"):
        StillClips(OneStill(count=0), 48)


def test_real_clips(shared_data):
    curriculum = SkipCurriculum(first=10)
    sources = [
        VideoClips(davis(shared_data / "DAVIS", split="train"), 128, curriculum=curriculum, name="davis"),
        VideoClips(
            youtube_vos(shared_data / "YouTubeVOS"),
            128,
            curriculum=curriculum,
            skip_divisor=5,
            name="youtube",
        ),
        StillClips(
            pairs(shared_data / "stills" / "images", shared_data / "stills" / "masks"), 128, paste=0.3
        ),
    ]
    clips = ClipDataset(sources)
    for k in range(24):
        clip = clips[k]
        assert clip.frames.shape == (3, 3, 128, 128)
        areas = np.bincount(clip.masks[0].ravel(), minlength=4)[1 : clip.objects + 1]
        assert (areas >= 1).all() and areas.max() >= 0.002 * 128 * 128
    assert {clips[k].source.split("/")[0].split(":")[0] for k in range(24)} == {"davis", "youtube", "images"}
