"""Every switch of the network trains and runs through the segmenter."""

from typing import Any

import pytest
import torch
from helpers import small_networks as small
from torch import nn

import stm
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.training.loss import SegmentationLoss
from stm.video import ClipBatch

SWITCHES: dict[str, dict[str, Any]] = {
    "paper": {},
    "others": {"other_objects_channel": True},
    "scaled dot": {"similarity": "scaled_dot"},
    "l2": {"similarity": "l2"},
    "image keys": {"key_input": "image"},
    "image keys, l2, stride 8": {"key_input": "image", "similarity": "l2", "read_stride": 8},
    "image keys, others": {"key_input": "image", "other_objects_channel": True},
    "stride 8": {"read_stride": 8},
    "tie_encoders": {"tie_encoders": True, "other_objects_channel": True, "mask_gain": 3.0},
    "light memory encoder": {"backbone": "tiny", "memory_backbone": "micro"},
    "light memory encoder, image keys": {
        "backbone": "tiny",
        "memory_backbone": "micro",
        "key_input": "image",
    },
    "frozen norm": {"norm": "frozen"},
    "resnet18": {"backbone": "resnet18", "norm": "frozen"},
    "mobilenet memory": {"memory_backbone": "mobilenet_v3_large"},
}
switches = pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES.keys())


def loss_of(network: STM, batch: ClipBatch) -> torch.Tensor:
    segmenter = stm.Segmenter(network, MemoryPolicy(every=1))
    segmenter.step(batch.frames[:, 0], batch.object_masks(0))
    losses = []
    for t in (1, 2):
        segmenter.step(batch.frames[:, t])
        assert segmenter.logits is not None
        losses.append(SegmentationLoss()(segmenter.logits, batch.masks[:, t]))
    return torch.stack(losses).sum()


