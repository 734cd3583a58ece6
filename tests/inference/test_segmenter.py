"""The one way a frame goes through the model: with gradients and without, single and in batches."""

import weakref

import numpy as np
import pytest
import torch
from helpers import small_networks as small
from torch import Tensor

import stm
from stm.masks import relabel
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.video import VOID, ClipBatch

EVERY = MemoryPolicy(every=1)


def run(network: STM, frames: list, masks: dict[int, object], policy: MemoryPolicy = EVERY) -> list[Tensor]:
    """Probabilities of each frame; `masks` are those given, by frame."""
    segmenter = stm.Segmenter(network, policy)
    return [segmenter.step(frame, masks.get(t)) for t, frame in enumerate(frames)]


@pytest.mark.parametrize("norm", ["group", "frozen"])
@pytest.mark.parametrize("keys", ["image_mask", "image"])
def test_training_is_inference_with_gradients(norm: str, keys: str) -> None:
    """Section 3.5: a batch in training mode and each video alone in eval mode give the same logits."""
    network = small.network(norm=norm, key_input=keys, other_objects_channel=True)
    clips = [small.clip(2, count=4, seed=1), small.clip(1, count=4, seed=2)]
    batch = ClipBatch.collate(clips)

    network.train()
    training = stm.Segmenter(network, EVERY)
    training.step(batch.frames[:, 0], batch.object_masks(0))
    trained = []
    for t in range(1, 4):
        training.step(batch.frames[:, t])
        assert training.logits is not None
        assert training.logits.requires_grad
        trained.append(training.logits.detach())

    network.eval()
    for b, clip in enumerate(clips):
        inference = stm.Segmenter(network, EVERY)
        inference.step(clip.frames[0].permute(1, 2, 0).numpy(), clip.masks[0].numpy())
        for t in range(1, 4):
            inference.step(clip.frames[t].permute(1, 2, 0).numpy())
            assert inference.logits is not None
            assert not inference.logits.requires_grad
            expected = trained[t - 1][b : b + 1, : clip.objects + 1]
            torch.testing.assert_close(inference.logits, expected, atol=1e-4, rtol=1e-4)


def test_a_batch_is_its_videos_one_by_one() -> None:
    network = small.network()
    clips = [small.clip(3, count=6, seed=seed) for seed in range(2)]
    batch = ClipBatch.collate(clips)
    policy = MemoryPolicy(every=2)
    together = run(network, [batch.frames[:, t] for t in range(6)], {0: batch.object_masks(0)}, policy)
    for b, clip in enumerate(clips):
        alone = run(network, list(clip.frames), {0: clip.masks[0]}, policy)
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[b], theirs, atol=1e-4, rtol=1e-4)


def test_object_ids_with_gaps_and_above_10_come_back() -> None:
    network, frames = small.network(), small.frames(3)
    plain = small.masks(1, 3)[0].numpy()
    ids = np.array([0, 3, 17, 200], dtype=np.uint8)[plain]
    segmenter, reference = stm.Segmenter(network), stm.Segmenter(network)
    for t, frame in enumerate(frames):
        probabilities = segmenter.step(frame, ids if t == 0 else None)
        expected = reference.step(frame, plain if t == 0 else None)
        assert torch.equal(probabilities, expected)
        labels = segmenter.labels(probabilities)
        assert labels.dtype == np.uint8
        assert set(np.unique(labels)) <= {0, 3, 17, 200}
        assert np.array_equal(relabel(labels, [3, 17, 200]), reference.labels(expected))
        if t == 0:
            assert np.array_equal(labels, ids)
    assert segmenter.object_ids == [3, 17, 200]


def test_probabilities_are_probabilities() -> None:
    for p in run(small.network(), list(small.frames(4)), {0: small.masks(1, 2)[0]}):
        assert p.shape == (3, 32, 48)
        assert p.dtype == torch.float32
        assert p.min() >= 0
        torch.testing.assert_close(p.sum(0), torch.ones(32, 48))


