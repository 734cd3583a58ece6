"""What can be asked of a segmenter after a frame, and changed in mid-video."""

import numpy as np
import pytest
import torch
from helpers import small_networks as small
from helpers.small_networks import only
from helpers.started_processes import FRAMES, MASKS, POLICIES, begun, go_on

from stm.inference import Segmenter
from stm.inference.attention import upsample_map
from stm.memory import MemoryPolicy

SIZE = (32, 48)


# attention


def slow_attention(segmenter: Segmenter, slot: int, kind: str, policy: MemoryPolicy) -> np.ndarray:
    """The weights (N, Q) of an object's read, cell by cell with numpy, of a segmenter with one group."""
    bank = segmenter._objects.groups[0].bank
    keys = bank.read()[0][0].double().numpy()
    keys = keys[min(slot, len(keys) - 1)]
    query = segmenter._pending.query.key[0].flatten(1).double().numpy()
    weights = np.zeros((keys.shape[1], query.shape[1]))
    for q in range(query.shape[1]):
        logits = np.array([key @ query[:, q] for key in keys.T])
        if kind == "l2":
            logits = (2 * logits - (keys**2).sum(0)) / np.sqrt(len(keys))
        if policy.motion_sigma is not None:
            rows, columns = np.unravel_index(np.arange(keys.shape[1]) % query.shape[1], (2, 3))
            row, column = np.unravel_index(q, (2, 3))
            ages = np.repeat([segmenter.t - t for t in order(segmenter)], query.shape[1])
            apart = ((rows - row) ** 2 + (columns - column) ** 2) / 2**2
            logits = logits - apart / (2 * ages * policy.motion_sigma**2)
        if policy.top_k is not None:
            logits[logits < np.sort(logits)[-policy.top_k]] = -np.inf
        exponentials = np.exp(logits - logits.max())
        weights[:, q] = exponentials / exponentials.sum()
    return weights


def order(segmenter: Segmenter) -> list[int]:
    """The frames in the order of their cells."""
    return [t for t, _, _ in sorted(segmenter._objects.groups[0].bank.layout(), key=lambda f: f[1].start)]


@pytest.mark.parametrize("keys", ["image_mask", "image"])
@pytest.mark.parametrize(("kind", "name"), [("dot", "paper"), ("l2", "top_k"), ("dot", "near")])
def test_attention_is_the_mean_of_the_reads_weights(keys: str, kind: str, name: str) -> None:
    policy = POLICIES[name]
    segmenter = begun(small.network(key_input=keys, similarity=kind), policy)
    region = np.zeros(SIZE, dtype=bool)
    region[5:30, 10:40] = True
    share = region.reshape(2, 16, 3, 16).mean((1, 3)).ravel()
    for slot, label in enumerate((1, 2)):
        weights = slow_attention(segmenter, slot, kind, policy)
        for at, of_cells in (
            (None, np.full(6, 1 / 6)),
            ((17, 40), np.eye(6)[5]),
            (region, share / share.sum()),
        ):
            attention = segmenter.attention(label, at)
            assert list(attention.maps) == segmenter.memory_frames()[0]
            assert sum(attention.shares.values()) == pytest.approx(1, abs=1e-5)
            expected = weights @ of_cells
            for place, t in enumerate(order(segmenter)):
                found = attention.maps[t].flatten().numpy()
                np.testing.assert_allclose(found, expected[6 * place : 6 * place + 6], atol=1e-5)


def test_attention_to_prototypes_is_told_apart() -> None:
    attention = begun(small.network(), POLICIES["prototypes"], 8).attention(1)
    assert attention.prototypes.shape == (4,)
    assert float(attention.prototypes.sum()) + sum(attention.shares.values()) == pytest.approx(1, abs=1e-5)


def test_the_values_weighted_by_attention_are_the_readout() -> None:
    segmenter = begun(small.network(key_input="image"), POLICIES["paper"])
    values = segmenter._objects.groups[0].bank.read()[1][0]
    for slot, label in enumerate((1, 2)):
        attention = segmenter.attention(label, (0, 20))  # cell (0, 1)
        flat = torch.cat([attention.maps[t].flatten() for t in order(segmenter)])
        torch.testing.assert_close(values[slot] @ flat, segmenter.readout[0, slot, :, 0, 1])


