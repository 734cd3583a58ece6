"""What the segmenter takes, and what it says to what it cannot take."""

import numpy as np
import pytest
import torch
from helpers import small_networks as small
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch import Tensor

import stm
from stm.inference.resize import resize_mask
from stm.masks import PALETTE, object_ids
from stm.video import VOID


def run(frames: list, mask: object) -> Tensor:
    """Probabilities of the last frame, given the first one's mask."""
    segmenter = stm.Segmenter(small.network())
    return [segmenter.step(frame, None if t else mask) for t, frame in enumerate(frames)][-1]


def test_all_kinds_of_frames_and_masks_agree() -> None:
    frames, mask = small.frames(2), small.masks(1, 2)[0]
    arrays = [frame.permute(1, 2, 0).numpy() for frame in frames]
    palette = Image.fromarray(mask.numpy())
    palette.putpalette(PALETTE.flatten().tolist())
    read_only = mask.numpy().copy()
    read_only.setflags(write=False)
    expected = run(list(frames), mask)
    for kind, inputs in {
        "float": list(frames / 255),
        "double": list(frames.double() / 255),
        "numpy": arrays,
        "mirrored memory": [np.ascontiguousarray(array[:, ::-1])[:, ::-1] for array in arrays],
        "PIL": [Image.fromarray(array) for array in arrays],
    }.items():
        torch.testing.assert_close(run(inputs, mask), expected, msg=kind)
    for labels in (
        mask.numpy(),
        mask.long(),
        mask.numpy().astype(np.uint16),
        mask.numpy().astype(np.int32),
        np.asfortranarray(mask.numpy()),
        mask.numpy()[::-1].copy()[::-1],
        read_only,
        palette,
    ):
        assert torch.equal(run(list(frames), labels), expected)


def test_a_frame_and_a_mask_are_left_as_they_were() -> None:
    frames, mask = [f.permute(1, 2, 0).numpy() for f in small.frames(3)], small.masks(1, 2)[0].numpy()
    copies, mask_copy = [frame.copy() for frame in frames], mask.copy()
    run(frames, mask)
    assert all(np.array_equal(a, b) for a, b in zip(frames, copies, strict=True))
    assert np.array_equal(mask, mask_copy)


FRAME, MASK = torch.zeros(3, 32, 48), torch.ones(32, 48, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("frame", "mask", "named"),
    [
        (FRAME, None, "frame 0: no object"),
        (FRAME, torch.zeros_like(MASK), "show an object"),
        (FRAME, torch.full_like(MASK, VOID), "show an object"),
        (FRAME, MASK[:, :40], r"\(32, 48\).*\(32, 40\)"),
        (FRAME, MASK[None], r"\(32, 48\).*\(1, 32, 48\)"),
        (FRAME, MASK.float(), "integers.*float32"),
        (FRAME, MASK.int() * 70_000, "0..65535.*70000"),
        (FRAME, -MASK.int(), "0..65535.*-1"),
        (FRAME[:1], MASK, r"\(3, H, W\).*\(1, 32, 48\)"),
        (FRAME.permute(1, 2, 0), MASK, r"\(3, H, W\).*\(32, 48, 3\)"),
        (FRAME.int(), MASK, "float in 0..1 or uint8.*int32"),
        (np.zeros((3, 32, 48), np.uint8), MASK, r"\(H, W, 3\).*\(3, 32, 48\)"),
        (np.zeros((32, 48, 3), np.float32), MASK, "uint8.*float32"),
        (FRAME[None], MASK, r"\(B, O, H, W\)"),
        (FRAME[None], torch.ones(2, 1, 32, 48), r"\(1, O, 32, 48\).*\(2, 1, 32, 48\)"),
    ],
)
def test_mistakes_are_named_and_leave_no_trace(frame: object, mask: object, named: str) -> None:
    segmenter = stm.Segmenter(small.network())
    with pytest.raises(ValueError, match=named):
        segmenter.step(frame, mask)
    frames, first = small.frames(2), small.masks(1, 2)[0]
    shown = [segmenter.step(frames[0], first), segmenter.step(frames[1])]
    assert torch.equal(shown[1], run(list(frames), first))


def test_a_frame_of_another_size_is_named() -> None:
    segmenter = stm.Segmenter(small.network())
    segmenter.step(FRAME, MASK)
    with pytest.raises(ValueError, match=r"frame 1.*one size.*\(1, 3, 48, 32\)"):
        segmenter.step(FRAME.transpose(1, 2))


def test_tiny_objects_that_meet_in_one_pixel_of_the_network() -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[0, 0], mask[1, 1], mask[40:80, 40:80] = 1, 2, 3
    frames = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    segmenter = stm.Segmenter(small.network(), size=32)
    labels = segmenter.labels(segmenter.step(frames[0], mask))
    np.testing.assert_array_equal(labels, mask)
    assert segmenter.step(frames[1]).shape[0] == 4 and list(segmenter.object_ids) == [1, 2, 3]


@given(
    hnp.arrays(np.uint8, (24, 40), elements=st.sampled_from([0, 1, 2, 3, 250, 254, 255]), fill=st.just(0)),
    st.integers(3, 23),
)
def test_a_resized_mask_keeps_every_object(mask: np.ndarray, side: int) -> None:
    assert object_ids(resize_mask(mask, (side, 2 * side))) == object_ids(mask)


def test_more_objects_than_pixels_are_refused() -> None:
    mask = np.arange(100, dtype=np.uint8).reshape(10, 10)
    assert object_ids(resize_mask(mask, (9, 11))) == list(range(1, 100))
    with pytest.raises(ValueError, match="99 objects do not fit into the 3x5 pixels"):
        resize_mask(mask, (3, 5))


@pytest.mark.parametrize("scale", [255, -2])
def test_floats_of_another_range_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"frame: floats must be in 0\.\.1; got"):
        stm.Segmenter(small.network()).step((FRAME + 1) * scale, np.ones((32, 48), np.uint8))


def test_a_batch_keeps_its_slots() -> None:
    masks = torch.zeros(2, 2, 32, 48)
    masks[0, :, :8], masks[1, 0, :8] = 0.5, 1
    segmenter = stm.Segmenter(small.network())
    segmenter.step(FRAME.expand(2, -1, -1, -1), masks)
    with pytest.raises(ValueError, match="2 slots; got 3"):
        segmenter.step(FRAME.expand(2, -1, -1, -1), torch.ones(2, 3, 32, 48))
    with pytest.raises(ValueError, match="empty in the batch's first frame"):
        segmenter.step(FRAME.expand(2, -1, -1, -1), torch.ones(2, 2, 32, 48))


def test_float_frames_of_0_to_255_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1.*200"):
        run([torch.full((3, 32, 32), 200.0)], torch.ones(32, 32, dtype=torch.uint8))
