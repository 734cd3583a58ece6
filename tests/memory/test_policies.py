"""Policies beyond the paper's: what is held while each of 30 frames is segmented, by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.memory import MemoryBank, MemoryPolicy
from stm.network import memory_read as read_module

A, B, C = torch.eye(3)
LOOKS = [A] * 10 + [B] * 10 + [C] * 10


def held(
    policy: MemoryPolicy,
    looks: list[torch.Tensor] | None = None,
    popular: dict[int, float] | None = None,
    sure: dict[int, float] | None = None,
    room: int | None = None,
    frames: int = 30,
) -> list[list[int]]:
    """The frames held while frame 1, 2, ... is segmented; every frame is a cell, frame 0 is given.

    Args:
        looks: the key of each frame.
        popular: how much the cell of a frame is looked at whenever it is read; 0.1 by default.
        sure: the probability over a frame's mask; 1 by default.
    """
    bank, result = MemoryBank(policy, frames), []
    room = policy.max_frames if room is None else room
    for t in range(frames - 1):
        if bank.should_write(t, t == 0):
            key = (A if looks is None else looks[t]).view(1, 1, 3, 1, 1)
            mask = torch.full((1, 1, 2, 2), (sure or {}).get(t, 1.0))
            bank.write(t, key, torch.full((1, 1, 2, 1, 1), float(t)), t == 0, mask, room)
        shown = bank.read()[1][0, 0, 0]
        bank.update_usage(torch.tensor([(popular or {}).get(int(t), 0.1) for t in shown])[None, None])
        assert sorted(shown.int().tolist()) == bank.frames
        result.append(bank.frames)
    return result


def test_evenly_spaced() -> None:
    policy = MemoryPolicy(every=None, num_uniform=5)
    assert held(policy) == held(MemoryPolicy(every=6))
    assert (
        held(MemoryPolicy(previous=False, every=None, num_uniform=3), frames=8)
        == [[0]] * 2 + [[0, 2]] * 3 + [[0, 2, 5]] * 2
    )
    with pytest.raises(ValueError, match=r"memory.num_uniform=5: the video's length must be known"):
        MemoryBank(policy)


def test_first_in_first_out_behind_the_first_frame() -> None:
    begin = [[0], [0, 1], [0, 2], [0, 2, 3], [0, 2, 4], [0, 2, 4, 5]]
    rest = [[0, t - 5, t - 3, t - 1] if t % 2 else [0, t - 4, t - 2, t - 1] for t in range(7, 30)]
    assert held(MemoryPolicy(every=2, max_frames=4)) == begin + rest


def test_the_least_used_leaves() -> None:
    """All cells are looked at alike, but for frame 4's, which is looked at most."""
    begin = [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]
    rest = [[0, 4, t - 1] for t in range(7, 30)]
    policy = MemoryPolicy(every=1, max_frames=3, eviction="least_used")
    assert held(policy, popular={4: 0.5}) == begin + rest


def test_usage_fades() -> None:
    """Frame 1 was looked at a lot, long ago; frame 2 a little, and still is: with decay 2 stays."""

    def last(decay: float) -> list[int]:
        bank = MemoryBank(MemoryPolicy(every=1, max_frames=3, eviction="least_used", decay=decay))
        for t in range(4):
            if t == 3:
                for _ in range(20):
                    bank.update_usage(torch.tensor([[[0.0, 0.0, 0.2]]]))
            key, value, mask = torch.zeros(1, 1, 3, 1, 1), torch.zeros(1, 1, 2, 1, 1), torch.ones(1, 1, 2, 2)
            bank.write(t, key, value, t == 0, mask, room=3)
            if t == 1:
                bank.update_usage(torch.tensor([[[0.0, 5.0]]]))
        return bank.frames

    # The mean over time of frame 1 is 5 / 21 without decay, of frame 2 it is 0.2.
    assert last(decay=1.0) == [0, 1, 3]
    assert last(decay=0.8) == [0, 2, 3]


def test_the_most_redundant_in_time_leaves() -> None:
    assert held(MemoryPolicy(every=1, max_frames=4, eviction="most_redundant_in_time"), frames=10) == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 2, 3, 4],
        [0, 2, 4, 5],
        [0, 2, 4, 6],
        [0, 2, 4, 7],
        [0, 4, 7, 8],
    ]


def test_the_most_similar_leaves_so_that_every_look_stays() -> None:
    begin = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    looks_a = [[0, t - 3, t - 2, t - 1] for t in range(5, 23)]
    looks_c = [[0, 19, t - 2, t - 1] for t in range(23, 30)]  # 19 is the last that shows the second look
    policy = MemoryPolicy(every=1, max_frames=4, eviction="most_similar")
    assert held(policy, LOOKS) == begin + looks_a + looks_c


def test_frames_without_an_object_leave_first() -> None:
    policy = MemoryPolicy(every=1, max_frames=4, eviction="most_similar")
    looks = [A, B, C, *[A + B] * 27]
    gone = dict.fromkeys(range(3, 30), 0.0)
    assert held(policy, looks, sure=gone)[4:] == [[0, 1, 2, t - 1] for t in range(5, 30)]


