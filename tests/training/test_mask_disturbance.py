"""Disturbed masks: shifts, sizes and swaps, against moments and boxes of plain masks."""

import numpy as np
import pytest
import torch
from torch import Tensor

from stm.training.mask_disturbance import MaskDisturbance

HEIGHT, WIDTH = 60, 100
CLIPS = range(200)


def two_objects() -> Tensor:
    """Probabilities (3, H, W) of two rectangles of 24x30 pixels beside each other."""
    p = torch.zeros(3, HEIGHT, WIDTH)
    p[1, 18:42, 20:50], p[2, 18:42, 50:80] = 1, 1
    p[0] = 1 - p[1:].sum(0)
    return p


def disturbed(disturbance: MaskDisturbance, t: int = 1) -> Tensor:
    """Return (N, 3, H, W), one for each clip."""
    return disturbance(two_objects().expand(len(CLIPS), -1, -1, -1), list(CLIPS), t)


def test_a_disturbance_is_a_function_of_seed_clip_and_frame() -> None:
    disturbance, p = MaskDisturbance(warp=1, swap=1), two_objects()
    first, second = disturbance(torch.stack([p, p]), [3, 8], 2)
    assert torch.equal(disturbance(p[None], [8], 2)[0], second)
    others = [
        disturbance(p[None], [8], 3),
        MaskDisturbance(warp=1, swap=1, seed=1)(p[None], [8], 2),
        first[None],
    ]
    assert not any(torch.equal(other[0], second) for other in others)


def test_without_probability_nothing_changes() -> None:
    assert torch.equal(disturbed(MaskDisturbance(warp=0, swap=0))[0], two_objects())


def test_probabilities_stay_probabilities() -> None:
    p = disturbed(MaskDisturbance(warp=1, max_shift=0.2, max_scale=0.3, swap=1))
    assert p.min() >= 0
    torch.testing.assert_close(p.sum(1), torch.ones(len(CLIPS), HEIGHT, WIDTH))


def test_shifts_fill_their_range() -> None:
    """The centroid moves by the shift, at most 10% of each side, in both directions."""
    p = disturbed(MaskDisturbance(warp=1, max_shift=0.1, max_scale=0, swap=0))[:, 1:].sum(1)
    area = p.sum((1, 2))
    torch.testing.assert_close(area, torch.full_like(area, 24 * 60), rtol=1e-3, atol=0)
    rows = (p.sum(2) * torch.arange(HEIGHT)).sum(1) / area - 29.5
    columns = (p.sum(1) * torch.arange(WIDTH)).sum(1) / area - 49.5
    for moved, side in ((rows, HEIGHT), (columns, WIDTH)):
        shares = moved.numpy() / side
        assert abs(shares).max() <= 0.1 + 1e-3 and shares.min() < -0.09 and shares.max() > 0.09
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.25


def test_sizes_fill_their_range() -> None:
    p = disturbed(MaskDisturbance(warp=1, max_shift=0, max_scale=0.1, swap=0))[:, 1:].sum((1, 2, 3))
    scales = (p / (24 * 60)).sqrt().numpy()
    assert 0.89 < scales.min() < 0.92 and 1.08 < scales.max() < 1.11


def test_labels_are_swapped_within_a_box() -> None:
    p, plain = disturbed(MaskDisturbance(warp=0, swap=1, box=(0.2, 0.5))), two_objects()
    heights, widths = [], []
    for clip in p:
        assert torch.equal(clip[0], plain[0])
        changed = (clip != plain).any(0)
        rows, columns = (torch.nonzero(changed.any(axis)).flatten() for axis in (1, 0))
        top, bottom, left, right = (int(n) for n in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
        expected = plain.clone()
        expected[1:, top:bottom, left:right] = plain[1:, top:bottom, left:right].flip(0)
        assert torch.equal(clip, expected)
        heights.append(bottom - top)
        widths.append(right - left)
    # boxes reach beyond the objects, which are 24 rows high
    assert max(heights) <= 24 and min(heights) < 12 and max(widths) <= 50 and max(widths) > 40


def test_each_clip_is_disturbed_with_the_given_probability() -> None:
    for disturbance in (MaskDisturbance(warp=0.25, swap=0), MaskDisturbance(warp=0, swap=0.25)):
        changed = (disturbed(disturbance) != two_objects()).flatten(1).any(1).float().mean()
        assert 0.15 < changed < 0.35  # 200 clips: 3 standard deviations are .09


def test_one_object_cannot_be_swapped() -> None:
    p = two_objects()
    p[0], p[2] = p[0] + p[2], 0
    assert torch.equal(MaskDisturbance(warp=0, swap=1)(p[None], [0], 1)[0], p)


def test_gradients_pass_through() -> None:
    logits = torch.zeros(1, 3, 16, 16, requires_grad=True)
    p = MaskDisturbance(warp=1, swap=1)(logits.softmax(1), [0], 1)
    (p[:, 1] * torch.arange(16)).sum().backward()
    assert logits.grad is not None and logits.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warp": 1.5}, "mask_disturbance.warp=1.5: must be in 0..1"),
        ({"swap": -0.1}, "mask_disturbance.swap=-0.1: must be in 0..1"),
        ({"max_shift": 2}, "mask_disturbance.max_shift=2: must be in 0..1"),
        ({"max_scale": 1}, "mask_disturbance.max_scale=1: must be at least 0, and below 1"),
        ({"box": [0.4, 0.2]}, r"mask_disturbance.box=\[0.4, 0.2\]: must be a smallest and a largest share"),
        ({"box": [0.4]}, r"mask_disturbance.box=\[0.4\]: must be a smallest and a largest share"),
        ({"seed": -1}, "mask_disturbance.seed=-1: must be at least 0"),
    ],
)
def test_values_are_checked(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskDisturbance(**changes)