def test_void_is_background_and_no_object() -> None:
    frames, mask = small.frames(2), small.masks(1, 2)[0]
    void = mask.clone()
    void[:4] = VOID
    segmenter = stm.Segmenter(small.network())
    first = segmenter.step(frames[0], void)
    assert segmenter.object_ids == [1, 2]
    assert (first[0, :4] == 1).all()
    assert torch.equal(segmenter.step(frames[1]), run(small.network(), list(frames), {0: mask})[1])


def test_new_objects_enter_and_leave_the_others_their_prediction() -> None:
    """Frame 3 brings object 9 with its mask; object 2 has its prediction elsewhere, and keeps its memory."""
    network, frames = small.network(), small.frames(6)
    masks = small.masks(6, 2).numpy()
    first = np.where(masks[0] == 1, 2, 0).astype(np.uint8)
    entering = np.where(masks[3] == 2, 9, 0).astype(np.uint8)
    without = run(network, list(frames), {0: first})
    segmenter = stm.Segmenter(network, EVERY)
    shown = [segmenter.step(frame, {0: first, 3: entering}.get(t)) for t, frame in enumerate(frames)]
    for t in range(3):
        assert torch.equal(shown[t], without[t])
    inside = torch.from_numpy(entering == 9)
    assert segmenter.object_ids == [2, 9]
    assert torch.equal(shown[3][2], inside.float())
    torch.testing.assert_close(shown[3][1], without[3][1] * ~inside)
    torch.testing.assert_close(shown[3].sum(0), torch.ones(32, 48))
    assert shown[4].shape == shown[5].shape == (3, 32, 48)
    assert segmenter.memory_frames() == [[0, 1, 2, 3, 4], [3, 4]]


def test_a_late_object_alone_is_a_video_that_begins_there() -> None:
    """What another object did before does not reach it (no channel for the others in this network)."""
    network, frames = small.network(), small.frames(6)
    masks = small.masks(6, 2).numpy()
    late = np.where(masks[3] == 2, 2, 0).astype(np.uint8)
    segmenter = stm.Segmenter(network, MemoryPolicy(first=True, previous=False, every=None))
    for t, frame in enumerate(frames):
        segmenter.step(frame, {0: np.where(masks[0] == 1, 1, 0), 3: late}.get(t))
    alone = stm.Segmenter(network, MemoryPolicy(first=True, previous=False, every=None))
    for frame in frames[3:]:
        alone.step(frame, late if alone.t < 0 else None)
    assert segmenter.logits is not None
    assert alone.logits is not None
    torch.testing.assert_close(segmenter.logits[:, 2], alone.logits[:, 1], atol=1e-4, rtol=1e-4)


def test_a_correction_replaces_the_objects_prediction_and_is_remembered() -> None:
    network, frames = small.network(), small.frames(6)
    masks = small.masks(6, 2).numpy()
    correction = np.where(masks[3] == 2, 2, 0).astype(np.uint8)
    policy = MemoryPolicy(every=None)
    without = run(network, list(frames), {0: masks[0]}, policy)
    segmenter = stm.Segmenter(network, policy)
    shown = [segmenter.step(frame, {0: masks[0], 3: correction}.get(t)) for t, frame in enumerate(frames)]
    inside = torch.from_numpy(correction == 2)
    assert segmenter.object_ids == [1, 2]
    assert torch.equal(shown[3][2], inside.float())
    torch.testing.assert_close(shown[3][1], without[3][1] * ~inside)
    assert segmenter.memory_frames() == [[0, 3, 4], [0, 4]], "it stays for object 2 alone"
    assert not torch.allclose(shown[5], without[5], atol=1e-4), "the correction is read later"


