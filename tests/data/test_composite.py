"""Composite videos: real pixels in procedural scenes, with exact masks, reproducible in any process."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

from stm.data.synthetic.composite import CompositeVideo, composite_videos, recolored, reflect
from stm.video import ArrayVideo

SIZE = (64, 96)
BACKGROUNDS = (20, 70, 120)
"""Gray of each source video; its object is a disk 60 brighter in red, the only reddish thing."""


def source(number: int) -> ArrayVideo:
    """A gray video with a reddish disk that moves within the frame."""
    rows, columns = np.mgrid[:80, :120]
    frames = np.full((12, 80, 120, 3), BACKGROUNDS[number], np.uint8)
    masks = np.zeros((12, 80, 120), np.uint8)
    for t in range(12):
        masks[t] = (rows - 40) ** 2 + (columns - 40 - 3 * t) ** 2 < 15**2
        frames[t][masks[t] > 0] += np.array([60, 0, 0], np.uint8)
    return ArrayVideo(f"source-{number}", frames, masks)


@pytest.fixture(scope="module")
def sources() -> list[ArrayVideo]:
    return [source(number) for number in range(3)]


def reddish(frame: np.ndarray) -> np.ndarray:
    return frame[..., 0].astype(int) - frame[..., 1] > 25


def contents(video: CompositeVideo) -> tuple[np.ndarray, np.ndarray]:
    times = range(len(video))
    return np.stack([video.frame(t) for t in times]), np.stack([video.mask(t) for t in times])


def test_masks_cover_the_pasted_pixels(sources: list[ArrayVideo]) -> None:
    """Labeled pixels are the objects' own pixels, up to smoothed edges."""
    for video in composite_videos(sources, 4, kind="event", frame_size=SIZE):
        for t in range(0, 8, 2):  # before the colors drift far
            red, labeled = reddish(video.frame(t)), video.mask(t) > 0
            assert np.count_nonzero(labeled & ~red) <= 0.15 * np.count_nonzero(labeled) + 8


def test_objects_are_absent_in_an_event_and_return(sources: list[ArrayVideo]) -> None:
    for video in composite_videos(sources, 4, seed=3, kind="event", frame_size=SIZE):
        start, back = video.absence or (0, 0)
        _, masks = contents(video)
        assert 4 <= back - start <= 8
        assert not masks[start:back].any()
        assert masks[0].any() and masks[back:].any()
        assert set(np.unique(masks)) <= {0, *video.first_frames}


def test_a_video_depends_on_seed_and_number_only(sources: list[ArrayVideo]) -> None:
    first, second = (composite_videos(sources, 3, seed=1, frame_size=SIZE) for _ in range(2))
    second[2].frame(0)  # another order of access
    restored = pickle.loads(pickle.dumps(first[1]))
    for a, b in ((first[1], second[1]), (first[1], restored)):
        assert all(np.array_equal(x, y) for x, y in zip(contents(a), contents(b), strict=True))
    other = composite_videos(sources, 3, seed=2, frame_size=SIZE)[1]
    assert not np.array_equal(first[1].frame(0), other.frame(0))


def test_cut_off_objects_are_not_used(sources: list[ArrayVideo]) -> None:
    masks = np.zeros((12, 80, 120), np.uint8)
    masks[:, :40, :40] = 1
    cut_off = ArrayVideo("cut-off", np.zeros((12, 80, 120, 3), np.uint8), masks)
    videos = composite_videos([*sources, cut_off], 1, frame_size=SIZE)
    assert {track.video.name for track in videos[0].pool.tracks} == {video.name for video in sources}
    with pytest.raises(ValueError, match=rf"at least 2 videos .* got {sources[0].name} of .*cut-off$"):
        composite_videos([sources[0], cut_off], 1, frame_size=SIZE)[0].frame(0)


@pytest.mark.parametrize("frame_size", [[0, 0], [-5, 200], [96], [240], [16, 64], [64, 64, 3]])
def test_frame_sizes_are_checked(sources: list[ArrayVideo], frame_size: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"frame_size={re.escape(str(frame_size))}: must be .* at least 32"):
        composite_videos(sources, 1, frame_size=frame_size)


def test_unknown_kinds_and_short_videos_are_named(sources: list[ArrayVideo]) -> None:
    with pytest.raises(ValueError, match="kind='sport': must be plain, event, distractor or mixed"):
        composite_videos(sources, 1, kind="sport")
    with pytest.raises(ValueError, match="frames=10: must be at least 20"):
        composite_videos(sources, 1, kind="event", frames=10)


def test_recolored_rotates_hues_and_scales_brightness() -> None:
    red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    assert recolored(red, 1 / 3, 1.0)[0, 0].tolist() == pytest.approx([0, 200, 0], abs=6)
    assert recolored(red, -1 / 3, 0.5)[0, 0].tolist() == pytest.approx([0, 0, 100], abs=6)
    assert np.array_equal(recolored(red, 0.0, 1.0), red)


def test_reflect_runs_to_and_fro() -> None:
    assert [reflect(t, 4) for t in range(8)] == [0, 1, 2, 3, 2, 1, 0, 1]
    assert [reflect(t, 1) for t in range(3)] == [0, 0, 0]