def test_attention_where_there_is_none() -> None:
    segmenter = Segmenter(small.network())
    with pytest.raises(ValueError, match="no last frame"):
        segmenter.attention(1)
    segmenter.step(FRAMES[0], only(MASKS[0], 1))
    with pytest.raises(ValueError, match="object 1 entered in this frame"):
        segmenter.attention(1)
    segmenter.step(FRAMES[1])
    for at, named in (
        ((32, 0), r"within \(32, 48\)"),
        (np.zeros(SIZE), "not empty"),
        (np.ones((3, 3)), r"\(32, 48\)"),
    ):
        with pytest.raises(ValueError, match=named):
            segmenter.attention(1, at)
    with pytest.raises(ValueError, match=r"object 7 is not known; there are \[1\]"):
        segmenter.attention(7)


def test_a_map_covers_the_pixels_of_its_cells() -> None:
    """A frame of 30 x 44 has a pixel of padding above and two to the left."""
    enlarged = upsample_map(torch.arange(6.0).view(2, 3), (30, 44))
    assert enlarged.shape == (30, 44)
    assert enlarged[0].tolist() == [0] * 14 + [1] * 16 + [2] * 14
    assert enlarged[:, 0].tolist() == [0] * 15 + [3] * 15


# removed, absent, corrected


def test_removing_an_object_leaves_the_logits_of_the_others() -> None:
    """In the next frame, whatever the policy; the keys of this network see no other object."""
    for keys in ("image_mask", "image"):
        for removed in (1, 2, 3):
            kept = [label for label in (1, 2, 3) if label != removed]
            segmenter, whole = (
                begun(small.network(key_input=keys), POLICIES["paper"], objects=3) for _ in range(2)
            )
            segmenter.remove(removed)
            assert segmenter.object_ids == kept
            assert segmenter.memory_frames() == whole.memory_frames()
            assert segmenter.memory_bytes() < whole.memory_bytes()
            probabilities = segmenter.step(FRAMES[6])
            whole.step(FRAMES[6])
            assert probabilities.shape == (3, *SIZE)
            torch.testing.assert_close(probabilities.sum(0), torch.ones(SIZE))
            torch.testing.assert_close(segmenter.logits[:, 1:], whole.logits[:, kept], atol=1e-4, rtol=1e-4)


