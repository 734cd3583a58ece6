"""STCN, Mask-Propagation and XMem: equal to the published code on small videos, through `Segmenter`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import small_networks as small
from helpers.plain_family import (
    CASES,
    FAMILY,
    LATE_LONG,
    NETWORKS,
    SETTINGS,
    golden_case,
    golden_state_dict,
    network_name,
    plain_network,
    plain_reference,
)

import stm
from stm.memory import published_policy
from stm.network import STM, load_published
from stm.network.published_names import recognize

QUICK = ("stcn_one_object", "mask_propagation_one_object", "xmem_late_object")


def quick_first(names: Iterable[str], quick: Sequence[str]) -> list[Any]:
    """Mark all but some names as slow."""
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def networks() -> dict[str, STM]:
    """Networks that were loaded, by name."""
    return {}


def loaded(networks: dict[str, STM], name: str) -> STM:
    if name not in networks:
        networks.clear()  # one at a time, for memory
        networks[name] = load_published(golden_state_dict(name))
    return networks[name]


def settings_of(truth: dict[str, Any]) -> dict[str, Any]:
    return {name: truth[name].item() for name in SETTINGS if name in truth}


def prompts(truth: dict[str, Any]) -> dict[int, np.ndarray]:
    late = {int(truth["late_frame"]): truth["late_mask"]} if "late_frame" in truth else {}
    return {0: truth["first_mask"], **late}


def memory_sizes(segmenter: stm.Segmenter) -> tuple[int, int]:
    """Cells of the first group in working and in long-term memory."""
    bank = segmenter._objects.groups[0].bank
    work = sum(cells.stop - cells.start for _, cells, _ in bank.layout())
    return work, bank.read()[0].shape[-1] - work


@pytest.mark.parametrize("case", quick_first([case for case in CASES if case not in LATE_LONG], QUICK))
def test_golden_videos_equal_the_published_code(networks: dict[str, STM], case: str) -> None:
    truth, name = golden_case(case), network_name(case)
    network = loaded(networks, name)
    segmenter = stm.Segmenter(network, published_policy(name, **settings_of(truth)))
    expected = dict(zip(truth["probability_frames"].tolist(), truth["probabilities"], strict=True))
    sizes = []
    for t, frame in enumerate(truth["frames"]):
        probabilities = segmenter.step(frame, prompts(truth).get(t))
        got = probabilities.numpy()
        if t in expected:
            np.testing.assert_allclose(got, expected[t][: len(got)], rtol=0, atol=2e-4, err_msg=f"frame {t}")
            assert not expected[t][len(got) :].any()
        ranked = np.sort(got, axis=0)
        clear = ranked[-1] - ranked[-2] > 1e-3
        np.testing.assert_array_equal(segmenter.labels(probabilities)[clear], truth["masks"][t][clear])
        if "long_size" in truth and t:  # a frame is written when the next one comes
            sizes.append(memory_sizes(segmenter))
    if sizes:
        np.testing.assert_array_equal(np.array(sizes).T, [truth["work_size"][:-1], truth["long_size"][:-1]])


@pytest.mark.parametrize("name", quick_first(NETWORKS, ["xmem"]))
def test_golden_keys_and_values_equal_the_published_code(networks: dict[str, STM], name: str) -> None:
    truth = golden_case(f"{name}_two_objects")
    network = loaded(networks, name)
    frame = torch.from_numpy(truth["frames"][0]).permute(2, 0, 1) / 255
    masks = torch.stack([torch.from_numpy(truth["first_mask"] == label).float() for label in (1, 2)])
    with torch.no_grad():
        key, value = network.memorize(frame, masks)
    parts = {"key": key if len(key) > 1 else key[0], "value": value[:, ::8]}
    if "shrinkage" in truth:
        key, shrinkage, selection = key[0].split([64, 1, 64])
        parts |= {"key": key, "shrinkage": shrinkage, "selection": selection}
    if network.sensory_channels:
        with torch.no_grad():
            empty = network.initial_sensory(value[None])
            parts["hidden"] = network.update_sensory(value[None], empty)[0]
    for part, got in parts.items():
        bound = 1e-4 * np.abs(truth[part]).max()
        np.testing.assert_allclose(got, truth[part], rtol=0, atol=bound, err_msg=part)


@pytest.mark.slow
@pytest.mark.parametrize("case", LATE_LONG)
def test_late_objects_have_a_long_term_memory_of_their_own(networks: dict[str, STM], case: str) -> None:
    """Where the published code misreads its values, ours equals a plain reference that does not."""
    truth, name = golden_case(case), network_name(case)
    settings = settings_of(truth)
    plain = plain_reference(plain_network(name, golden_state_dict(name)), **settings)
    segmenter = stm.Segmenter(loaded(networks, name), published_policy(name, **settings))
    for t, frame in enumerate(truth["frames"]):
        mask = prompts(truth).get(t)
        labels = None if mask is None else torch.from_numpy(mask)
        expected = plain.step(torch.from_numpy(frame).permute(2, 0, 1) / 255, labels)
        got = segmenter.step(frame, mask)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


OTHER_CASES: dict[str, tuple[tuple[int, int], dict[int, list[int]], dict[str, Any]]] = {
    "stcn": ((50, 75), {0: [1], 2: [2], 6: [3]}, {"mem_every": 2, "include_last": True}),
    "mask_propagation": ((64, 70), {0: [1, 2], 4: [3], 5: [4]}, {"mem_every": 2, "top_k": 9}),
    "xmem": ((48, 65), {0: [1], 4: [1, 2]}, {"mem_every": 3, "deep_update_every": 2}),
    "xmem_no_sensory": (
        (33, 47),
        {0: [1], 2: [2], 7: [3]},
        {"mem_every": 1, "min_mid_term_frames": 2, "max_mid_term_frames": 4, "num_prototypes": 5}
        | {"max_long_term_elements": 12, "top_k": 6},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_CASES)
def test_other_sizes_settings_and_late_objects_equal_a_plain_reference(
    networks: dict[str, STM], name: str
) -> None:
    (height, width), entering, settings = OTHER_CASES[name]
    plain = plain_reference(plain_network(name, golden_state_dict(name)), **settings)
    segmenter = stm.Segmenter(loaded(networks, name), published_policy(name, **settings))
    for t, frame in enumerate(small.frames(11, (height, width))):
        mask = np.zeros((height, width), np.uint8) if t in entering else None
        for label in entering.get(t, []):
            mask[height // 4 : -height // 5, 9 * label + t : 9 * label + t + 7] = label  # type: ignore[index]
        expected = plain.step(frame / 255, None if mask is None else torch.from_numpy(mask))
        torch.testing.assert_close(segmenter.step(frame, mask), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", quick_first(NETWORKS, ["stcn"]))
def test_a_prefix_and_a_file_change_nothing(name: str, tmp_path: Path) -> None:
    weights = {f"module.{name}": tensor for name, tensor in golden_state_dict(name).items()}
    torch.save(weights, tmp_path / "weights.pth")
    network, plain = stm.load(tmp_path / "weights.pth"), load_published(golden_state_dict(name))
    assert network.policy == published_policy(name)
    for parameter, other in zip(network.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(parameter, other)


@pytest.mark.parametrize("name", quick_first(NETWORKS, ["mask_propagation"]))
def test_problems_are_listed_by_their_published_names(name: str) -> None:
    weights = golden_state_dict(name)
    stem = "mask_rgb_encoder.conv1.weight" if name == "mask_propagation" else "value_encoder.conv1.weight"
    del weights["decoder.pred.bias"]
    weights["decoder.aspp.weight"] = torch.zeros(3)
    weights[stem] = torch.zeros(64, 6, 7, 7)
    weights["epoch"] = 3
    with pytest.raises(ValueError) as error:
        load_published(weights)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "decoder.aspp.weight: not part of the published network",
        "decoder.pred.bias: missing",
        "epoch: not part of the published network",
        f"{stem}: shape (64, 6, 7, 7), expected (64, 5, 7, 7)",
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_an_incomplete_checkpoint_is_recognized(name: str) -> None:
    projections = ("key_comp", "key_proj", "kv_m_f16", "kv_q_f16", "mask_rgb_encoder")
    names = json.loads((FAMILY / f"{name}_state_dict.json").read_text())
    assert recognize(entry for entry in names if not entry.startswith(projections)) == name


def test_an_unknown_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a published checkpoint of STM, Mask-Propagation, XMem"):
        load_published({"encoder.weight": torch.zeros(1)})


def test_a_checkpoint_of_stcns_first_stage_has_no_channel_of_other_objects() -> None:
    weights = golden_state_dict("stcn")
    weights["value_encoder.conv1.weight"] = weights["value_encoder.conv1.weight"][:, :4]
    others = load_published(weights).memory_encoder.others_stem
    assert others is not None and not others.weight.any()
