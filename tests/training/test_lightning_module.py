"""The training step, against section 3.5 written out frame by frame."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import small_networks as small
from helpers.plain_training import plain_training_step
from torch import Tensor
from torch.nn import functional as F

from stm.evaluation.evaluate import Benchmark
from stm.network import STM
from stm.training.lightning_module import STMModule
from stm.training.loss import SegmentationLoss
from stm.video import ArrayVideo, ClipBatch

ADAM = partial(torch.optim.Adam, lr=1e-5)
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")


def module(network: STM, **changes: Any) -> STMModule:
    return STMModule(network, **({"loss": SegmentationLoss(), "optimizer": ADAM} | changes)).train()


def section_3_5(
    network: STM, batch: ClipBatch, disturb: Callable = lambda masks, indices, t: masks
) -> Tensor:
    """Compute the loss; each frame after the first is segmented, then memorized with its prediction."""
    frames = batch.frames.float() / 255
    memories = [network.memorize(frames[:, 0], batch.object_masks(0))]
    loss = torch.zeros(())
    for t in range(1, frames.shape[1]):
        keys, values = (torch.stack(parts, dim=3) for parts in zip(*memories, strict=True))
        logits = network.segment(frames[:, t], (keys, values))
        loss = loss + F.cross_entropy(logits, batch.masks[:, t].long())
        predicted = disturb(torch.softmax(logits, dim=1), batch.indices.tolist(), t)
        memories.append(network.memorize(frames[:, t], predicted[:, 1:]))
    return loss


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(
    "changes", [{}, {"key_input": "image", "similarity": "l2"}], ids=["paper", "image keys"]
)
def test_training_step_follows_section_3_5(changes: dict[str, Any], count: int) -> None:
    network = small.network(**changes)
    batch = ClipBatch.collate([small.clip(2, count, seed=seed) for seed in range(2)])
    expected = section_3_5(network, batch)
    expected.backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    loss = module(network).training_step(batch, 0)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(ours.grad, theirs, atol=1e-5, rtol=1e-3)


def test_disturbed_masks_are_memorized_instead_of_the_prediction() -> None:
    network = small.network()
    clips = [replace(small.clip(2, 4, seed=seed), index=7 + seed) for seed in range(2)]
    batch = ClipBatch.collate(clips)

    def stripes(probabilities: Tensor, indices: list[int], t: int) -> Tensor:
        masks = torch.zeros_like(probabilities)
        for b, index in enumerate(indices):
            masks[b, 1, :, : 4 * t + index] = 1
        return masks

    expected = section_3_5(network, batch, stripes)
    assert expected.item() != pytest.approx(section_3_5(network, batch).item(), rel=1e-3)
    loss = module(network, mask_disturbance=stripes).training_step(batch, 0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_of_a_batch_is_the_mean_of_those_of_its_parts() -> None:
    """With Dice, hardest pixels and different numbers of objects; by rounding of float64."""
    clips = [small.clip(objects, seed=objects) for objects in (1, 3, 2, 1)]
    loss = SegmentationLoss(0.3, bootstrap_start_step=0, bootstrap_end_step=0, dice=0.5)
    gradients = []
    for size in (4, 2, 1):
        network = small.network().double()
        training = module(network, loss=loss)
        training.trainer = SimpleNamespace(global_step=1, barebones=True)  # type: ignore[assignment]
        for k in range(0, 4, size):
            training.training_step(ClipBatch.collate(clips[k : k + size]), 0).mul(size / 4).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    for parts in gradients[1:]:
        torch.testing.assert_close(parts, gradients[0], rtol=0, atol=1e-13 * float(gradients[0].norm()))


def test_loss_sees_every_frame_but_the_first() -> None:
    class Recorded(SegmentationLoss):
        def forward(self, logits: Tensor, masks: Tensor, step: int = 0) -> Tensor:
            calls.append((tuple(logits.shape), masks))
            return super().forward(logits, masks, step)

    calls: list[tuple[tuple[int, ...], Tensor]] = []
    batch = ClipBatch.collate([small.clip(2), small.clip(3)])
    module(small.network(), loss=Recorded()).training_step(batch, 0)
    assert [shape for shape, _ in calls] == [(2, 4, 32, 48)] * 2
    assert torch.equal(calls[0][1], batch.masks[:, 1])
    assert torch.equal(calls[1][1], batch.masks[:, 2])


def test_steps_lower_the_loss() -> None:
    trained = module(small.network(), optimizer=partial(torch.optim.Adam, lr=2e-3))
    batch = ClipBatch.collate([small.clip(2)])
    optimizer = trained.configure_optimizers()
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = trained.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_void_pixels_have_no_gradient() -> None:
    batch = ClipBatch.collate([small.clip(2)])
    batch.masks[:, 1:] = 255
    network = small.network()
    loss = module(network).training_step(batch, 0)
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in network.parameters())


def test_frozen_statistics_survive_calls_of_train() -> None:
    """Lightning calls train() before every epoch and after every validation."""
    network = small.network(norm="frozen")
    trained = module(network)
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    assert before
    for _ in range(2):
        trained.eval()
        trained.train()
        trained.training_step(ClipBatch.collate([small.clip(1)]), 0)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_default_rate_is_fixed_and_a_schedule_follows_steps() -> None:
    optimizer = module(small.network()).configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 1e-5
    assert len(optimizer.param_groups[0]["params"]) == len(list(small.network().parameters()))
    scheduler = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.5**step)
    both = module(small.network(), scheduler=scheduler).configure_optimizers()
    assert both["lr_scheduler"]["interval"] == "step"
    assert both["lr_scheduler"]["scheduler"].optimizer is both["optimizer"]


def test_frozen_parameters_are_not_optimized() -> None:
    network = small.network()
    network.query_encoder.requires_grad_(False)
    optimizer = module(network).configure_optimizers()
    optimized = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert optimized == {id(p) for p in network.parameters() if p.requires_grad}


def test_benchmark_without_ground_truth_is_rejected_at_the_start() -> None:
    masks = np.zeros((4, 32, 48), dtype=np.uint8)
    masks[:, 4:20, 4:20] = 1
    video = ArrayVideo("v", np.zeros((4, 32, 48, 3), dtype=np.uint8), masks)
    hidden = ArrayVideo("hidden", np.zeros((4, 32, 48, 3), dtype=np.uint8), masks)
    hidden.annotated = [0]
    trained = module(small.network(), benchmark=Benchmark("valid", [hidden]))
    trained.trainer = SimpleNamespace(limit_val_batches=1.0)
    with pytest.raises(ValueError, match="benchmark=valid: must have ground truth"):
        trained.on_fit_start()
    trained.benchmark = Benchmark("valid", [hidden, video])
    trained.on_fit_start()


def test_checkpoint_stores_its_configuration() -> None:
    config = {"network": {"key_channels": 8}, "seed": 1}
    checkpoint: dict[str, Any] = {}
    module(small.network(), config=config).on_save_checkpoint(checkpoint)
    assert checkpoint["config"] == config


def trunk_parameters(network: STM) -> set[Any]:
    return {
        p for encoder in (network.query_encoder, network.memory_encoder) for p in encoder.trunk.parameters()
    }


def test_trunks_have_their_own_rate() -> None:
    training = module(small.network(), trunk_lr=0.1)
    trunk, main = training.configure_optimizers().param_groups
    assert (main["lr"], trunk["lr"]) == pytest.approx((1e-5, 1e-6))
    assert set(trunk["params"]) == trunk_parameters(training.network)
    assert {*main["params"], *trunk["params"]} == set(training.network.parameters())


def test_a_memory_trunk_of_another_backbone_is_as_fast_as_new_layers() -> None:
    training = module(small.network(backbone="tiny", memory_backbone="micro"), trunk_lr=0.1)
    trunk, _ = training.configure_optimizers().param_groups
    assert set(trunk["params"]) == set(training.network.query_encoder.trunk.parameters())


def test_frozen_trunks_are_not_optimized() -> None:
    training = module(small.network(), trunk_lr=0.0)
    (group,) = training.configure_optimizers().param_groups
    assert set(group["params"]) == set(training.network.parameters()) - trunk_parameters(training.network)


def test_frozen_stages_get_no_gradients() -> None:
    training = module(small.network(), frozen_stages=2)
    batch = ClipBatch.collate([small.clip(1, 3)])
    training.training_step(batch, 0).backward()
    for encoder in (training.network.query_encoder, training.network.memory_encoder):
        trained = [any(p.grad is not None for p in stage.parameters()) for stage in encoder.trunk.stages]
        assert trained == [False, False, True]
        assert encoder.trunk.stem.weight.grad is None
    assert training.network.memory_encoder.mask_stem.weight.grad is not None


def test_weight_decay_spares_norms_and_biases() -> None:
    adamw = partial(torch.optim.AdamW, lr=1e-5, weight_decay=0.1)
    decayed, free = module(small.network(), optimizer=adamw).configure_optimizers().param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim == 1 for p in free["params"])
    (group,) = module(small.network(), optimizer=adamw, decay_norms=True).configure_optimizers().param_groups
    assert group["weight_decay"] == 0.1


def test_a_schedule_with_one_rate_for_all_layers_refuses_a_slower_trunk() -> None:
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-3, total_steps=10)
    with pytest.raises(ValueError, match="trunk_lr=0.1: must be 1 for this schedule"):
        module(small.network(), trunk_lr=0.1, scheduler=one_cycle).configure_optimizers()
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=10)
    configured = module(small.network(), trunk_lr=0.1, scheduler=cosine).configure_optimizers()
    rates = [group["lr"] for group in configured["optimizer"].param_groups]
    assert rates == pytest.approx([1e-6, 1e-5])


@pytest.mark.parametrize("changes", [{}, {"key_input": "image", "value_fusion": "residual"}])
def test_recomputed_activations_give_equal_gradients(changes: dict[str, Any]) -> None:
    batch = ClipBatch.collate([small.clip(2, 3)])
    gradients = []
    for recompute in (False, True):
        training = module(small.network(**changes))
        for encoder in (training.network.query_encoder, training.network.memory_encoder):
            encoder.trunk.recompute = recompute
        training.training_step(batch, 0).backward()
        gradients.append([p.grad for p in training.network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.slow
def test_a_compiled_step_equals_an_eager_one() -> None:
    batch = ClipBatch.collate([small.clip(2, 3)])
    eager, fused = module(small.network()), module(small.network())
    for part in (fused.network.query_encoder, fused.network.memory_encoder, fused.network.decoder):
        part.compile()
    losses = [training.training_step(batch, 0) for training in (eager, fused)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    for one, other in zip(eager.network.parameters(), fused.network.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("lr", [-1, None, float("nan")])
def test_wrong_rate_is_a_users_mistake(lr: float | None) -> None:
    with pytest.raises(ValueError, match="^optimizer: "):
        module(small.network(), optimizer=partial(torch.optim.Adam, lr=lr)).configure_optimizers()


@pytest.mark.parametrize(
    "changes", [{}, {"key_input": "image", "similarity": "l2", "value_fusion": "residual"}]
)
def test_a_step_equals_one_that_takes_clips_and_objects_in_turns(changes: dict[str, Any]) -> None:
    batch = ClipBatch.collate([small.clip(1, 3, seed=1), small.clip(3, 3, seed=2)])
    ours, plain = module(small.network(**changes)), module(small.network(**changes))
    losses = ours.training_step(batch, 0), plain_training_step(plain.network, SegmentationLoss(), batch)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    for loss in losses:
        loss.backward()
    for one, other in zip(ours.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
