"""The plain references of STCN, Mask-Propagation and XMem against the published code's numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plain_family import (
    CASES,
    FAMILY,
    LATE_LONG,
    NETWORKS,
    SETTINGS,
    golden_case,
    golden_network,
    network_name,
    plain_reference,
)
from helpers.plain_frame_memory import PlainFrameMemory
from helpers.plain_xmem_memory import GroupMemory, PlainXMem, Store

Loop = PlainFrameMemory | PlainXMem


def build(case: str, truth: dict[str, Any], **settings: Any) -> Loop:
    name = network_name(case)
    settings |= {name: truth[name].item() for name in SETTINGS if name in truth}
    return plain_reference(golden_network(name), **settings)


def run(loop: Loop, truth: dict[str, Any]) -> tuple[list[np.ndarray], list[tuple[int, ...]]]:
    """Step through a case. Returns each frame's probabilities and, for XMem, the sizes of the stores."""
    masks = {0: truth["first_mask"]}
    if "late_frame" in truth:
        masks[int(truth["late_frame"])] = truth["late_mask"]
    outputs, sizes = [], []
    for t, frame in enumerate(truth["frames"]):
        mask = torch.from_numpy(masks[t]) if t in masks else None
        image = torch.from_numpy(frame).permute(2, 0, 1) / 255
        outputs.append(loop.step(image, mask, last=t == len(truth["frames"]) - 1).numpy())
        if isinstance(loop, PlainXMem):
            first = loop.groups[0]
            sizes.append(tuple(0 if store is None else len(store) for store in (first.work, first.long)))
    return outputs, sizes


def assert_equal_to_published(truth: dict[str, Any], outputs: list[np.ndarray]) -> None:
    for expected, t in zip(truth["probabilities"], truth["probability_frames"], strict=True):
        got = outputs[t]
        np.testing.assert_allclose(got, expected[: len(got)], rtol=0, atol=2e-4, err_msg=f"frame {t}")
        assert not expected[len(got) :].any()  # objects that have not entered yet
    for t, (got, mask) in enumerate(zip(outputs, truth["masks"], strict=True)):
        likeliest = np.sort(got, axis=0)
        is_clear = likeliest[-1] - likeliest[-2] > 1e-3
        assert is_clear.mean() > 0.9
        np.testing.assert_array_equal(got.argmax(0)[is_clear], mask[is_clear], err_msg=f"frame {t}")


def assert_equal_memory_sizes(truth: dict[str, Any], loop: PlainXMem, sizes: list[tuple[int, ...]]) -> None:
    np.testing.assert_array_equal(np.array(sizes).T, [truth["work_size"], truth["long_size"]])
    chosen = [set(prototypes.tolist()) for prototypes in loop.groups[0].prototypes]
    assert chosen == [set(row.tolist()) for row in truth.get("prototypes", [])]


QUICK = ("stcn_one_object", "mask_propagation_one_object", "xmem_one_object")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in CASES
        if case not in LATE_LONG
    ],
)
def test_probabilities_and_memory_equal_the_published_code(case: str) -> None:
    truth = golden_case(case)
    loop = build(case, truth)
    outputs, sizes = run(loop, truth)
    assert_equal_to_published(truth, outputs)
    assert set(loop.first_memory) == {"key", "value", "shrinkage", "selection", "hidden"} & truth.keys()
    for name, got in loop.first_memory.items():
        bound = 1e-4 * np.abs(truth[name]).max()
        got = got[:, ::8] if name == "value" else got.reshape(truth[name].shape)
        np.testing.assert_allclose(got, truth[name], rtol=0, atol=bound, err_msg=name)
    if isinstance(loop, PlainXMem):
        assert_equal_memory_sizes(truth, loop, sizes)