def train(network: STM, batch: ClipBatch, steps: int, rate: float = 2e-3) -> list[float]:
    """Return the losses before each step on one batch, and after the last."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(network, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, loss_of(network, batch).item()]


@switches
def test_every_parameter_trains(changes: dict[str, Any]) -> None:
    network = small.network(**changes).train()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    batch = ClipBatch.collate([small.clip(2, seed=1), small.clip(1, seed=2)])
    train(network, batch, steps=1)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name
        assert not torch.equal(parameter, before[name]), name


@switches
def test_a_few_steps_lower_the_loss(changes: dict[str, Any]) -> None:
    batch = ClipBatch.collate([small.clip(2, size=(32, 32))])
    rate = 1e-4 if changes.get("backbone") == "resnet18" else 2e-3
    losses = train(small.network(**changes), batch, steps=8, rate=rate)
    assert losses[-1] < 0.9 * losses[0]


@switches
def test_every_switch_runs_through_the_segmenter(changes: dict[str, Any]) -> None:
    network, frames = small.network(**changes), small.frames(5, (30, 44))
    masks = small.masks(5, 2, (30, 44)).numpy()
    segmenter = stm.Segmenter(network, MemoryPolicy(every=2))
    for t, frame in enumerate(frames):  # object 1 from frame 0 on, object 2 from frame 2 on
        mask = {0: masks[0] * (masks[0] == 1), 2: masks[2] * (masks[2] == 2)}.get(t)
        probabilities = segmenter.step(frame, mask)
        assert probabilities.shape == (2 if t < 2 else 3, 30, 44)
        assert torch.isfinite(probabilities).all()
        torch.testing.assert_close(probabilities.sum(0), torch.ones(30, 44))
    assert segmenter.memory_frames() == [[0, 2, 3], [2, 3]]


OTHER = {
    "similarity": "l2",
    "key_input": "image",
    "read_stride": 8,
    "memory_backbone": "tiny",
    "tie_encoders": True,
}


@pytest.mark.parametrize(
    ("name", "value"), [*OTHER.items(), ("other_objects_channel", True), ("mask_gain", 3.0)]
)
def test_a_switch_changes_the_result(name: str, value: Any) -> None:
    """A switch without any effect would pass every other test."""
    frame, masks = torch.rand(3, 32, 32), torch.rand(2, 32, 32) / 2
    with torch.no_grad():
        first, second = (
            network.segment(frame, network.memorize(frame, masks))
            for network in (small.network(), small.network(**{name: value}))
        )
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_memory_has_the_read_stride() -> None:
    frame, masks = torch.rand(3, 48, 80), torch.rand(2, 48, 80) / 2
    for stride in (16, 8):
        key, value = small.network(read_stride=stride).memorize(frame, masks)
        assert key.shape == (2, 8, 48 // stride, 80 // stride)
        assert value.shape == (2, 16, 48 // stride, 80 // stride)


def test_image_keys_are_those_of_the_query_and_shared() -> None:
    network = small.network(key_input="image")
    frame = torch.rand(1, 3, 32, 48)
    key, value = network.memorize(frame, torch.rand(1, 3, 32, 48) / 3)
    other_key, other_value = network.memorize(frame, torch.zeros(1, 3, 32, 48))
    assert key.shape == (1, 1, 8, 2, 3)
    assert torch.equal(key[:, 0], network.encode(frame).key)
    assert torch.equal(key, other_key)
    assert not torch.equal(value, other_value)


def test_image_mask_keys_depend_on_the_mask() -> None:
    network, frame = small.network(), torch.rand(3, 32, 48)
    key, _ = network.memorize(frame, torch.stack([torch.zeros(32, 48), torch.ones(32, 48)]))
    assert not torch.allclose(key[0], key[1], atol=1e-2)


@pytest.mark.parametrize("others", [False, True])
def test_only_the_others_channel_sees_other_objects(others: bool) -> None:
    network, frame = small.network(other_objects_channel=others), torch.rand(3, 32, 48)
    masks = torch.rand(2, 32, 48) / 2
    both, single = network.memorize(frame, masks)[1], network.memorize(frame, masks[:1])[1]
    assert torch.allclose(both[:1], single, atol=1e-5) != others


def test_the_others_are_clamped_to_one() -> None:
    """To the fourth object, three overlapping masks of 0.7 count as one of 1."""
    network, frame, shape = small.network(other_objects_channel=True), torch.rand(3, 32, 48), (1, 32, 48)
    several = torch.cat([torch.full(shape, 0.5), torch.full(shape, 0.7).expand(3, -1, -1)])
    single = torch.cat([torch.full(shape, 0.5), torch.ones(shape)])
    with torch.no_grad():
        torch.testing.assert_close(
            network.memorize(frame, several)[1][0], network.memorize(frame, single)[1][0]
        )


def key_distance(network: STM) -> float:
    """Return the maximum difference between memory key (with an empty mask) and query key of a frame."""
    frame = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        key, _ = network.memorize(frame, torch.zeros(1, 32, 48))
        return float((key - network.encode(frame).key).abs().max())


def test_tied_encoders_start_equal_and_diverge_in_training() -> None:
    assert key_distance(small.network(tie_encoders=False)) > 0.1
    network = small.network(tie_encoders=True)
    assert key_distance(network) < 1e-5
    trunks = network.query_encoder.trunk, network.memory_encoder.trunk
    for query, memory in zip(*(trunk.parameters() for trunk in trunks), strict=True):
        assert torch.equal(query, memory)
        assert query.data_ptr() != memory.data_ptr()
    train(network, ClipBatch.collate([small.clip(2)]), steps=1)
    assert key_distance(network) > 1e-4


def test_mask_gain_scales_the_mask_filters() -> None:
    plain, scaled = small.network().memory_encoder, small.network(mask_gain=3.0).memory_encoder
    torch.testing.assert_close(scaled.mask_stem.weight, 3 * plain.mask_stem.weight)
    assert torch.equal(scaled.trunk.stem.weight, plain.trunk.stem.weight)


def test_the_widths_of_the_paper() -> None:
    """C = 1024 for resnet50: keys of C / 8, values of C / 2, a decoder of 256 and 2 (3.1 and 3.3)."""
    network = STM()
    assert network.query_encoder.trunk.channels == (256, 512, 1024)
    frame = torch.rand(3, 32, 32)
    with torch.no_grad():
        key, value = network.eval().memorize(frame, torch.rand(1, 32, 32))
    assert (key.shape, value.shape) == ((1, 128, 2, 2), (1, 512, 2, 2))
    outputs = {layer.out_channels for layer in network.decoder.modules() if isinstance(layer, nn.Conv2d)}
    assert outputs == {256, 2}
    kernels = {layer.kernel_size for layer in network.decoder.modules() if isinstance(layer, nn.Conv2d)}
    assert kernels == {(3, 3)}
    assert network.similarity == "dot"
    assert network.memory_encoder.others_stem is None


@pytest.mark.parametrize(
    "changes", [{}, {"key_input": "image", "similarity": "l2", "norm": "frozen"}], ids=["paper", "l2"]
)
def test_mixed_precision_trains(changes: dict[str, Any]) -> None:
    """Training in bfloat16 changes the loss slightly; loss and gradients stay float32 and finite."""
    network, batch = small.network(**changes).train(), ClipBatch.collate([small.clip(2), small.clip(1)])
    expected = loss_of(network, batch).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(network, batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=0.05)
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in network.parameters())
