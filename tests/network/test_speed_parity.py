"""The optimizations change no result, compared with the published code's procedure and equal weights."""

import numpy as np
import pytest
import torch
from helpers import plain_stm
from helpers import small_networks as small
from helpers.plain_stm import PlainSTM
from torch import Tensor

import stm
from stm.memory import MemoryPolicy
from stm.network import STM

SIZE = (52, 68)
"""Neither side is a multiple of 16."""


@pytest.fixture(scope="module")
def network() -> STM:
    return plain_stm.published_network()


def video(count: int = 12) -> Tensor:
    return small.frames(count, SIZE).float() / 255


@pytest.mark.parametrize("case", ["one_object", "two_objects"])
def test_the_plain_reference_equals_the_published_code(network: STM, golden, case: str) -> None:
    truth = np.load(golden / f"{case}.npz")
    plain = PlainSTM(network, every=int(truth["memory_every"]))
    first = torch.from_numpy(truth["first_mask"])
    for t, frame in enumerate(torch.from_numpy(truth["frames"]).permute(0, 3, 1, 2) / 255):
        probabilities = plain.step(frame, first if t == 0 else None)
        np.testing.assert_allclose(probabilities, truth["probabilities"][t], rtol=0, atol=2e-4)


def compare(network: STM, masks: dict[int, Tensor], every: int) -> None:
    """Compare both frame by frame, where the plain reference memorizes our previous probabilities."""
    segmenter = stm.Segmenter(network, MemoryPolicy(every=every))
    plain = PlainSTM(network, every)
    previous, equal, labels = None, [], set()
    for t, frame in enumerate(video()):
        mask = masks.get(t)
        result = segmenter.step(frame, mask)
        expected = plain.step(frame, mask, previous)
        torch.testing.assert_close(
            result, expected, rtol=0, atol=2e-4, msg=lambda text, t=t: f"frame {t}: {text}"
        )
        equal.append((result.argmax(0) == expected.argmax(0)).float().mean().item())
        labels |= set(expected.argmax(0).unique().tolist()) if mask is None else set()
        previous = result
    assert np.mean(equal) >= 0.9999
    assert len(labels) >= max(2, plain.objects)  # otherwise equal labels would prove little


@pytest.mark.parametrize(("objects", "every"), [(1, 3), (3, 5)])
def test_with_equal_previous_probabilities_both_are_equal(network: STM, objects: int, every: int) -> None:
    compare(network, {0: small.masks(1, objects, SIZE)[0]}, every)


def test_objects_that_enter_late_are_equal(network: STM) -> None:
    """Object 1 from the start, 2 and 3 from frame 4 on, 4 from frame 6 on: three memories."""
    entering = {0: [1], 4: [2, 3], 6: [4]}
    labels = small.masks(7, 4, SIZE)
    compare(
        network, {t: labels[t] * torch.isin(labels[t], torch.tensor(new)) for t, new in entering.items()}, 3
    )


def test_with_their_own_probabilities_both_have_equal_masks(network: STM) -> None:
    """Rounding errors must not grow from frame to frame."""
    segmenter, plain = stm.Segmenter(network), PlainSTM(network)
    first = small.masks(1, 2, SIZE)[0]
    for t, frame in enumerate(video(8)):
        result = segmenter.step(frame, first if t == 0 else None)
        expected = plain.step(frame, first if t == 0 else None)
        assert (result.argmax(0) == expected.argmax(0)).float().mean() >= 0.999


def test_the_comparison_detects_other_probabilities(network: STM) -> None:
    """If it memorizes frame 0's mask instead of frame 1's prediction, the reference differs at frame 2."""
    segmenter, plain = stm.Segmenter(network), PlainSTM(network)
    first = small.masks(1, 2, SIZE)[0]
    results = [segmenter.step(frame, first if t == 0 else None) for t, frame in enumerate(video(3))]
    plain.step(video()[0], first)
    plain.step(video()[1])
    wrong = plain.step(video()[2], previous=results[0])
    assert (wrong - results[2]).abs().max() > 2e-3


def test_other_networks_are_rejected() -> None:
    for other in (small.network(), small.network(other_objects_channel=True, similarity="scaled_dot")):
        with pytest.raises(ValueError, match="network=official"):
            PlainSTM(other)