@pytest.mark.slow
@pytest.mark.parametrize("case", LATE_LONG)
def test_late_long_equals_the_published_code_with_its_defects_alone(case: str) -> None:
    truth = golden_case(case)
    loop = build(case, truth, published_defects=True)
    assert isinstance(loop, PlainXMem)
    outputs, sizes = run(loop, truth)
    assert_equal_to_published(truth, outputs)
    assert_equal_memory_sizes(truth, loop, sizes)

    loop = build(case, truth)
    assert isinstance(loop, PlainXMem)
    outputs, sizes = run(loop, truth)
    assert_equal_memory_sizes(truth, loop, sizes)  # of the first group, whose attention depends on no mask
    assert np.abs(outputs[-1] - truth["probabilities"][-1]).max() > 1e-2


class RecordingMemory(GroupMemory):
    """A memory that also keeps every frame written."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.written: list[Store] = []

    def write(self, frame: Store) -> None:
        self.written.append(frame)
        super().write(frame)


class RecordingXMem(PlainXMem):
    """XMem with recording memories."""

    def _new_group(self, objects: slice) -> RecordingMemory:
        return RecordingMemory(objects, self.settings)


@pytest.mark.slow
@pytest.mark.parametrize("case", LATE_LONG)
def test_values_of_late_objects_are_held_with_their_own_keys(case: str) -> None:
    truth = golden_case(case)
    plain = build(case, truth)
    assert isinstance(plain, PlainXMem)
    loop = RecordingXMem(plain.network, plain.settings)
    run(loop, truth)
    assert len(loop.groups) == 2
    for group in loop.groups:
        assert len(group.prototypes) > 2
        keys, values = (
            torch.cat([getattr(f, name) for f in group.written], -1) for name in ("keys", "values")
        )
        work, long = (torch.cdist(store.keys[0].T, keys[0].T) for store in (group.work, group.long))
        assert work.amin(dim=1).max() < 1e-2 < work.median()
        torch.testing.assert_close(group.work.values, values[..., work.argmin(dim=1)], rtol=0, atol=0)
        assert long.amin(dim=1).max() < 1e-2  # prototypes keep keys of the group's own frames
        assert len(group.long) == group.long.values.shape[-1] == 16 * len(group.prototypes)


@pytest.mark.slow
def test_long_term_memory_of_late_objects_is_evicted_on_its_own() -> None:
    truth = golden_case("xmem_no_sensory_late_long")
    plain = build("xmem_no_sensory_late_long", truth)
    assert isinstance(plain, PlainXMem)
    settings = replace(plain.settings, max_long_term_elements=36, count_long_term_usage=True)
    loop = PlainXMem(plain.network, settings)
    bound: list[set[int]] = [set(), set()]
    masks = {0: truth["first_mask"], int(truth["late_frame"]): truth["late_mask"]}
    for t, frame in enumerate(truth["frames"]):
        mask = torch.from_numpy(masks[t]) if t in masks else None
        loop.step(torch.from_numpy(frame).permute(2, 0, 1) / 255, mask)
        for sizes, group in zip(bound, loop.groups, strict=False):
            sizes.add(0 if group.long is None else len(group.long))
    assert bound == [{0, 16, 32, 36}, {0, 16, 32, 36}]


@pytest.mark.slow
def test_a_fully_labeled_frame_is_not_read() -> None:
    truth = golden_case("xmem_no_sensory_one_object")
    loop = build("xmem_no_sensory_one_object", truth)
    assert isinstance(loop, PlainXMem)
    frames = [torch.from_numpy(frame).permute(2, 0, 1) / 255 for frame in truth["frames"][:3]]
    mask = torch.from_numpy(truth["first_mask"])
    for t, frame in enumerate(frames):
        loop.step(frame, None if t == 1 else mask)
    group = loop.groups[0]
    assert group.work.life.round().tolist() == [1.0] * 42 + [0.0] * 42  # frame 0 was read once, at frame 1
    assert loop.last_memorized == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_has_the_published_names_and_shapes(name: str) -> None:
    published = json.loads((FAMILY / f"{name}_state_dict.json").read_text())
    assert {k: list(v.shape) for k, v in NETWORKS[name]().state_dict().items()} == published
