"""Procedural videos and stills: reproducible, exactly masked, with the events of their scenarios."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from stm.data.synthetic.dataset import DEFAULT_FRAMES, SyntheticVideo, synthetic_stills, synthetic_videos
from stm.data.synthetic.rendering import render

SIZE = 64


def masks_of(video: SyntheticVideo) -> np.ndarray:
    return np.stack([video.mask(t) for t in range(len(video))])


def frames_of(video: SyntheticVideo) -> np.ndarray:
    return np.stack([video.frame(t) for t in range(len(video))])


def digest(video: SyntheticVideo) -> str:
    return hashlib.sha256(frames_of(video).tobytes() + masks_of(video).tobytes()).hexdigest()


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union


@pytest.fixture(scope="module")
def plain() -> list[SyntheticVideo]:
    return synthetic_videos(24, seed=5, split="val", kind="plain", size=SIZE)


@pytest.fixture(scope="module")
def events() -> list[SyntheticVideo]:
    return synthetic_videos(24, seed=5, split="val", kind="event", size=SIZE)


@pytest.fixture(scope="module")
def distractors() -> list[SyntheticVideo]:
    return synthetic_videos(12, seed=5, split="val", kind="distractor", size=SIZE)


def test_same_bytes_in_another_process_and_in_any_order() -> None:
    program = (
        "import hashlib; from data.test_synthetic import digest, synthetic_videos\n"
        "videos = synthetic_videos(6, seed=3, split='train', size=48)\n"
        "print('\\n'.join(digest(videos[i]) for i in (5, 0, 3, 1, 4, 2)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    command, root = [sys.executable, "-c", program], Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    digests = [digest(video) for video in synthetic_videos(6, seed=3, split="train", size=48)]
    assert [digests[i] for i in (5, 0, 3, 1, 4, 2)] == run.stdout.split()


def test_a_video_does_not_depend_on_the_size_or_the_kinds_of_its_set() -> None:
    few, many = (synthetic_videos(n, seed=1, kind="mixed", size=48) for n in (4, 9))
    assert [digest(a) for a in few] == [digest(b) for b in many[:4]]
    events = synthetic_videos(2, seed=1, kind="event", size=48)
    assert [digest(few[1]), digest(few[3])] == [digest(v) for v in events]


def test_splits_seeds_kinds_and_numbers_differ() -> None:
    sets = [("train", 0, "event"), ("val", 0, "event"), ("test", 0, "event"), ("train", 1, "event")]
    videos = [
        video
        for split, seed, kind in [*sets, ("train", 0, "distractor"), ("train", 0, "plain")]
        for video in synthetic_videos(2, seed=seed, split=split, kind=kind, size=48)
    ]
    assert len({video.frame(0).tobytes() for video in videos}) == len(videos)
    assert len({video.name for video in videos}) == len(videos)


@pytest.mark.parametrize("size", [48, (48, 90), (90, 48), (240, 427)])
def test_every_size_has_frames_and_masks(size: int | tuple[int, int]) -> None:
    video = synthetic_videos(1, kind="event", size=size, frames=20)[0]
    shape = (size, size) if isinstance(size, int) else size
    assert frames_of(video).shape == (20, *shape, 3) and frames_of(video).dtype == np.uint8
    assert masks_of(video).shape == (20, *shape) and masks_of(video).dtype == np.uint8
    assert video.absence is not None


def test_the_first_frame_shows_every_object(
    plain: list[SyntheticVideo], events: list[SyntheticVideo], distractors: list[SyntheticVideo]
) -> None:
    for video in [*plain, *events, *distractors]:
        labels, areas = np.unique(video.mask(0), return_counts=True)
        assert list(video.first_frames) == [label for label in labels if label] == list(range(1, len(labels)))
        assert set(np.unique(masks_of(video))) <= {0, *video.first_frames}
        assert areas[1:].min() >= 0.015 * SIZE * SIZE
    assert {len(video.first_frames) for video in plain} == {1, 2, 3}


def test_trivial_predictions_score_low(plain: list[SyntheticVideo], events: list[SyntheticVideo]) -> None:
    copied, empty = [], []
    for video in [*plain, *events]:
        masks = masks_of(video)
        for label in video.first_frames:
            truth = masks == label
            copied.append(np.mean([jaccard(truth[0], later) for later in truth[1:-1]]))
            empty.append(np.mean([not later.any() for later in truth[1:-1]]))
    assert 0.1 < np.mean(copied) < 0.22
    assert 0.05 < np.mean(empty) < 0.2


def test_objects_have_plausible_sizes(plain: list[SyntheticVideo]) -> None:
    areas = [
        np.mean(masks_of(video) == label, axis=(1, 2)) for video in plain for label in video.first_frames
    ]
    assert 0.04 < np.median(np.concatenate(areas)) < 0.12


def test_all_objects_of_an_event_are_invisible_exactly_during_its_absence(
    events: list[SyntheticVideo], distractors: list[SyntheticVideo], plain: list[SyntheticVideo]
) -> None:
    for video in [*events, *distractors]:
        assert video.absence is not None
        start, back = video.absence
        empty = ~masks_of(video).any(axis=(1, 2))
        assert 21 <= start <= 28 and 4 <= back - start <= 8 and back < len(video)
        assert empty[start:back].all() and not empty[start - 1] and not empty[back]
        returned = masks_of(video)[back:]
        assert all((returned == label).any() for label in video.first_frames)
    assert all(video.absence is None for video in plain)


def hue(video: SyntheticVideo, t: int, label: int) -> float:
    """Compute the circular mean of the hue of an object's saturated pixels, in 0..1."""
    hsv = cv2.cvtColor(video.frame(t).astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[video.mask(t) == label]
    vivid = hsv[(hsv[:, 1] > 0.3) & (hsv[:, 2] > 0.15)]
    return float(np.angle(np.exp(1j * np.deg2rad(vivid[:, 0])).mean()) / (2 * np.pi))


def test_the_hue_drifts_by_a_third_of_the_circle(events: list[SyntheticVideo]) -> None:
    for video in events:
        assert video.absence is not None
        masks = masks_of(video)
        gaps = []
        for label in video.first_frames:
            visible = [t for t in range(len(video)) if np.count_nonzero(masks[t] == label) > 60]
            late = [t for t in visible if t >= video.absence[1]]
            if visible[0] == 0 and late:
                gaps.append(abs((hue(video, late[0], label) - hue(video, 0, label) + 0.5) % 1 - 0.5))
        assert gaps
        low, high = (0, 0.12) if video.number % 4 == 3 else (0.25, 0.42)
        assert all(low <= gap <= high for gap in gaps), (video.name, gaps)


def test_objects_return_elsewhere(events: list[SyntheticVideo]) -> None:
    moves = []
    for video in events:
        assert video.absence is not None
        start, back = video.absence
        for layer in video.scene.layers:
            if layer.label:
                moves.append(np.linalg.norm(layer.position[back] - layer.position[start - 1]))
    assert np.median(moves) > 0.4 and np.mean(np.array(moves) > 0.2) > 0.85


def lookalikes(video: SyntheticVideo) -> list[int]:
    """Return the indices of the unlabeled layers that have the texture of an object."""
    textures = [layer.texture for layer in video.scene.layers if layer.label]
    layers = enumerate(video.scene.layers)
    return [i for i, layer in layers if layer.label == 0 and any(layer.texture is t for t in textures)]


def test_distractors_are_visible_but_not_in_the_mask(
    events: list[SyntheticVideo], distractors: list[SyntheticVideo]
) -> None:
    assert not any(lookalikes(video) for video in events)
    for video in distractors:
        (index,) = lookalikes(video)
        layers = list(video.scene.layers)
        assert not layers[index].hue.any()
        layers.pop(index)
        frames, masks = render(replace(video.scene, layers=tuple(layers)), (SIZE, SIZE))
        differs = (frames != frames_of(video)).any(axis=3)
        assert np.mean(differs.mean(axis=(1, 2)) > 0.01) > 0.5
        np.testing.assert_array_equal(masks, masks_of(video))  # it lies behind every object


def test_videos_are_rendered_once_and_left_out_of_pickles() -> None:
    videos = synthetic_videos(10, seed=4, size=48)
    for video in videos:
        assert np.shares_memory(video.frame(0), video.frame(0))
    pickled = pickle.dumps(videos)
    assert len(pickled) < 2_000 * len(videos)
    again = pickle.loads(pickled)
    assert digest(again[3]) == digest(videos[3])


def test_lengths() -> None:
    assert (
        [len(v) for v in synthetic_videos(2, size=48)]
        == [DEFAULT_FRAMES["plain"], DEFAULT_FRAMES["event"]]
        == [24, 40]
    )
    assert [len(v) for v in synthetic_videos(2, size=48, frames=30)] == [30, 30]
    (shortest,) = synthetic_videos(1, kind="plain", size=48, frames=2)
    assert frames_of(shortest).shape == (2, 48, 48, 3)
    (longer,) = synthetic_videos(1, kind="event", size=48, frames=80)
    assert longer.absence is not None
    start, back = longer.absence
    assert not masks_of(longer)[start:back].any() and 8 <= back - start <= 16


def test_stills() -> None:
    stills = synthetic_stills(12, seed=3, split="train", size=(60, 80))
    assert len(stills) == 12 and "train" in stills.name
    counts = set()
    for i in range(12):
        frame, mask = stills.read(i)
        assert frame.shape == (60, 80, 3) and frame.dtype == mask.dtype == np.uint8 and mask.shape == (60, 80)
        labels, areas = np.unique(mask, return_counts=True)
        assert list(labels) == list(range(len(labels))) and areas[1:].min() >= 0.015 * mask.size
        counts.add(len(labels) - 1)
    assert len(counts) >= 3 and counts <= {1, 2, 3, 4}
    np.testing.assert_array_equal(stills.read(7)[0], pickle.loads(pickle.dumps(stills)).read(7)[0])
    assert (synthetic_stills(1, 3, "val", (60, 80)).read(0)[0] != stills.read(0)[0]).any()
    with pytest.raises(IndexError, match="i=12: must be in 0..11"):
        stills.read(12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "plane"}, "kind='plane': must be plain, event"),
        ({"kind": "still"}, "kind='still'"),
        ({"split": "training"}, "split='training': must be one of train, val, test"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"size": 16}, "size=16: each side must have at least 32 pixels, such as 96"),
        ({"frames": 10, "kind": "event"}, "frames=10: must be at least 20"),
        ({"frames": 1, "kind": "plain"}, "frames=1: must be at least 2"),
    ],
)
def test_invalid_arguments_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_videos(1, **wrong)
