"""Memory policies in a segmenter: every file, limits in MB, batches, invalid values, names."""

import hydra
import pytest
import torch
from helpers import small_networks as small

import stm
from stm.config.memory_policies import parse_policy, policy_names
from stm.config.schema import CONF
from stm.memory import MemoryPolicy


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "memory").glob("*.yaml")))
def test_every_file_segments_a_video_with_a_late_object(name: str) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        policy = hydra.utils.instantiate(hydra.compose("evaluate", [f"memory={name}"]).memory)
    frames, masks = small.frames(14, (32, 32)), small.masks(14, 2, (32, 32)).numpy()
    segmenter = stm.Segmenter(small.network(key_input="image"), policy, length=14)
    for t, frame in enumerate(frames):
        mask = {0: masks[0] * (masks[0] == 1), 6: masks[6] * (masks[6] == 2)}.get(t)
        probabilities = segmenter.step(frame, mask)
        assert torch.isfinite(probabilities).all()
        torch.testing.assert_close(probabilities.sum(0), torch.ones(32, 32))
    assert segmenter.object_ids == [1, 2]


@pytest.mark.parametrize("keys", ["image", "image_mask"])
def test_max_mb_limits_the_memory_of_all_objects(keys: str) -> None:
    """Each of 2x3 cells has 8 key and 16 value channels per object; the second object enters at frame 8."""
    frames, masks = small.frames(20), small.masks(20, 2).numpy()
    network, lengths = small.network(key_input=keys), []
    object_bytes = 6 * (8 + 16) * 4
    segmenter = stm.Segmenter(network, MemoryPolicy(every=1, max_mb=5.5 * object_bytes / 2**20))
    for t, frame in enumerate(frames):
        segmenter.step(frame, {0: masks[0] * (masks[0] == 1), 8: masks[8] * (masks[8] == 2)}.get(t))
        lengths.append([len(group) for group in segmenter.memory_frames()])
        assert segmenter.memory_bytes() <= 5.5 * object_bytes
    assert lengths[7] == [5]
    assert lengths[-1] == [2, 2]
    with pytest.raises(ValueError, match=r"memory.max_mb=0.001: 2 frames .* need 0.0 MB"):
        tight = stm.Segmenter(network, MemoryPolicy(every=1, max_mb=0.001))
        tight.step(frames[0], masks[0])
        tight.step(frames[1])


@pytest.mark.parametrize(
    "sizes", [[(64, 96), (32, 48)], [(32, 48), (64, 96)]], ids=["large first", "small first"]
)
def test_max_mb_limits_frames_of_different_sizes(sizes: list[tuple[int, int]]) -> None:
    """A frame of 32x48 has 6 cells, one of 64x96 has 24; the limit is just above three large ones."""
    cap = 3.2 * 24 * (8 + 16) * 4
    policy = MemoryPolicy(every=1, previous=False, max_mb=cap / 2**20)
    segmenter, lengths = stm.Segmenter(small.network(), policy), []
    for size in sizes:
        for t, frame in enumerate(small.frames(6, size)):
            segmenter.step(frame, small.masks(1, 1, size)[0] if t == 0 else None)
            assert segmenter.memory_bytes() <= cap
        segmenter.next_video()
        lengths.append(len(segmenter.memory_frames()[0]))
        assert segmenter.memory_bytes() <= cap
    assert lengths == [3, 3] or lengths[0] > 3 == lengths[1]


def test_policy_that_depends_on_the_video_rejects_batches() -> None:
    segmenter = stm.Segmenter(small.network(), MemoryPolicy(min_novelty=0.1))
    segmenter.step(small.frames(2), small.channels(small.masks(1, 2)[0], 2)[None].expand(2, -1, -1, -1))
    with pytest.raises(
        ValueError,
        match=r"memory \(min_novelty=0.1\): requires the masks of a single video; got a batch of 2",
    ):
        segmenter.step(small.frames(2))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"num_uniform": 5}, "memory.num_uniform=5: must be null with memory.every=5"),
        ({"every": None, "num_uniform": 0}, "memory.num_uniform=0: must be at least 1"),
        ({"top_k": 0}, "memory.top_k=0: must be at least 1"),
        ({"min_confidence": 1.5}, r"memory.min_confidence=1.5: must be in 0..1"),
        ({"min_novelty": -1}, r"memory.min_novelty=-1: must be in 0..2"),
        ({"max_frames": 1}, "memory.max_frames=1: must be at least 2"),
        ({"motion_sigma": 0}, "memory.motion_sigma=0: must be above 0"),
        ({"max_mb": 0}, "memory.max_mb=0: must be above 0"),
        (
            {"eviction": "youngest", "max_frames": 5},
            "memory.eviction=youngest: must be one of oldest, least_used",
        ),
        ({"prototypes": 9}, "memory.prototypes=9: .* needs max_frames or max_mb"),
    ],
)
def test_invalid_values_are_named(values: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MemoryPolicy(**values)


def test_policies_by_name_match_the_files() -> None:
    assert {"first", "every_5", "diverse", "prototypes"} <= set(policy_names())
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for name in policy_names():
            values = dict(hydra.compose("evaluate", [f"memory={name}", "checkpoint=x"]).memory)
            values.pop("_target_")
            assert parse_policy(name) == MemoryPolicy(**values)
    changed = parse_policy("diverse, top_k=20,every=null, num_uniform=4,decay=1,max_mb=3")
    assert changed == MemoryPolicy(
        every=None, num_uniform=4, max_frames=6, eviction="most_similar", top_k=20, decay=1, max_mb=3
    )