def test_an_empty_mask_later_on_changes_nothing() -> None:
    network, frames, mask = small.network(), list(small.frames(4)), small.masks(1, 2)[0]
    expected = run(network, frames, {0: mask})
    shown = run(network, frames, {0: mask, 2: torch.zeros_like(mask)})
    for ours, theirs in zip(shown, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_graph_is_kept_in_eval_mode() -> None:
    network, frames, mask = small.network(), small.frames(4), small.masks(1, 2)[0]
    assert all(p.requires_grad for p in network.parameters())
    assert torch.is_grad_enabled()
    segmenter = stm.Segmenter(network, EVERY)
    for t, frame in enumerate(frames):
        assert not segmenter.step(frame, mask if t == 0 else None).requires_grad
    assert segmenter.logits is not None
    assert not segmenter.logits.requires_grad
    assert torch.is_grad_enabled()
    network.train()
    with torch.no_grad():
        assert not run(network, list(frames), {0: mask})[-1].requires_grad


@pytest.mark.parametrize("keys", ["image_mask", "image"])
def test_the_encoders_finer_maps_do_not_outlive_their_frame(keys: str) -> None:
    """At strides 4 and 8 they are larger than all else together, and only its own decoding needs them."""
    network, maps = small.network(key_input=keys), list[weakref.ref[Tensor]]()
    network.query_encoder.trunk.register_forward_hook(lambda _, __, made: maps.extend(map(weakref.ref, made)))
    segmenter, mask = stm.Segmenter(network, EVERY), small.masks(1, 2)[0]
    for t, frame in enumerate(small.frames(3)):
        segmenter.step(frame, None if t else mask)
        assert len(maps) == 3 * (t + 1)
        assert [made() is not None for made in maps] == [False] * (3 * t + 2) + [True], "strides 4, 8, 16"


@pytest.mark.parametrize("keys", ["image_mask", "image"])
def test_gradients_reach_the_memory_through_the_predicted_mask(keys: str) -> None:
    """Dynamic memory: what was predicted for B, unthresholded, is part of what C is segmented from."""
    network, batch = small.network(key_input=keys).train(), ClipBatch.collate([small.clip(2)])

    def gradient_of_c(cut: bool) -> tuple[Tensor | None, Tensor]:
        network.zero_grad()
        segmenter = stm.Segmenter(network, EVERY)
        segmenter.step(batch.frames[:, 0], batch.object_masks(0))
        of_b = segmenter.step(batch.frames[:, 1])
        of_b.retain_grad()
        if cut:
            plain = network.memorize
            network.memorize = lambda frame, masks, query: plain(frame, masks.detach(), query)  # type: ignore[method-assign]
        try:
            segmenter.step(batch.frames[:, 2])
        finally:
            network.__dict__.pop("memorize", None)
        assert segmenter.logits is not None
        torch.nn.functional.cross_entropy(segmenter.logits, batch.masks[:, 2].long()).backward()
        return of_b.grad, network.memory_encoder.mask_stem.weight.grad.clone()

    through_b, flowing = gradient_of_c(cut=False)
    assert through_b is not None
    assert (through_b[:, 1:] != 0).any(), "B's mask takes part in the loss of C"
    not_through_b, stopped = gradient_of_c(cut=True)
    assert not_through_b is None
    assert not torch.allclose(flowing, stopped, rtol=1e-3, atol=0)


def test_the_loss_of_c_moves_with_the_prediction_of_b() -> None:
    """The gradient above is the slope that a finite difference finds in its direction."""
    network, clip = small.network().train().double(), small.clip(1)
    frames = clip.frames.double() / 255
    mask = (clip.masks[0] == 1).double()[None]
    with torch.no_grad():
        memory_a = network.memorize(frames[0], mask)
        of_b = torch.softmax(network.segment(frames[1], memory_a), dim=0)[1:].double()

    def loss_of_c(masks: Tensor) -> Tensor:
        memory_b = network.memorize(frames[1], masks)
        memory = tuple(torch.stack(pair, dim=2) for pair in zip(memory_a, memory_b, strict=True))
        return network.segment(frames[2], memory)[1].double().mean()

    of_b.requires_grad_()
    loss_of_c(of_b).backward()
    slope = of_b.grad.norm()
    step = 1e-2 * of_b.grad / slope
    with torch.no_grad():
        difference = loss_of_c(of_b + step) - loss_of_c(of_b - step)
    assert float(difference) / 2e-2 == pytest.approx(float(slope), rel=0.02)


def test_arguments_by_position_are_network_memory_and_size() -> None:
    segmenter = stm.Segmenter(small.network(), EVERY, 48)
    assert (segmenter.policy, segmenter.size) == (EVERY, 48)
