"""The memory plan equals the memory that a segmenter then uses."""

import pytest
import torch
from helpers import small_networks as small

import stm
from stm.evaluation.evaluate import Benchmark
from stm.evaluation.memory_plan import plan_memory
from stm.memory import MemoryPolicy
from stm.video import ArrayVideo


def make_video(
    first_frames: dict[int, int], length: int = 17, size: tuple[int, int] = (40, 56)
) -> ArrayVideo:
    frames = small.frames(length, size).permute(0, 2, 3, 1).numpy()
    return ArrayVideo("clip", frames, small.masks(length, len(first_frames), size).numpy(), first_frames)


def measure_memory(network: stm.network.STM, policy: MemoryPolicy, video: ArrayVideo) -> tuple[int, int]:
    """Return the maximal frames and bytes in memory while the video is segmented."""
    segmenter, frames, size = stm.Segmenter(network, policy, length=len(video)), 0, 0
    for t in range(len(video)):
        segmenter.step(video.frame(t), video.prompt_mask(t))
        frames = max(frames, *map(len, segmenter.memory_frames()))
        size = max(size, segmenter.memory_bytes())
    return frames, size


@pytest.mark.parametrize("key_input", ["image", "image_mask"])
@pytest.mark.parametrize("first_frames", [{1: 0}, {1: 0, 2: 0}, {1: 0, 2: 7}])
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
def test_plan_equals_measured_memory(
    policy: MemoryPolicy, first_frames: dict[int, int], key_input: str
) -> None:
    network, video = small.network(key_input=key_input), make_video(first_frames)
    (planned,) = plan_memory(network, policy, Benchmark("test", [video]))
    assert (planned.length, planned.size, planned.objects) == (17, (40, 56), len(first_frames))
    frames, size = measure_memory(network, policy, video)
    if policy.max_mb is not None and 7 in first_frames.values():  # the first object alone may use more frames
        assert size <= 0.02 * 2**20
        assert planned.bytes <= 0.02 * 2**20
    else:
        assert (planned.frames, planned.bytes) == (frames, size)


def test_network_size_and_16_bits() -> None:
    network = small.network()
    benchmark = Benchmark("test", [make_video({1: 0})], size=20)
    (planned,) = plan_memory(network, None, benchmark)
    assert planned.size == (20, 28)
    (in_16_bits,) = plan_memory(network, None, benchmark, torch.bfloat16.itemsize)
    assert in_16_bits.bytes * 2 == planned.bytes


def test_too_little_memory_raises_with_the_video() -> None:
    with pytest.raises(ValueError, match=r"max_mb=0.001: 2 frames .*\(video clip, 40x56\)"):
        plan_memory(small.network(), MemoryPolicy(max_mb=0.001), Benchmark("test", [make_video({1: 0})]))
