"""A segmenter's memory saved, loaded, and used on another video."""

from pathlib import Path

import pytest
import torch
from helpers import small_networks as small
from helpers.small_networks import only
from helpers.started_processes import FRAMES, MASKS, POLICIES, begun, go_on

import stm
from stm.inference import Segmenter
from stm.memory import MemoryPolicy, published_policy


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("keys", ["image_mask", "image"])
def test_a_memory_loaded_goes_on_bit_by_bit(name: str, keys: str, tmp_path: Path) -> None:
    network = small.network(key_input=keys, other_objects_channel=True)
    segmenter = begun(network, POLICIES[name], 5)
    segmenter.step(FRAMES[5], only(MASKS[5], 2, 3))  # corrects one object, adds another
    segmenter.save(tmp_path / "below" / "memory.pth")
    loaded = Segmenter.load(tmp_path / "below" / "memory.pth", network)
    assert (loaded.t, loaded.object_ids, loaded.policy) == (5, [1, 2, 3], POLICIES[name])
    assert loaded.memory_frames() == segmenter.memory_frames()
    for ours, theirs in zip(go_on(loaded), go_on(segmenter), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.memory_frames() == segmenter.memory_frames()
    assert loaded.attention(1).shares == segmenter.attention(1).shares
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["memory.pth"]


@pytest.mark.parametrize("keys", ["image_mask", "image"])
def test_a_memory_goes_on_bit_by_bit_under_autocast(keys: str, tmp_path: Path) -> None:
    network = small.network(key_input=keys)
    with torch.autocast("cpu", torch.bfloat16):
        segmenter = begun(network)
        segmenter.save(tmp_path / "memory.pth")
        loaded = Segmenter.load(tmp_path / "memory.pth", network)
        for ours, theirs in zip(go_on(loaded), go_on(segmenter), strict=True):
            assert torch.equal(ours, theirs)


def test_a_sensory_and_a_long_term_memory_go_on_bit_by_bit(tmp_path: Path) -> None:
    changes = {"key_input": "image", "similarity": "anisotropic_l2", "decoder": "xmem", "sensory_channels": 4}
    network = small.network(**changes, border="mean", mask_merging="aggregate")
    bounds = {"min_mid_term_frames": 2, "max_mid_term_frames": 3, "num_prototypes": 4}
    policy = published_policy("xmem", mem_every=1, **bounds, max_long_term_elements=6)
    segmenter = begun(network, policy, 6)
    segmenter.save(tmp_path / "memory.pth")
    loaded = Segmenter.load(tmp_path / "memory.pth", network)
    for ours, theirs in zip(go_on(loaded), go_on(segmenter), strict=True):
        assert torch.equal(ours, theirs)


def test_a_memory_is_used_on_another_video_of_another_size(tmp_path: Path) -> None:
    network, policy = small.network(), MemoryPolicy(every=3)
    begun(network, policy, 6).save(tmp_path / "memory.pth")
    segmenter = Segmenter.load(tmp_path / "memory.pth", network)
    segmenter.next_video()
    assert segmenter.memory_frames() == [[0, 3]], "frame 5 was a previous one"
    for frame in small.frames(5, (48, 80), seed=9):
        assert segmenter.step(frame).shape == (3, 48, 80)
        shapes = {t: tuple(weights.shape) for t, weights in segmenter.attention(2).maps.items()}
        assert shapes == {t: (2, 3) if t <= 5 else (3, 5) for t in segmenter.memory_frames()[0]}
    assert segmenter.memory_frames() == [[0, 3, 6, 9]] and segmenter.t == 10


def test_references_of_several_sizes_are_read_as_one_memory() -> None:
    """The same as the network's own read of their cells side by side."""
    network = small.network()
    pictures = [small.frames(1, size, seed)[0] for seed, size in enumerate([(32, 48), (48, 32), (30, 30)])]
    masks = [small.masks(1, 1, tuple(p.shape[-2:]))[0].numpy() for p in pictures]
    segmenter = Segmenter(network, MemoryPolicy(previous=False, every=None))
    for picture, mask in zip(pictures, masks, strict=True):
        segmenter.step(picture, mask)
        segmenter.next_video()
    found = segmenter.step(FRAMES[0])
    with torch.no_grad():
        memories = [
            network.memorize(picture / 255, torch.from_numpy(mask == 1).float()[None])
            for picture, mask in zip(pictures, masks, strict=True)
        ]
        memory = tuple(
            torch.cat([part.flatten(2) for part in parts], -1) for parts in zip(*memories, strict=True)
        )
        expected = torch.softmax(network.segment(FRAMES[0] / 255, memory), dim=0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert segmenter.memory_frames() == [[0, 1, 2]]


def test_a_full_memory_makes_room_for_frames_of_another_size() -> None:
    policy = MemoryPolicy(every=1, max_frames=4)
    segmenter = begun(small.network(), policy, 8)
    segmenter.next_video()
    for frame in small.frames(6, (48, 80), seed=3):
        segmenter.step(frame)
    assert segmenter.memory_frames() == [[0, 10, 11, 12]]
    assert {weights.shape for weights in segmenter.attention(1).maps.values()} == {(2, 3), (3, 5)}
    assert sum(segmenter.attention(1).shares.values()) == pytest.approx(1, abs=1e-5)


def test_other_networks_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory.pth"
    begun(small.network()).save(path)
    for other, named in (
        (small.network(key_channels=4), "key channels is 8, here 4"),
        (small.network(value_channels=8), "value channels is 16"),
        (small.network(key_input="image"), "keys shared by objects is 0"),
        (small.network(read_stride=8), "read stride is 16"),
        (small.network(seed=5), "sum of key is"),
    ):
        with pytest.raises(ValueError, match=named):
            Segmenter.load(path, other)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Segmenter.load(tmp_path / "nothing.pth", small.network())
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\x80\x04cos\nsystem\n(S'true'\ntR."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            Segmenter.load(path, small.network())
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"was not written by Segmenter.save"):
        Segmenter.load(path, small.network())


def test_a_memory_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory.pth"
    begun(small.network()).save(path)
    whole = torch.load(path, weights_only=True)
    group = whole["groups"][0]
    for spoilt in (
        {"groups": []},
        {"groups": [group | {"keys": group["keys"][..., :-1]}]},
        {"groups": [group | {"metadata": group["metadata"][..., :-1]}]},
        {"groups": [group | {"values": group["values"][:, :1]}]},
        {"groups": [group | {"values": group["values"].long()}]},
        {"groups": [group | {"slots": [0, 7]}]},
        {"groups": [group | {"frames": [(0, True, True, 2, 5)]}]},
        {"policy": {"every": 0}},
        {"policy": {"evry": 1}},
        {"object_ids": [1]},
        {"pending": {"frame": torch.zeros(1, 3, 8, 8)}},
        {"pending": whole["pending"] | {"frame": torch.zeros(1, 3, 8, 8)}},
    ):
        torch.save(whole | spoilt, path)
        with pytest.raises(ValueError, match="do not fit"):
            Segmenter.load(path, small.network())
    with pytest.raises(ValueError, match="after its first frame"):
        stm.Segmenter(small.network()).save(path)