def test_only_new_looks_stay() -> None:
    a = [[0]] + [[0, t - 1] for t in range(2, 11)]
    b = [[0, 10]] + [[0, 10, t - 1] for t in range(12, 21)]
    c = [[0, 10, 20]] + [[0, 10, 20, t - 1] for t in range(22, 30)]
    assert held(MemoryPolicy(every=1, min_novelty=0.5), LOOKS) == a + b + c


def test_only_confident_frames_stay() -> None:
    unsure = dict.fromkeys(range(8, 19), 0.6)
    expected = held(MemoryPolicy(every=5))
    for frames in expected:
        frames[:] = [t for t in frames if t not in (10, 15) or t == frames[-1]]
    for t in range(12, 30):  # 10 and 15 were there as previous frames only
        expected[t - 1] = sorted({f for f in (0, 5, 20, 25) if f < t} | {t - 1})
    assert held(MemoryPolicy(every=5, min_confidence=0.9), sure=unsure) == expected
    without_previous = held(MemoryPolicy(every=5, min_confidence=0.9, previous=False), sure=unsure)
    assert without_previous[-1] == [0, 5, 20, 25]
    assert without_previous[15] == [0, 5]


def test_confidence_is_the_mean_over_the_masks_of_objects_that_are_seen() -> None:
    """Object 1: 0.9 and 0.7 over its mask; object 2 is not seen: the mean is 0.8."""
    masks = torch.tensor([[[[0.9, 0.7], [0.2, 0.0]], [[0.1, 0.3], [0.4, 0.0]]]])
    for threshold, expected in ((0.79, [0, 1, 2]), (0.81, [0, 2])):
        bank = MemoryBank(MemoryPolicy(every=1, min_confidence=threshold))
        for t in range(3):
            bank.write(t, torch.zeros(1, 1, 3, 1, 1), torch.zeros(1, 2, 2, 1, 1), t == 0, masks)
        assert bank.frames == expected


def test_given_frames_leave_only_where_nothing_else_can() -> None:
    bank = MemoryBank(MemoryPolicy(every=None, max_frames=3))
    for t in range(6):
        bank.write(t, torch.zeros(1, 1, 3, 1, 1), torch.zeros(1, 1, 2, 1, 1), t in (0, 2, 4), room=3)
    assert bank.frames == [0, 4, 5]


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 8, 9]), (3, [0, 6, 9])])
def test_a_room_that_shrinks_is_kept(every: int, expected: list[int]) -> None:
    """At frame 9, with frame 8 there to stay or as the previous frame."""
    bank = MemoryBank(MemoryPolicy(every=every, max_mb=1))
    for t in range(10):
        value = torch.full((1, 1, 2, 2, 2), float(t))
        bank.write(t, value, value, t == 0, room=8 if t < 9 else 3)
    assert bank.frames == expected
    assert sorted(bank.read()[1][0, 0, 0].tolist()) == [t for t in expected for _ in range(4)]
    assert bank.bytes == 3 * 2 * 8 * 4


def test_what_shows_no_object_counts_as_unused() -> None:
    """Frame 1 shows nothing and is looked at a lot; frame 2 shows the object and is looked at a little."""
    bank = MemoryBank(MemoryPolicy(every=1, max_frames=3, eviction="least_used"))
    for t in range(4):
        mask = torch.full((1, 1, 2, 2), float(t != 1))
        bank.write(t, torch.zeros(1, 1, 3, 1, 1), torch.zeros(1, 1, 2, 1, 1), t == 0, mask, room=3)
        bank.update_usage(torch.tensor([0.1, 0.9, 0.1])[None, None, : len(bank.frames)])
    assert bank.frames == [0, 2, 3]