def test_with_the_first_frame_alone_it_is_as_if_the_object_had_never_been_given() -> None:
    policy = MemoryPolicy(previous=False, every=None)
    segmenter = begun(small.network(), policy, objects=3)
    segmenter.remove(2)
    never = Segmenter(small.network(), policy)
    for t in range(6):
        never.step(FRAMES[t], only(MASKS[0], 1, 3) if t == 0 else None)
    for ours, theirs in zip(go_on(segmenter), go_on(never), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_an_object_removed_is_background_in_the_last_frame_and_may_come_again() -> None:
    segmenter = begun(small.network(), objects=2)
    before = segmenter._pending.probabilities
    segmenter.remove(1)
    torch.testing.assert_close(segmenter._pending.probabilities[:, 0], before[:, 0] + before[:, 1])
    assert torch.equal(segmenter._pending.probabilities[:, 1], before[:, 2])
    segmenter.step(FRAMES[6], only(MASKS[6], 1))
    assert segmenter.object_ids == [2, 1]
    segmenter.remove(2)
    segmenter.remove(1)
    with pytest.raises(ValueError, match="no object is known"):
        segmenter.step(FRAMES[7])
    with pytest.raises(ValueError, match="object 1 is not known"):
        segmenter.remove(1)
    assert segmenter.step(FRAMES[7], only(MASKS[7], 3)).shape == (2, *SIZE)
    assert segmenter.step(FRAMES[8]).shape == (2, *SIZE)


def test_a_correction_afterwards_is_one_that_came_with_the_frame() -> None:
    ours, theirs = begun(small.network()), begun(small.network())
    mask = only(MASKS[6], 2, 3)  # corrects object 2, adds object 3
    ours.step(FRAMES[6])
    assert torch.equal(ours.correct(mask), theirs.step(FRAMES[6], mask))
    for a, b in zip(go_on(ours, range(7, 12)), go_on(theirs, range(7, 12)), strict=True):
        assert torch.equal(a, b)
    assert ours.memory_frames() == theirs.memory_frames()


def test_a_correction_stays_for_the_corrected_alone() -> None:
    policy = MemoryPolicy(every=None)
    segmenter = begun(small.network(), policy, 4, objects=3)
    segmenter.correct(only(MASKS[3], 1, 3))
    go_on(segmenter)
    assert segmenter.memory_frames() == [[0, 3, 8], [0, 8]]
    corrected, plain = (
        begun(small.network(), policy, 4, objects=3),
        begun(small.network(), policy, 4, objects=3),
    )
    corrected.correct(only(MASKS[3], 1))
    for each in (corrected, plain):
        each.step(FRAMES[4])
        each.step(FRAMES[5])
    frames = [corrected.attention(label).maps.keys() for label in (1, 2, 3)]
    assert [list(held) for held in frames] == [[0, 3, 4], [0, 4], [0, 4]]


def test_objects_keep_their_channels_when_their_memories_part() -> None:
    """With a correction that is the prediction itself, parting changes nothing but what stays."""
    network, policy = small.network(), MemoryPolicy(every=1)  # all frames stay in any case
    for keys in ("image_mask", "image"):
        network = small.network(key_input=keys)
        parted, whole = begun(network, policy, 3, objects=3), begun(network, policy, 3, objects=3)
        for segmenter in (parted, whole):
            probabilities = segmenter.step(FRAMES[3], only(MASKS[3], 2) if segmenter is parted else None)
            if segmenter is parted:
                given = probabilities
        whole.correct(only(MASKS[3], 1, 2, 3))
        parted.correct(only(MASKS[3], 1, 2, 3))
        assert given.shape == (4, *SIZE)
        assert len(parted.memory_frames()) == 2
        for a, b in zip(go_on(parted, range(4, 9)), go_on(whole, range(4, 9)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_an_absent_object_has_an_empty_mask_that_stays() -> None:
    segmenter = begun(small.network(), MemoryPolicy(every=None))
    before = segmenter._pending.probabilities[0]
    probabilities = segmenter.correct(absent=[2])
    assert not probabilities[2].any()
    assert torch.equal(probabilities[1], before[1])
    torch.testing.assert_close(probabilities[0], 1 - before[1])
    go_on(segmenter)
    assert [list(segmenter.attention(label).maps) for label in (1, 2)] == [[0, 10], [0, 5, 10]]
    with pytest.raises(ValueError, match="object 9 is not known"):
        segmenter.correct(absent=[9])
    with pytest.raises(ValueError, match="the mask shows object 2"):
        segmenter.correct(only(MASKS[5], 2), absent=[2])
    assert segmenter.object_ids == [1, 2]


# confidence


def test_confidence_by_hand() -> None:
    probabilities = torch.zeros(4, 1, 5)
    probabilities[1, 0] = torch.tensor([0.9, 0.7, 0.4, 0.0, 0.0])  # mask: the first two
    probabilities[2, 0] = torch.tensor([0.0, 0.2, 0.0, 0.3, 0.0])  # nowhere the likeliest
    probabilities[3, 0] = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])  # given
    probabilities[0] = 1 - probabilities[1:].sum(0)
    segmenter = Segmenter(small.network())
    mask = np.array([[5, 7, 9, 0, 0]] * 5, dtype=np.uint8)
    segmenter.step(torch.zeros(3, 5, 5), mask)
    sure = segmenter.confidence(probabilities)
    assert list(sure) == [5, 7, 9]
    assert sure[5] == pytest.approx((0.8, 1.6 / 2.4))
    assert sure[7] == (0, 0) and sure[9] == (1, 1)


def test_confidence_is_the_expected_overlap() -> None:
    """Objects drawn pixel by pixel from the probabilities overlap the mask that much, taken together."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand((40, 50), generator=generator) ** 2
    segmenter = Segmenter(small.network())
    segmenter.step(torch.zeros(3, 40, 50), np.ones((40, 50), dtype=np.uint8))
    score = segmenter.confidence(torch.stack([1 - p, p]))[1].score
    mask = p > 0.5
    drawn = torch.rand((2000, 40, 50), generator=generator) < p
    overlap = (drawn & mask).sum() / (drawn | mask).sum()
    assert score == pytest.approx(float(overlap), abs=2e-3)


def test_a_policy_is_no_name() -> None:
    with pytest.raises(ValueError, match="memory='every_5': must be a MemoryPolicy"):
        Segmenter(small.network(), "every_5")  # type: ignore[arg-type]


def test_after_the_last_object_is_removed_the_next_video_may_have_another_size() -> None:
    network = small.network(sensory_channels=4)
    segmenter = begun(network, objects=1)
    segmenter.remove(1)
    other = Segmenter(network)
    for t in range(3):
        frame, mask = FRAMES[t][:, :32], only(MASKS[0], 1)[:32] if t == 0 else None
        torch.testing.assert_close(segmenter.step(frame, mask), other.step(frame, mask))
