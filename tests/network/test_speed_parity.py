"""What makes ours fast changes no result: beside the published code's way of working, with equal weights."""

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
"""16 divides neither side."""


@pytest.fixture(scope="module")
def network() -> STM:
    return plain_stm.published_network()


def video(count: int = 12) -> Tensor:
    return small.frames(count, SIZE).float() / 255


@pytest.mark.parametrize("case", ["one_object", "two_objects"])
def test_the_plain_reference_is_the_published_code(network: STM, golden, case: str) -> None:
    truth = np.load(golden / f"{case}.npz")
    plain = PlainSTM(network, every=int(truth["memory_every"]))
    first = torch.from_numpy(truth["first_mask"])
    for t, frame in enumerate(torch.from_numpy(truth["frames"]).permute(0, 3, 1, 2) / 255):
        probabilities = plain.step(frame, first if t == 0 else None)
        np.testing.assert_allclose(probabilities, truth["probabilities"][t], rtol=0, atol=2e-4)


def compare(network: STM, masks: dict[int, Tensor], every: int) -> None:
    """Step both through a video, the plain reference fed our previous probabilities: each is the same."""
    segmenter = stm.Segmenter(network, MemoryPolicy(every=every))
    plain = PlainSTM(network, every)
    previous, equal, shown = None, [], set()
    for t, frame in enumerate(video()):
        mask = masks.get(t)
        ours = segmenter.step(frame, mask)
        theirs = plain.step(frame, mask, previous)
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=2e-4, msg=lambda text, t=t: f"frame {t}: {text}"
        )
        equal.append((ours.argmax(0) == theirs.argmax(0)).float().mean().item())
        shown |= set(theirs.argmax(0).unique().tolist()) if mask is None else set()
        previous = ours
    assert np.mean(equal) >= 0.9999
    assert len(shown) >= max(2, plain.objects)  # were all background, labels would tell little


@pytest.mark.parametrize(("objects", "every"), [(1, 3), (3, 5)])
def test_fed_the_same_probabilities_both_give_the_same(network: STM, objects: int, every: int) -> None:
    compare(network, {0: small.masks(1, objects, SIZE)[0]}, every)


def test_objects_that_enter_late_are_the_same(network: STM) -> None:
    """Object 1 from the start, 2 and 3 from frame 4 on, 4 from frame 6 on: three memories."""
    entering = {0: [1], 4: [2, 3], 6: [4]}
    labels = small.masks(7, 4, SIZE)
    compare(
        network, {t: labels[t] * torch.isin(labels[t], torch.tensor(new)) for t, new in entering.items()}, 3
    )


def test_left_alone_both_give_the_same_masks(network: STM) -> None:
    """Each with its own previous probabilities: rounding must not grow from frame to frame."""
    segmenter, plain = stm.Segmenter(network), PlainSTM(network)
    first = small.masks(1, 2, SIZE)[0]
    for t, frame in enumerate(video(8)):
        ours = segmenter.step(frame, first if t == 0 else None)
        theirs = plain.step(frame, first if t == 0 else None)
        assert (ours.argmax(0) == theirs.argmax(0)).float().mean() >= 0.999


def test_the_comparison_notices_other_probabilities(network: STM) -> None:
    """Fed frame 0's mask instead of frame 1's prediction, the reference gives another frame 2."""
    segmenter, plain = stm.Segmenter(network), PlainSTM(network)
    first = small.masks(1, 2, SIZE)[0]
    shown = [segmenter.step(frame, first if t == 0 else None) for t, frame in enumerate(video(3))]
    plain.step(video()[0], first)
    plain.step(video()[1])
    wrong = plain.step(video()[2], previous=shown[0])
    assert (wrong - shown[2]).abs().max() > 2e-3


def test_another_form_of_network_is_refused() -> None:
    for other in (small.network(), small.network(other_objects_channel=True, similarity="scaled_dot")):
        with pytest.raises(ValueError, match="network=official"):
            PlainSTM(other)
