"""The loss, against pixel-by-pixel computations."""

import math

import numpy as np
import pytest
import torch

from stm.training.loss import SegmentationLoss
from stm.video import VOID


def example(objects: int = 2, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (B, O + 1, 6, 7) and masks (B, 6, 7) with some void pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((batch, objects + 1, 6, 7), generator=generator)
    masks = torch.randint(0, objects + 1, (batch, 6, 7), generator=generator).to(torch.uint8)
    masks[0, 0] = VOID
    return logits, masks


def pixel_losses(logits: torch.Tensor, masks: torch.Tensor) -> list[list[float]]:
    """Compute -log softmax at the true label for each counted pixel of each clip."""
    result = []
    for clip, mask in zip(logits.double().numpy(), masks.numpy(), strict=True):
        losses = []
        for y, x in np.ndindex(mask.shape):
            if mask[y, x] != VOID:
                finite = [v for v in clip[:, y, x] if v > -math.inf]
                losses.append(math.log(sum(math.exp(v) for v in finite)) - clip[mask[y, x], y, x])
        result.append(losses)
    return result


def test_cross_entropy_is_the_mean_over_counted_pixels_then_over_clips() -> None:
    logits, masks = example()
    per_clip = [np.mean(losses) for losses in pixel_losses(logits, masks)]
    assert SegmentationLoss()(logits, masks).item() == pytest.approx(np.mean(per_clip), rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"bootstrap_fraction": 0.3, "bootstrap_start_step": 0, "bootstrap_end_step": 0}, {"dice": 1.0}],
)
def test_void_pixels_do_not_count(settings: dict[str, float]) -> None:
    logits, masks = example()
    loss = SegmentationLoss(**settings)
    changed = logits.clone()
    changed[0, :, 0] = torch.tensor([9.0, -9.0, 5.0])[:, None]
    logits.requires_grad_()
    value = loss(logits, masks, step=1)
    assert value.item() == pytest.approx(loss(changed, masks, step=1).item(), rel=1e-6)
    value.backward()
    assert (logits.grad[0, :, 0] == 0).all()
    assert (logits.grad[0, :, 1:] != 0).any()


@pytest.mark.parametrize(
    "settings",
    [{}, {"bootstrap_fraction": 0.2, "bootstrap_start_step": 0, "bootstrap_end_step": 0}, {"dice": 1.0}],
)
def test_entirely_void_masks_have_no_loss(settings: dict[str, float]) -> None:
    logits, masks = example()
    masks[:] = VOID
    logits.requires_grad_()
    loss = SegmentationLoss(**settings)(logits, masks, step=5)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_only_the_hardest_pixels_count() -> None:
    logits, masks = example()
    expected = []
    for losses in pixel_losses(logits, masks):
        kept = sorted(losses, reverse=True)[: math.ceil(0.25 * len(losses))]
        expected.append(sum(kept) / len(kept))
    loss = SegmentationLoss(bootstrap_fraction=0.25, bootstrap_start_step=10, bootstrap_end_step=20)
    assert loss(logits, masks, step=20).item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert loss(logits, masks, step=10).item() == pytest.approx(SegmentationLoss()(logits, masks).item())


def test_fraction_of_pixels_falls_linearly() -> None:
    loss = SegmentationLoss(bootstrap_fraction=0.15, bootstrap_start_step=20_000, bootstrap_end_step=70_000)
    assert [loss.fraction(step) for step in (0, 20_000, 45_000, 70_000, 10**6)] == pytest.approx(
        [1, 1, (1 + 0.15) / 2, 0.15, 0.15]
    )
    fractions = [loss.fraction(step) for step in range(0, 100_000, 1000)]
    assert fractions == sorted(fractions, reverse=True)


def test_fraction_of_a_schedule_of_length_0_falls_at_once() -> None:
    loss = SegmentationLoss(bootstrap_fraction=0.5, bootstrap_start_step=100, bootstrap_end_step=100)
    assert [loss.fraction(step) for step in (99, 100, 101)] == [1, 1, 0.5]


def test_dice_agrees_with_explicit_sums() -> None:
    logits, masks = example()
    scores = []
    for clip, mask in zip(logits.double(), masks, strict=True):
        probabilities = torch.softmax(clip, dim=0).numpy()
        for label in (1, 2):
            both = predicted = truth = 0.0
            for y, x in np.ndindex(6, 7):
                if mask[y, x] != VOID:
                    both += probabilities[label, y, x] * (mask[y, x] == label)
                    predicted += probabilities[label, y, x]
                    truth += mask[y, x] == label
            scores.append(1 - (2 * both + 1) / (predicted + truth + 1))
    difference = SegmentationLoss(dice=0.5)(logits, masks) - SegmentationLoss()(logits, masks)
    assert difference.item() == pytest.approx(0.5 * float(np.mean(scores)), rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{}, {"bootstrap_fraction": 0.3, "bootstrap_start_step": 0, "bootstrap_end_step": 0}, {"dice": 1.0}],
)
def test_padded_slots_change_nothing(settings: dict[str, float]) -> None:
    logits, masks = example(objects=2, batch=1)
    padding = torch.full((1, 3, 6, 7), -math.inf)
    padded = torch.cat([logits, padding], dim=1).requires_grad_()
    logits.requires_grad_()
    loss = SegmentationLoss(**settings)
    alone, with_padding = loss(logits, masks, step=1), loss(padded, masks, step=1)
    assert with_padding.item() == pytest.approx(alone.item(), rel=1e-6)
    alone.backward()
    with_padding.backward()
    assert torch.isfinite(padded.grad).all()
    torch.testing.assert_close(padded.grad[:, :3], logits.grad)


def test_dice_averages_over_the_objects_of_a_clip_then_over_the_clips() -> None:
    """A clip with one object and a clip with two: the single object counts as much as the two."""
    logits, masks = example()
    logits[1, 2] = -math.inf
    masks[1][masks[1] == 2] = 0
    dice = SegmentationLoss(dice=1.0)(logits, masks) - SegmentationLoss()(logits, masks)
    one = SegmentationLoss(dice=1.0)(logits[1:, :2], masks[1:]) - SegmentationLoss()(
        logits[1:, :2], masks[1:]
    )
    two = SegmentationLoss(dice=1.0)(logits[:1], masks[:1]) - SegmentationLoss()(logits[:1], masks[:1])
    assert dice.item() == pytest.approx((one.item() + two.item()) / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"bootstrap_fraction": 0.0}, "loss.bootstrap_fraction=0.0"),
        ({"bootstrap_fraction": 1.5}, "loss.bootstrap_fraction=1.5"),
        ({"dice": -1.0}, "loss.dice=-1.0"),
        ({"bootstrap_start_step": 9, "bootstrap_end_step": 3}, "9 and 3"),
    ],
)
def test_invalid_settings_are_named(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        SegmentationLoss(**settings)
