"""Videos, clips and batches: first frames of objects, and channels of slots."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stm.video import VOID, ArrayVideo, Clip, ClipBatch


def video(masks, first_frames=None):
    masks = np.array(masks, dtype=np.uint8)
    return ArrayVideo("v", np.zeros((*masks.shape, 3), dtype=np.uint8), masks, first_frames)


def test_objects_are_those_of_the_first_mask_by_default():
    masks = [[[0, 4, 255]], [[7, 4, 2]]]
    assert video(masks).first_frames == {4: 0}
    assert video(masks, {4: 0, 7: 1}).first_frames == {4: 0, 7: 1}


def test_a_prompt_mask_holds_only_the_entering_objects():
    late = video([[[0, 4, 255]], [[7, 4, 2]], [[7, 7, 7]]], {4: 0, 7: 1})
    np.testing.assert_array_equal(late.prompt_mask(0), [[0, 4, 0]])
    np.testing.assert_array_equal(late.prompt_mask(1), [[7, 0, 0]])
    assert late.prompt_mask(2) is None
    assert late.prompt_mask(0).dtype == np.uint8


def test_a_video_has_names_a_length_and_defaults():
    three = video(np.zeros((3, 2, 2)))
    assert len(three) == 3
    assert list(three.frame_names) == ["00000", "00001", "00002"]
    assert list(three.annotated) == list(three.output_frames) == [0, 1, 2]
    assert three.categories == {} and three.first_frames == {}
    assert pickle.loads(pickle.dumps(three)).name == "v"


def test_mismatched_arrays_are_refused():
    with pytest.raises(
        ValueError, match=r"v: frames and masks must be .*; got \(2, 3, 4, 3\) and \(3, 3, 4\)"
    ):
        ArrayVideo("v", np.zeros((2, 3, 4, 3), np.uint8), np.zeros((3, 3, 4), np.uint8))


def clip(seed, objects, size=(5, 7), length=3):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, objects + 2, (length, *size), generator=generator, dtype=torch.uint8)
    masks[masks == objects + 1] = VOID
    frames = torch.randint(0, 256, (length, 3, *size), generator=generator, dtype=torch.uint8)
    return Clip(frames, masks, objects, seed, f"set/v:{seed}")


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=4), t=st.integers(0, 2))
def test_a_batch_stacks_its_clips(counts, t):
    clips = [clip(seed, objects) for seed, objects in enumerate(counts)]
    batch = ClipBatch.collate(clips)
    channels = batch.object_masks(t)
    assert len(batch) == len(clips)
    assert channels.shape == (len(clips), max(counts), 5, 7)
    for b, expected_clip in enumerate(clips):
        assert torch.equal(batch.frames[b], expected_clip.frames)
        assert torch.equal(batch.masks[b], expected_clip.masks)
        assert int(batch.objects[b]) == expected_clip.objects and int(batch.indices[b]) == expected_clip.index
        assert batch.sources[b] == expected_clip.source
        for slot in range(max(counts)):
            expected = (expected_clip.masks[t] == slot + 1).float()
            assert torch.equal(channels[b, slot], expected)
            assert slot < expected_clip.objects or not expected.any()  # unused slots and void are empty


def test_frames_and_masks_of_a_batch_move_to_a_device():
    batch = ClipBatch.collate([clip(0, 2), clip(1, 1)])
    moved = batch.to("meta")
    assert {moved.frames.device.type, moved.masks.device.type} == {"meta"}
    assert (moved.objects, moved.indices, moved.sources) == (batch.objects, batch.indices, batch.sources)
    assert moved.objects.device.type == "cpu", "shapes depend on it: a GPU is not waited for"