def test_prototypes_are_the_most_looked_at_cells_of_frames_that_left() -> None:
    """Frames of two cells whose keys lie far apart, so that a prototype's value is its cell's own."""
    bank = MemoryBank(MemoryPolicy(every=1, max_frames=2, prototypes=2, decay=1.0))
    mask = torch.ones(1, 1, 1, 2)
    looked = {0: (0.0, 0.0), 1: (0.3, 0.1), 2: (0.2, 0.4), 3: (0.5, 0.0), 4: (0.0, 0.0)}
    shown = []
    for t in range(5):
        cells = torch.tensor([10.0 * t, 10.0 * t + 1])
        bank.write(t, 100 * cells.view(1, 1, 1, 1, 2), cells.view(1, 1, 1, 1, 2), t == 0, mask, room=2)
        keys, values = bank.read()
        assert torch.equal(keys, 100 * values)
        shown.append(sorted(values.flatten().tolist()))
        mass = [looked[int(cell) // 10][int(cell) % 10] for cell in values.flatten().tolist()]
        bank.update_usage(torch.tensor(mass)[None, None])
    assert shown == [
        [0, 1],
        [0, 1, 10, 11],
        [0, 1, 10, 11, 20, 21],  # 1 left: both cells of the only frame that ever left
        [0, 1, 10, 21, 30, 31],  # of 10 (.3), 11 (.1), 20 (.2), 21 (.4)
        [0, 1, 21, 30, 40, 41],  # of 10 (.3), 21 (.4), 30 (.5), 31
    ]


def test_a_prototype_between_near_cells_is_their_mean() -> None:
    bank = MemoryBank(MemoryPolicy(every=1, max_frames=2, prototypes=1))
    mask = torch.ones(1, 1, 1, 2)
    for t in range(3):
        key = torch.full((1, 1, 1, 1, 2), 7.0)  # equal keys weigh alike
        bank.write(t, key, torch.tensor([4.0 * t, 4.0 * t + 2]).view(1, 1, 1, 1, 2), t == 0, mask, room=2)
        bank.update_usage(torch.ones(1, 1, bank.read()[0].shape[-1]))
    assert sorted(bank.read()[1].flatten().tolist()) == [0, 2, 5, 8, 10]


def test_top_k_reads_the_likest_cells_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = (
        torch.randn((1, 2, 4, 9), generator=generator),
        torch.randn((1, 2, 3, 9), generator=generator),
    )
    query = torch.randn((1, 4, 5), generator=generator)
    mass = torch.zeros(1, 2, 9)
    with torch.no_grad():
        result = read_module.read(keys, values, query, "dot", 3, mass)
    for o in range(2):
        for q in range(5):
            likeness = (keys[0, o].T @ query[0, :, q]).tolist()
            best = sorted(range(9), key=lambda n: -likeness[n])[:3]
            weights = torch.softmax(torch.tensor([likeness[n] for n in best]), 0)
            expected = sum(w * values[0, o, :, n] for w, n in zip(weights, best, strict=True))
            torch.testing.assert_close(result[0, o, :, q], expected)
            mass[0, o, best] -= weights
    torch.testing.assert_close(mass, torch.zeros(1, 2, 9), atol=1e-6, rtol=0)


def test_near_cells_count_more_and_the_more_the_younger_they_are() -> None:
    """Three like cells in a row: each weight is the Gaussian of the distance, its variance age * motion^2."""
    bank = MemoryBank(MemoryPolicy(every=2, motion_sigma=0.5))
    for t in range(4):
        bank.write(t, torch.zeros(1, 1, 1, 1, 3), torch.tensor([[[[[1.0, 10.0, 100.0]]]]]), t == 0)
    keys, values = bank.read()  # frames 0, 2, 3
    where, variance = bank.cell_positions(4)
    ages = torch.tensor([4, 2, 1]).repeat_interleave(3)
    torch.testing.assert_close(where, torch.tensor([[0.0, -1], [0, 0], [0, 1]]).repeat(3, 1))
    torch.testing.assert_close(variance, 0.25 * ages)
    query = torch.zeros(1, 1, 3)
    with torch.no_grad():
        near = read_module.Near(where, variance, where[:3])
        result = read_module.read(keys, values, query, "dot", near=near)[0, 0, 0]
    for q in range(3):
        chances = [math.exp(-((n % 3 - q) ** 2) / (2 * 0.25 * int(ages[n]))) for n in range(9)]
        expected = sum(c * (1, 10, 100)[n % 3] for n, c in enumerate(chances)) / sum(chances)
        assert float(result[q]) == pytest.approx(expected, rel=1e-5)


policies = st.builds(
    MemoryPolicy,
    first=st.booleans(),
    previous=st.just(True),
    every=st.integers(1, 4),
    min_confidence=st.none() | st.floats(0, 1),
    min_novelty=st.none() | st.floats(0, 2),
    max_frames=st.integers(2, 7),
    eviction=st.sampled_from(["oldest", "least_used", "most_redundant_in_time", "most_similar"]),
    prototypes=st.integers(0, 3),
)


@settings(deadline=None, max_examples=80)
@given(policies, st.integers(0, 1000))
def test_what_holds_for_every_bounded_policy(policy: MemoryPolicy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    looks = list(torch.randn((30, 3), generator=generator))
    chances = torch.rand((2, 30), generator=generator).tolist()
    popular, sure = (dict(enumerate(values)) for values in chances)
    bare = held(MemoryPolicy(**{**vars(policy), "prototypes": 0}), looks, popular, sure)
    for t, frames in enumerate(bare, start=1):
        assert frames == sorted(set(frames))
        assert frames[-1] == t - 1
        assert len(frames) <= policy.max_frames
        assert not policy.first or frames[0] == 0
        assert all(f % policy.every == 0 for f in frames[:-1] if f)


def test_the_policy_tells_how_much_it_will_hold() -> None:
    for policy in (MemoryPolicy(), MemoryPolicy(previous=False), MemoryPolicy(every=3, max_frames=4)):
        for frames in (2, 5, 6, 7, 11, 12, 13, 30):
            longest = max(map(len, held(policy, frames=frames)))
            assert policy.most(frames) == longest, (policy, frames)
