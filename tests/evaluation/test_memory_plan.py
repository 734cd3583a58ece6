"""What the plan tells is what the memory then holds."""

import pytest
import torch
from helpers import small_networks as small

import stm
from stm.evaluation.evaluate import Benchmark
from stm.evaluation.memory_plan import plan_memory
from stm.memory import MemoryPolicy
from stm.video import ArrayVideo


def video(entries: dict[int, int], length: int = 17, size: tuple[int, int] = (40, 56)) -> ArrayVideo:
    frames = small.frames(length, size).permute(0, 2, 3, 1).numpy()
    return ArrayVideo("clip", frames, small.masks(length, len(entries), size).numpy(), entries)


def held(network: stm.network.STM, policy: MemoryPolicy, one: ArrayVideo) -> tuple[int, int]:
    """Frames and bytes that the memory has at most while the video is segmented."""
    segmenter, frames, taken = stm.Segmenter(network, policy, len(one)), 0, 0
    for t in range(len(one)):
        segmenter.step(one.frame(t), one.prompt_mask(t))
        frames = max(frames, *map(len, segmenter.memory_frames()))
        taken = max(taken, segmenter.memory_bytes())
    return frames, taken


@pytest.mark.parametrize("keys", ["image", "image_mask"])
@pytest.mark.parametrize("entries", [{1: 0}, {1: 0, 2: 0}, {1: 0, 2: 7}])
@pytest.mark.parametrize(
    "policy",
    [
        MemoryPolicy(),
        MemoryPolicy(previous=False, every=2),
        MemoryPolicy(every=None, num_uniform=4),
        MemoryPolicy(every=1, max_frames=5),
        MemoryPolicy(every=1, max_mb=0.02),
    ],
    ids=str,
)
def test_as_planned(policy: MemoryPolicy, entries: dict[int, int], keys: str) -> None:
    network, one = small.network(key_input=keys), video(entries)
    (planned,) = plan_memory(network, policy, Benchmark("test", [one]))
    assert (planned.length, planned.size, planned.objects) == (17, (40, 56), len(entries))
    frames, taken = held(network, policy, one)
    if policy.max_mb is not None and 7 in entries.values():  # alone, the first object had room for more
        assert taken <= 0.02 * 2**20
        assert planned.bytes <= 0.02 * 2**20
    else:
        assert (planned.frames, planned.bytes) == (frames, taken)


def test_the_size_is_the_networks_and_16_bits_take_half() -> None:
    network, one = small.network(), video({1: 0})
    benchmark = Benchmark("test", [one], size=20)
    (planned,) = plan_memory(network, None, benchmark)
    assert planned.size == (20, 28)
    (in_16_bits,) = plan_memory(network, None, benchmark, torch.bfloat16.itemsize)
    assert in_16_bits.bytes * 2 == planned.bytes


def test_no_room_names_the_video() -> None:
    with pytest.raises(ValueError, match=r"max_mb=0.001: 2 frames .* as clip has them \(40x56\)"):
        plan_memory(small.network(), MemoryPolicy(max_mb=0.001), Benchmark("test", [video({1: 0})]))
