"""Frames held by the paper's policies: lists by hand, and properties of every policy."""

import pytest
import torch
from helpers import small_networks as small
from hypothesis import given, settings
from hypothesis import strategies as st

import stm
from stm.memory import MemoryBank, MemoryPolicy


def held_frames(
    policy: MemoryPolicy, frames: int, given: tuple[int, ...] = (0,), entry: int = 0
) -> list[list[int]]:
    """Return the frames held while frame entry + 1, entry + 2, ... is segmented."""
    bank, result = MemoryBank(policy), []
    for t in range(entry, frames - 1):
        if bank.should_write(t, t in given):
            bank.write(t, *(torch.full((1, 1, 2, 1, 1), float(t)) for _ in range(2)), given=t in given)
        result.append(bank.frames)
    return result


def test_first() -> None:
    assert held_frames(MemoryPolicy(first=True, previous=False, every=None), 30) == [[0]] * 29


def test_previous() -> None:
    assert held_frames(MemoryPolicy(first=False, previous=True, every=None), 30) == [
        [t - 1] for t in range(1, 30)
    ]


def test_first_and_previous() -> None:
    expected = [[0], *([0, t - 1] for t in range(2, 30))]
    assert held_frames(MemoryPolicy(first=True, previous=True, every=None), 30) == expected


def test_every_5() -> None:
    assert held_frames(MemoryPolicy(first=True, previous=True, every=5), 30) == [
        [0],
        [0, 1],
        [0, 2],
        [0, 3],
        [0, 4],
        [0, 5],
        [0, 5, 6],
        [0, 5, 7],
        [0, 5, 8],
        [0, 5, 9],
        [0, 5, 10],
        [0, 5, 10, 11],
        [0, 5, 10, 12],
        [0, 5, 10, 13],
        [0, 5, 10, 14],
        [0, 5, 10, 15],
        [0, 5, 10, 15, 16],
        [0, 5, 10, 15, 17],
        [0, 5, 10, 15, 18],
        [0, 5, 10, 15, 19],
        [0, 5, 10, 15, 20],
        [0, 5, 10, 15, 20, 21],
        [0, 5, 10, 15, 20, 22],
        [0, 5, 10, 15, 20, 23],
        [0, 5, 10, 15, 20, 24],
        [0, 5, 10, 15, 20, 25],
        [0, 5, 10, 15, 20, 25, 26],
        [0, 5, 10, 15, 20, 25, 27],
        [0, 5, 10, 15, 20, 25, 28],
    ]


def test_every_frame() -> None:
    assert held_frames(MemoryPolicy(every=1), 6) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


def test_every_3_without_the_previous_frame() -> None:
    expected = [[0], [0], [0], [0, 3], [0, 3], [0, 3], [0, 3, 6]]
    assert held_frames(MemoryPolicy(first=True, previous=False, every=3), 8) == expected
    assert held_frames(MemoryPolicy(first=False, previous=False, every=3), 8) == expected


def test_objects_that_enter_between_the_kept_frames() -> None:
    late = {"frames": 14, "given": (7,), "entry": 7}
    assert held_frames(MemoryPolicy(every=5), **late) == [
        [7],
        [7, 8],
        [7, 9],
        [7, 10],
        [7, 10, 11],
        [7, 10, 12],
    ]
    # Without the first and the previous frame, the frame of entry is held until another one is kept.
    only_every = MemoryPolicy(first=False, previous=False, every=5)
    assert held_frames(only_every, **late) == [[7], [7], [7], [10], [10], [10]]


def test_a_corrected_frame_is_kept_like_the_first() -> None:
    given = (0, 3)
    expected = [[0], [0, 1], [0, 2], [0, 3], [0, 3, 4], [0, 3, 5]]
    assert held_frames(MemoryPolicy(first=True, previous=True, every=None), 7, given) == expected
    assert (
        held_frames(MemoryPolicy(first=True, previous=False, every=None), 7, given)
        == [[0]] * 3 + [[0, 3]] * 3
    )
    assert held_frames(MemoryPolicy(first=False, previous=True, every=None), 7, given) == [
        [t] for t in range(6)
    ]


policies = st.builds(
    lambda first, previous, every: (first, previous, every),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(1, 7),
).filter(lambda values: values[0] or values[1] or values[2])


@settings(deadline=None, max_examples=150)
@given(policies, st.integers(0, 12), st.sets(st.integers(0, 40)), st.integers(2, 30))
def test_properties_of_every_policy(
    values: tuple[bool, bool, int | None], entry: int, given_frames: set[int], length: int
) -> None:
    first, previous, every = values
    policy = MemoryPolicy(first, previous, every)
    given_frames = {t for t in given_frames if t >= entry} | {entry}
    for t, frames in enumerate(
        held_frames(policy, entry + length, tuple(given_frames), entry), start=entry + 1
    ):
        assert frames, "an empty memory cannot be read"
        assert frames == sorted(set(frames))
        assert frames[-1] < t
        kept = {f for f in range(entry, t) if (first and f in given_frames) or (every and f % every == 0)}
        expected = kept | ({t - 1} if previous else set())
        assert set(frames) == (expected or {entry})


def test_read_returns_the_cells_of_the_frames_held_frames() -> None:
    bank = MemoryBank(MemoryPolicy(every=2))
    for t in range(4):
        key, value = torch.full((2, 1, 3, 4, 5), float(t)), torch.full((2, 6, 7, 4, 5), 10.0 * t)
        bank.write(t, key, value, given=t == 0)
    keys, values = bank.read()
    assert keys.shape == (2, 1, 3, 3 * 20)
    assert values.shape == (2, 6, 7, 3 * 20)
    assert keys[0, 0, 0].tolist() == [t for t in (0, 2, 3) for _ in range(20)]
    assert values[1, 5, 6].tolist() == [10 * t for t in (0, 2, 3) for _ in range(20)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": False, "previous": False, "every": None}, "all off"),
        ({"every": 0}, "memory.every=0"),
        ({"every": -5}, "memory.every=-5"),
    ],
)
def test_invalid_policies_raise(settings: dict[str, int | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryPolicy(**settings)


def test_the_segmenter_follows_the_policy() -> None:
    frames, mask = small.frames(16, (16, 16)), small.masks(1, 1, (16, 16))[0]
    segmenter = stm.Segmenter(small.network(), MemoryPolicy(every=5))
    held = []
    for t, frame in enumerate(frames):
        segmenter.step(frame, mask if t == 0 else None)
        held.append(segmenter.memory_frames())
    assert [groups[0] for groups in held[1:]] == held_frames(MemoryPolicy(every=5), 16)


def test_objects_with_different_entries_have_separate_memories() -> None:
    """Object 1 enters at frame 0 and is corrected at frame 6; object 2 enters at frame 3."""
    frames, masks = small.frames(10, (16, 16)), small.masks(10, 2, (16, 16)).numpy()
    given = {0: masks[0] * (masks[0] == 1), 3: masks[3] * (masks[3] == 2), 6: masks[6] * (masks[6] == 1)}
    segmenter = stm.Segmenter(small.network(), MemoryPolicy(every=None))
    held = []
    for t, frame in enumerate(frames):
        segmenter.step(frame, given.get(t))
        held.append(segmenter.memory_frames())
    assert held[3] == [[0, 2], []]
    assert held[4] == [[0, 3], [3]]
    assert held[5] == [[0, 4], [3, 4]]
    assert held[7] == [[0, 6], [3, 6]]
    assert held[9] == [[0, 6, 8], [3, 8]]
