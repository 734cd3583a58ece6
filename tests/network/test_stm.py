"""Invariances of the network: padding, objects, batches (sections 3.1-3.4)."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import small_networks as small
from torch import Tensor

import stm
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.training.loss import SegmentationLoss
from stm.video import ClipBatch

EVERY = MemoryPolicy(every=1)
VARIANTS = {
    "paper": {},
    "official": {"other_objects_channel": True, "similarity": "scaled_dot"},
    "image keys": {"key_input": "image", "similarity": "l2", "read_stride": 8},
}
variants = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())


def segment(network: STM, batch: ClipBatch) -> Tensor:
    """Compute the logits (B, T - 1, O + 1, H, W) of a batch of clips."""
    segmenter = stm.Segmenter(network, EVERY)
    segmenter.step(batch.frames[:, 0], batch.object_masks(0))
    logits = []
    for t in range(1, batch.frames.shape[1]):
        segmenter.step(batch.frames[:, t])
        assert segmenter.logits is not None
        logits.append(segmenter.logits)
    return torch.stack(logits, dim=1)


def gradients(network: STM, batch: ClipBatch) -> tuple[Tensor, list[Tensor]]:
    """Compute the loss of a batch and its gradient for each parameter."""
    network.train()
    network.zero_grad()
    logits = segment(network, batch)
    loss = torch.stack([SegmentationLoss()(logits[:, t], batch.masks[:, t + 1]) for t in range(2)]).sum()
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in network.parameters()]


@variants
@pytest.mark.parametrize("size", [(37, 50), (16, 33), (47, 48)])
def test_padding_equals_padding_by_hand(changes: dict, size: tuple[int, int]) -> None:
    """Frame and masks are padded with zeros, and the padding is cropped from the result."""
    network = small.network(**changes)
    height, width = size
    full = math.ceil(height / 16) * 16, math.ceil(width / 16) * 16
    top, left = (full[0] - height) // 2, (full[1] - width) // 2
    inside = (..., slice(top, top + height), slice(left, left + width))
    frames, masks = torch.rand(2, 3, *size), torch.rand(2, *size) / 2
    wide, wide_masks = torch.zeros(2, 3, *full), torch.zeros(2, *full)
    wide[inside], wide_masks[inside] = frames, masks
    with torch.no_grad():
        memory, wide_memory = network.memorize(frames[0], masks), network.memorize(wide[0], wide_masks)
        logits, expected = network.segment(frames[1], memory), network.segment(wide[1], wide_memory)
    for a, b in zip(memory, wide_memory, strict=True):
        assert torch.equal(a, b)
    assert logits.shape == (3, *size)
    assert torch.equal(logits, expected[inside])


def test_frames_are_normalized_once_by_imagenet_statistics() -> None:
    network = small.network()
    frame = torch.rand(1, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = (frame - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        features = network.query_encoder.trunk(normalized)
        torch.testing.assert_close(network.encode(frame).key, network.query_encoder.key(features[-1]))


@variants
@pytest.mark.parametrize("objects", [1, 2, 5, 12])
def test_any_number_of_objects(changes: dict, objects: int) -> None:
    network, batch = small.network(**changes), ClipBatch.collate([small.clip(objects)])
    with torch.no_grad():
        logits = segment(network, batch)
    assert logits.shape == (1, 2, objects + 1, 32, 48)
    assert torch.isfinite(logits).all()


@variants
def test_padded_objects_contribute_nothing(changes: dict) -> None:
    """A clip with one object, batched with one of three, has the same logits, loss and gradients as alone."""
    network = small.network(**changes)
    one, three = small.clip(1, seed=1), small.clip(3, seed=2)
    single, batch = ClipBatch.collate([one]), ClipBatch.collate([one, three])
    with torch.no_grad():
        expected, logits = segment(network, single), segment(network, batch)
    torch.testing.assert_close(logits[:1, :, :2], expected, atol=1e-4, rtol=1e-4)
    assert (logits[0, :, 2:] == -math.inf).all()
    torch.testing.assert_close(logits[1:], segment(network, ClipBatch.collate([three])), atol=1e-4, rtol=1e-4)

    losses, grads = zip(*(gradients(network, ClipBatch.collate([c])) for c in (one, three)), strict=True)
    loss, grad = gradients(network, batch)
    assert loss.item() == pytest.approx(sum(x.item() for x in losses) / 2, rel=1e-5)
    for batch_grad, first, second in zip(grad, *grads, strict=True):
        torch.testing.assert_close(batch_grad, (first + second) / 2, atol=1e-5, rtol=1e-3)


@variants
def test_permuting_objects_permutes_outputs(changes: dict) -> None:
    network, batch = small.network(**changes), ClipBatch.collate([small.clip(3)])
    order = [2, 0, 1]  # slot i of the permuted clip is object order[i] of the original
    permuted = torch.zeros_like(batch.masks)
    for slot, before in enumerate(order):
        permuted[batch.masks == before + 1] = slot + 1
    with torch.no_grad():
        logits = segment(network, batch)
        permuted_logits = segment(network, replace(batch, masks=permuted))
    expected = logits[:, :, [0, *(before + 1 for before in order)]]
    torch.testing.assert_close(permuted_logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits[:, :, 1], logits[:, :, 2], atol=1e-2), "the objects must differ"


@variants
def test_a_batch_equals_its_clips_one_by_one(changes: dict) -> None:
    network = small.network(**changes)
    clips = [small.clip(2, seed=seed) for seed in range(3)]
    with torch.no_grad():
        batched = segment(network, ClipBatch.collate(clips))
        for b, clip in enumerate(clips):
            expected = segment(network, ClipBatch.collate([clip]))
            torch.testing.assert_close(batched[b : b + 1], expected, atol=1e-4, rtol=1e-4)


@variants
def test_a_single_frame_is_a_batch_of_one(changes: dict) -> None:
    network = small.network(**changes)
    frames, masks = torch.rand(2, 3, 32, 48), torch.rand(2, 32, 48) / 2
    with torch.no_grad():
        key, value = network.memorize(frames[0], masks)
        keys, values = network.memorize(frames[:1], masks[None])
        single, batch = network.segment(frames[1], (key, value)), network.segment(frames[1:], (keys, values))
    assert torch.equal(key, keys[0])
    assert torch.equal(value, values[0])
    assert torch.equal(single, batch[0])


@variants
def test_a_reused_query_does_not_change_the_result(changes: dict) -> None:
    network = small.network(**changes)
    frame, masks = torch.rand(1, 3, 32, 48), torch.rand(1, 2, 32, 48) / 2
    with torch.no_grad():
        query = network.encode(frame)
        memory, reused = network.memorize(frame, masks), network.memorize(frame, masks, query)
        logits = network.segment(frame, memory, query=query)
    assert all(torch.equal(a, b) for a, b in zip(memory, reused, strict=True))
    assert torch.equal(logits, network.segment(frame, memory))


@variants
def test_the_order_of_memory_frames_does_not_matter(changes: dict) -> None:
    """The softmax runs over a set of cells, without assuming temporal smoothness (section 3.5)."""
    network = small.network(**changes)
    frames, masks = torch.rand(3, 3, 32, 48), torch.rand(2, 2, 32, 48) / 2
    with torch.no_grad():
        memories = [network.memorize(frames[t], masks[t]) for t in range(2)]
        logits = [
            network.segment(frames[2], (torch.stack(keys, dim=2), torch.stack(values, dim=2)))
            for keys, values in (zip(*memories, strict=True), zip(*memories[::-1], strict=True))
        ]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_groups_with_separate_memories_are_aggregated() -> None:
    """Each group reads its own memory frames; soft aggregation then covers all objects."""
    network = small.network()
    frames, masks = torch.rand(3, 3, 32, 48), torch.rand(2, 2, 32, 48) / 2
    with torch.no_grad():
        (k0, v0), (k1, v1) = (network.memorize(frames[t], masks[t]) for t in range(2))
        first = torch.stack([k0[:1], k1[:1]], dim=2), torch.stack([v0[:1], v1[:1]], dim=2)
        second = k1[1:], v1[1:]
        logits = network.segment(frames[2], [first, second])
        both = network.segment(frames[2], [second, first])
    torch.testing.assert_close(both, logits[[0, 2, 1]], atol=1e-5, rtol=1e-5)
    odds = torch.exp(logits)
    p = odds / (1 + odds)
    torch.testing.assert_close(p[0], (1 - p[1]) * (1 - p[2]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"similarity": "cosine"}, "similarity=cosine: .*l2"),
        ({"key_input": "mask"}, "key_input=mask: .*image_mask, image"),
        ({"key_input": "image", "tie_encoders": True}, "tie_encoders=true"),
        ({"memory_backbone": "tiny", "tie_encoders": True}, "tie_encoders=true"),
        ({"memory_backbone": "resnet"}, "backbone=resnet: "),
    ],
)
def test_invalid_settings_raise(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small.network(**settings)
