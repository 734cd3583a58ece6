"""Policies beyond the paper's: frames held while each of 30 frames is segmented, listed by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.memory import MemoryBank, MemoryPolicy
from stm.network.memory_read import SpatialPrior, read_memory

A, B, C = torch.eye(3)
APPEARANCES = [A] * 10 + [B] * 10 + [C] * 10


def held_frames(
    policy: MemoryPolicy,
    appearances: list[torch.Tensor] | None = None,
    attention: dict[int, float] | None = None,
    confidence: dict[int, float] | None = None,
    frames: int = 30,
) -> list[list[int]]:
    """Return the frames held while frame 1, 2, ... is segmented.

    Every frame has one cell, and frame 0 has a given mask.

    Args:
        policy: the policy.
        appearances: the key of each frame.
        attention: the attention on a frame's cell per read; 0.1 by default.
        confidence: the probability over a frame's mask; 1 by default.
        frames: number of frames of the video.
    """
    bank, result = MemoryBank(policy, frames), []
    for t in range(frames - 1):
        if bank.should_write(t, t == 0):
            key = (A if appearances is None else appearances[t]).view(1, 1, 3, 1, 1)
            mask = torch.full((1, 1, 2, 2), (confidence or {}).get(t, 1.0))
            bank.write(t, key, torch.full((1, 1, 2, 1, 1), float(t)), t == 0, mask, policy.max_frames)
        cells = bank.read()[1][0, 0, 0]
        bank.update_usage(torch.tensor([(attention or {}).get(int(t), 0.1) for t in cells])[None, None])
        assert sorted(cells.int().tolist()) == bank.frames
        result.append(bank.frames)
    return result


def test_evenly_spaced() -> None:
    policy = MemoryPolicy(every=None, num_uniform=5)
    assert held_frames(policy) == held_frames(MemoryPolicy(every=6))
    assert (
        held_frames(MemoryPolicy(previous=False, every=None, num_uniform=3), frames=8)
        == [[0]] * 2 + [[0, 2]] * 3 + [[0, 2, 5]] * 2
    )
    with pytest.raises(ValueError, match=r"memory.num_uniform=5: the video's length must be known"):
        MemoryBank(policy)


def test_first_in_first_out_behind_the_first_frame() -> None:
    start = [[0], [0, 1], [0, 2], [0, 2, 3], [0, 2, 4], [0, 2, 4, 5]]
    rest = [[0, t - 5, t - 3, t - 1] if t % 2 else [0, t - 4, t - 2, t - 1] for t in range(7, 30)]
    assert held_frames(MemoryPolicy(every=2, max_frames=4)) == start + rest


def test_the_least_used_frame_is_evicted() -> None:
    """All cells receive equal attention, except for that of frame 4, which receives the most."""
    start = [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]
    rest = [[0, 4, t - 1] for t in range(7, 30)]
    policy = MemoryPolicy(every=1, max_frames=3, eviction="least_used")
    assert held_frames(policy, attention={4: 0.5}) == start + rest


def test_usage_decays() -> None:
    """Frame 1 received much attention long ago, frame 2 a little until now; with decay, frame 2 is kept."""

    def held_at_the_end(decay: float) -> list[int]:
        bank = MemoryBank(MemoryPolicy(every=1, max_frames=3, eviction="least_used", decay=decay))
        for t in range(4):
            if t == 3:
                for _ in range(20):
                    bank.update_usage(torch.tensor([[[0.0, 0.0, 0.2]]]))
            key, value, mask = torch.zeros(1, 1, 3, 1, 1), torch.zeros(1, 1, 2, 1, 1), torch.ones(1, 1, 2, 2)
            bank.write(t, key, value, t == 0, mask, frame_limit=3)
            if t == 1:
                bank.update_usage(torch.tensor([[[0.0, 5.0]]]))
        return bank.frames

    # Without decay, the mean over time is 5 / 21 for frame 1, and 0.2 for frame 2.
    assert held_at_the_end(decay=1.0) == [0, 1, 3]
    assert held_at_the_end(decay=0.8) == [0, 2, 3]


def test_the_most_redundant_frame_in_time_is_evicted() -> None:
    assert held_frames(MemoryPolicy(every=1, max_frames=4, eviction="most_redundant_in_time"), frames=10) == [
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


def test_evicting_the_most_similar_keeps_every_appearance() -> None:
    start = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    until_22 = [[0, t - 3, t - 2, t - 1] for t in range(5, 23)]
    from_23 = [[0, 19, t - 2, t - 1] for t in range(23, 30)]  # 19 is the last frame of appearance B
    policy = MemoryPolicy(every=1, max_frames=4, eviction="most_similar")
    assert held_frames(policy, APPEARANCES) == start + until_22 + from_23


def test_frames_without_objects_are_evicted_first() -> None:
    policy = MemoryPolicy(every=1, max_frames=4, eviction="most_similar")
    appearances = [A, B, C, *[A + B] * 27]
    absent = dict.fromkeys(range(3, 30), 0.0)
    assert held_frames(policy, appearances, confidence=absent)[4:] == [[0, 1, 2, t - 1] for t in range(5, 30)]


def test_only_new_appearances_are_kept() -> None:
    a = [[0]] + [[0, t - 1] for t in range(2, 11)]
    b = [[0, 10]] + [[0, 10, t - 1] for t in range(12, 21)]
    c = [[0, 10, 20]] + [[0, 10, 20, t - 1] for t in range(22, 30)]
    assert held_frames(MemoryPolicy(every=1, min_novelty=0.5), APPEARANCES) == a + b + c


def test_only_confident_frames_are_kept() -> None:
    uncertain = dict.fromkeys(range(8, 19), 0.6)
    expected = held_frames(MemoryPolicy(every=5))
    for frames in expected:
        frames[:] = [t for t in frames if t not in (10, 15) or t == frames[-1]]
    for t in range(12, 30):  # 10 and 15 were held as previous frames only
        expected[t - 1] = sorted({f for f in (0, 5, 20, 25) if f < t} | {t - 1})
    assert held_frames(MemoryPolicy(every=5, min_confidence=0.9), confidence=uncertain) == expected
    without_previous = held_frames(
        MemoryPolicy(every=5, min_confidence=0.9, previous=False), confidence=uncertain
    )
    assert without_previous[-1] == [0, 5, 20, 25]
    assert without_previous[15] == [0, 5]


def test_confidence_is_the_mean_over_masks_of_visible_objects() -> None:
    """Object 1 has 0.9 and 0.7 over its mask and object 2 is not visible, so the mean is 0.8."""
    masks = torch.tensor([[[[0.9, 0.7], [0.2, 0.0]], [[0.1, 0.3], [0.4, 0.0]]]])
    for threshold, expected in ((0.79, [0, 1, 2]), (0.81, [0, 2])):
        bank = MemoryBank(MemoryPolicy(every=1, min_confidence=threshold))
        for t in range(3):
            bank.write(t, torch.zeros(1, 1, 3, 1, 1), torch.zeros(1, 2, 2, 1, 1), t == 0, masks)
        assert bank.frames == expected


def test_given_frames_are_evicted_only_as_a_last_resort() -> None:
    bank = MemoryBank(MemoryPolicy(every=None, max_frames=3))
    for t in range(6):
        bank.write(t, torch.zeros(1, 1, 3, 1, 1), torch.zeros(1, 1, 2, 1, 1), t in (0, 2, 4), frame_limit=3)
    assert bank.frames == [0, 4, 5]


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 8, 9]), (3, [0, 6, 9])])
def test_a_lowered_frame_limit_is_obeyed(every: int, expected: list[int]) -> None:
    """The limit is lowered at frame 9, when frame 8 is kept or only the previous frame."""
    bank = MemoryBank(MemoryPolicy(every=every, max_mb=1))
    for t in range(10):
        value = torch.full((1, 1, 2, 2, 2), float(t))
        bank.write(t, value, value, t == 0, frame_limit=8 if t < 9 else 3)
    assert bank.frames == expected
    assert sorted(bank.read()[1][0, 0, 0].tolist()) == [t for t in expected for _ in range(4)]
    assert bank.bytes == 3 * 2 * 8 * 4


def test_attention_on_the_background_is_not_usage() -> None:
    """Frame 1 has no object and much attention; frame 2 has the object and little attention."""
    bank = MemoryBank(MemoryPolicy(every=1, max_frames=3, eviction="least_used"))
    for t in range(4):
        mask = torch.full((1, 1, 2, 2), float(t != 1))
        bank.write(t, torch.zeros(1, 1, 3, 1, 1), torch.zeros(1, 1, 2, 1, 1), t == 0, mask, frame_limit=3)
        bank.update_usage(torch.tensor([0.1, 0.9, 0.1])[None, None, : len(bank.frames)])
    assert bank.frames == [0, 2, 3]


def test_prototypes_are_the_most_used_cells_of_evicted_frames() -> None:
    """The keys of a frame's two cells are far apart, so that a prototype keeps its own cell's value."""
    bank = MemoryBank(MemoryPolicy(every=1, max_frames=2, prototypes=2, decay=1.0))
    mask = torch.ones(1, 1, 1, 2)
    attention = {0: (0.0, 0.0), 1: (0.3, 0.1), 2: (0.2, 0.4), 3: (0.5, 0.0), 4: (0.0, 0.0)}
    held = []
    for t in range(5):
        cells = torch.tensor([10.0 * t, 10.0 * t + 1])
        bank.write(t, 100 * cells.view(1, 1, 1, 1, 2), cells.view(1, 1, 1, 1, 2), t == 0, mask, frame_limit=2)
        keys, values = bank.read()
        assert torch.equal(keys, 100 * values)
        held.append(sorted(values.flatten().tolist()))
        mass = [attention[int(cell) // 10][int(cell) % 10] for cell in values.flatten().tolist()]
        bank.update_usage(torch.tensor(mass)[None, None])
    assert held == [
        [0, 1],
        [0, 1, 10, 11],
        [0, 1, 10, 11, 20, 21],  # frame 1 was evicted first: both of its cells
        [0, 1, 10, 21, 30, 31],  # of 10 (.3), 11 (.1), 20 (.2), 21 (.4)
        [0, 1, 21, 30, 40, 41],  # of 10 (.3), 21 (.4), 30 (.5), 31
    ]


def test_a_prototype_of_cells_with_equal_keys_is_their_mean() -> None:
    bank = MemoryBank(MemoryPolicy(every=1, max_frames=2, prototypes=1))
    mask = torch.ones(1, 1, 1, 2)
    for t in range(3):
        key = torch.full((1, 1, 1, 1, 2), 7.0)  # equal keys have equal weights
        bank.write(
            t, key, torch.tensor([4.0 * t, 4.0 * t + 2]).view(1, 1, 1, 1, 2), t == 0, mask, frame_limit=2
        )
        bank.update_usage(torch.ones(1, 1, bank.read()[0].shape[-1]))
    assert sorted(bank.read()[1].flatten().tolist()) == [0, 2, 5, 8, 10]


def test_top_k_reads_only_the_most_similar_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = (
        torch.randn((1, 2, 4, 9), generator=generator),
        torch.randn((1, 2, 3, 9), generator=generator),
    )
    query = torch.randn((1, 4, 5), generator=generator)
    mass = torch.zeros(1, 2, 9)
    with torch.no_grad():
        result = read_memory(keys, values, query, "dot", 3, mass)
    for o in range(2):
        for q in range(5):
            similarity = (keys[0, o].T @ query[0, :, q]).tolist()
            best = sorted(range(9), key=lambda n: -similarity[n])[:3]
            weights = torch.softmax(torch.tensor([similarity[n] for n in best]), 0)
            expected = sum(w * values[0, o, :, n] for w, n in zip(weights, best, strict=True))
            torch.testing.assert_close(result[0, o, :, q], expected)
            mass[0, o, best] -= weights
    torch.testing.assert_close(mass, torch.zeros(1, 2, 9), atol=1e-6, rtol=0)


def test_near_cells_count_more_if_they_are_recent() -> None:
    """With equal keys, each weight is a Gaussian of the distance with variance age * motion_sigma^2."""
    bank = MemoryBank(MemoryPolicy(every=2, motion_sigma=0.5))
    for t in range(4):
        bank.write(t, torch.zeros(1, 1, 1, 1, 3), torch.tensor([[[[[1.0, 10.0, 100.0]]]]]), t == 0)
    keys, values = bank.read()  # frames 0, 2, 3
    positions, variance = bank.cell_positions(4)
    ages = torch.tensor([4, 2, 1]).repeat_interleave(3)
    torch.testing.assert_close(positions, torch.tensor([[0.0, -1], [0, 0], [0, 1]]).repeat(3, 1))
    torch.testing.assert_close(variance, 0.25 * ages)
    query = torch.zeros(1, 1, 3)
    with torch.no_grad():
        prior = SpatialPrior(positions, variance, positions[:3])
        result = read_memory(keys, values, query, "dot", prior=prior)[0, 0, 0]
    for q in range(3):
        weights = [math.exp(-((n % 3 - q) ** 2) / (2 * 0.25 * int(ages[n]))) for n in range(9)]
        expected = sum(w * (1, 10, 100)[n % 3] for n, w in enumerate(weights)) / sum(weights)
        assert float(result[q]) == pytest.approx(expected, rel=1e-5)


policies = st.builds(
    MemoryPolicy,
    first=st.booleans(),
    previous=st.just(True),
    every=st.integers(1, 4),
    min_confidence=st.none() | st.floats(0, 1, allow_subnormal=False),
    min_novelty=st.none() | st.floats(0, 2, allow_subnormal=False),
    max_frames=st.integers(2, 7),
    eviction=st.sampled_from(["oldest", "least_used", "most_redundant_in_time", "most_similar"]),
    prototypes=st.integers(0, 3),
)


@settings(deadline=None, max_examples=80)
@given(policies, st.integers(0, 1000))
def test_properties_of_every_bounded_policy(policy: MemoryPolicy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    appearances = list(torch.randn((30, 3), generator=generator))
    random = torch.rand((2, 30), generator=generator).tolist()
    attention, confidence = (dict(enumerate(values)) for values in random)
    without_prototypes = replace(policy, prototypes=0)
    held = held_frames(without_prototypes, appearances, attention, confidence)
    for t, frames in enumerate(held, start=1):
        assert frames == sorted(set(frames))
        assert frames[-1] == t - 1
        assert len(frames) <= policy.max_frames
        assert not policy.first or frames[0] == 0
        assert all(f % policy.every == 0 for f in frames[:-1] if f)


def test_peak_frames_is_the_maximum_held() -> None:
    for policy in (MemoryPolicy(), MemoryPolicy(previous=False), MemoryPolicy(every=3, max_frames=4)):
        for frames in (2, 5, 6, 7, 11, 12, 13, 30):
            peak = max(map(len, held_frames(policy, frames=frames)))
            assert policy.peak_frames(frames) == peak, (policy, frames)
