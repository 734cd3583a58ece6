"""Long-term memory: which frames and cells a bank holds, against a plain reference of XMem's memory."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers.plain_xmem_memory import GroupMemory, Settings, Store
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stm.memory import MemoryBank, MemoryPolicy, published_policy
from stm.network.memory_read import activate_key, potentiate, read_memory

KIND, CHANNELS, CELLS = "anisotropic_l2", 4, (2, 3)
POTENTIATE = partial(potentiate, kind=KIND)


def random_key(generator: torch.Generator) -> Tensor:
    return activate_key(torch.randn((1, 2 * CHANNELS + 1, *CELLS), generator=generator), KIND)[:, None]


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(2, 40),
    minimum=st.integers(2, 4),
    more=st.integers(1, 4),
    prototypes=st.integers(1, 9),
    room=st.integers(0, 12),
    seed=st.integers(0, 100),
)
def test_a_bank_holds_what_a_plain_reference_holds(
    frames: int, minimum: int, more: int, prototypes: int, room: int, seed: int
) -> None:
    names = {
        "mem_every": 1,
        "top_k": 3,
        "min_mid_term_frames": minimum,
        "max_mid_term_frames": minimum + more,
        "num_prototypes": prototypes,
        "max_long_term_elements": prototypes + room,
    }
    policy = published_policy("xmem", **names)
    bank, plain = MemoryBank(policy, potentiate=POTENTIATE), GroupMemory(slice(0, 2), Settings(**names))
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand((1, 2, 8, 12), generator=generator)
    for t in range(frames):
        key = random_key(generator)
        value = torch.randn((1, 2, 5, *CELLS), generator=generator)
        parts = key[0].flatten(2).split([CHANNELS, 1, CHANNELS], dim=1)
        plain.write(Store.new(*parts, value[0].flatten(2)))
        assert bank.write(t, key, value, t == 0, masks)
        query = random_key(generator)[:, 0].flatten(2)
        keys, values = bank.read()
        mass = torch.zeros((1, 1, keys.shape[-1]))
        read = read_memory(keys, values, query, KIND, policy.top_k, mass)
        bank.update_usage(mass)
        expected = plain.read(query[:, :CHANNELS], query[:, CHANNELS + 1 :])
        torch.testing.assert_close(read[0], expected, atol=1e-4, rtol=1e-4)
        assert plain.work is not None
        long = 0 if plain.long is None else len(plain.long)
        assert (keys.shape[-1], len(bank.frames)) == (long + len(plain.work), len(plain.work) // 6)
        assert long <= prototypes + room
        assert len(bank.frames) <= policy.peak_frames(frames + 1)
        assert long <= policy.peak_prototypes(frames + 1)


def held(policy: MemoryPolicy, frames: int, given: tuple[int, ...] = (0,)) -> list[list[int]]:
    """Return the frames held while frame 1, 2, ... is segmented."""
    bank, result, generator = MemoryBank(policy, potentiate=POTENTIATE), [], torch.Generator().manual_seed(0)
    for t in range(frames - 1):
        if bank.should_write(t, t in given):
            key, value = random_key(generator), torch.randn((1, 2, 5, *CELLS), generator=generator)
            bank.write(t, key, value, t in given, torch.rand((1, 2, 8, 12), generator=generator))
        result.append(bank.frames)
    return result


def test_frames_of_working_memory_by_hand() -> None:
    policy = published_policy("xmem", mem_every=2, min_mid_term_frames=2, max_mid_term_frames=4)
    twice = [[0], [0, 2], [0, 2, 4], [0, 6], [0, 6, 8], [0, 10]]  # at 6 and 10, all but two leave
    assert held(policy, 14) == [frames for frames in twice for _ in range(2)] + [[0, 10, 12]]


def test_frames_are_counted_from_the_last_one_kept() -> None:
    policy = MemoryPolicy(previous=False, every=3, every_from="last")
    assert held(policy, 9, given=(0, 2))[-1] == [0, 2, 5]
    previous = MemoryPolicy(previous=True, every=3, every_from="last")
    expected = [[0], [0, 1], [0, 2], [0, 2, 3], [0, 2, 4], [0, 2, 5], [0, 2, 5, 6], [0, 2, 5, 7]]
    assert held(previous, 9, given=(0, 2)) == expected


def test_long_term_memory_needs_a_single_video_and_no_gradients() -> None:
    policy = published_policy("xmem", mem_every=1, min_mid_term_frames=2, max_mid_term_frames=3)
    bank = MemoryBank(policy, potentiate=POTENTIATE)
    with pytest.raises(ValueError, match="requires the masks of a single video"):
        bank.write(0, torch.zeros(2, 1, 9, 2, 3), torch.zeros(2, 1, 5, 2, 3), True, torch.zeros(2, 1, 8, 12))
    key, value, masks = torch.rand(1, 1, 9, 2, 3), torch.rand(1, 2, 5, 2, 3), torch.zeros(1, 2, 8, 12)
    with pytest.raises(ValueError, match=r"memory\.long_term: must be null while gradients flow"):
        for t in range(3):
            bank.write(t, key.clone().requires_grad_(), value, t == 0, masks)


def test_a_memory_with_prototypes_is_restored_bit_by_bit() -> None:
    policy = published_policy("xmem", mem_every=1, min_mid_term_frames=2, max_mid_term_frames=4)
    bank, generator = MemoryBank(policy, potentiate=POTENTIATE), torch.Generator().manual_seed(0)
    for t in range(9):
        key, value = random_key(generator), torch.randn((1, 2, 5, *CELLS), generator=generator)
        bank.write(t, key, value, t == 0, torch.rand((1, 2, 8, 12), generator=generator))
    restored = MemoryBank.from_state(bank.state(), policy, None, POTENTIATE)
    assert restored.frames == bank.frames
    for ours, theirs in zip(restored.read(), bank.read(), strict=True):
        assert torch.equal(ours, theirs)
