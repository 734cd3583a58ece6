"""The switches of docs/family.md mix: each combination builds, trains and steps through a video."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from helpers import small_networks as small
from helpers.composing import composed, plain

import stm
from stm.data.sampling import SkipCurriculum
from stm.memory import MemoryPolicy, published_policy
from stm.network import STM
from stm.training.lightning_module import EVERY_FRAME
from stm.video import ClipBatch

SWITCHES: dict[str, tuple[Any, ...]] = {
    "key_input": ("image_mask", "image"),
    "similarity": ("scaled_dot", "l2", "anisotropic_l2"),
    "value_fusion": ("none", "residual", "cbam"),
    "decoder": ("stm", "mask_propagation", "stcn", "xmem"),
    "sensory_channels": (0, 4),
}
COMBINATIONS = list(product(*SWITCHES.values()))
STEP = 11  # so that these combinations cover all pairs of values
POLICIES = (
    MemoryPolicy(every=2),
    published_policy("stcn", mem_every=2),
    published_policy("stcn", mem_every=1, include_last=True),
    published_policy(
        "xmem", mem_every=1, min_mid_term_frames=2, max_mid_term_frames=4, num_prototypes=5,
        max_long_term_elements=12,
    ),
    MemoryPolicy(every=1, max_frames=3, eviction="most_similar", motion_sigma=0.2),
    MemoryPolicy(every=1, max_frames=3, prototypes=4),
    MemoryPolicy(every=2, top_k=3, deep_update_every=3),
)  # fmt: skip


def test_the_quick_combinations_cover_all_pairs_of_values() -> None:
    quick = COMBINATIONS[::STEP]
    for first, second in product(range(len(SWITCHES)), repeat=2):
        every = set(product(*[list(SWITCHES.values())[i] for i in (first, second)]))
        missing = every - {(values[first], values[second]) for values in quick}
        assert first == second or not missing


@pytest.mark.parametrize(
    "index",
    [pytest.param(i, marks=[] if i % STEP == 0 else pytest.mark.slow) for i in range(len(COMBINATIONS))],
    ids=lambda i: "-".join(map(str, COMBINATIONS[i])),
)
def test_every_combination_trains_and_steps_through_a_video(index: int) -> None:
    switches = dict(zip(SWITCHES, COMBINATIONS[index], strict=True))
    is_mean = index % 2 == 1
    switches |= {"border": "mean", "mask_merging": "aggregate"} if is_mean else {}
    network = small.network(**switches, other_objects_channel=index % 3 > 0).train()
    train_two_steps(network)
    segment_a_video(network.eval(), POLICIES[index % len(POLICIES)])


def train_two_steps(network: STM) -> None:
    batch = ClipBatch.collate([small.clip(2), small.clip(1, seed=1)])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(2):
        segmenter = stm.Segmenter(network, EVERY_FRAME)
        segmenter.step(batch.frames[:, 0], batch.object_masks(0))
        losses = []
        for t in range(1, batch.frames.shape[1]):
            segmenter.step(batch.frames[:, t])
            assert segmenter.logits is not None
            losses.append(torch.nn.functional.cross_entropy(segmenter.logits, batch.masks[:, t].long()))
        loss = torch.stack(losses).sum()
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        optimizer.step()


def segment_a_video(network: STM, policy: MemoryPolicy) -> None:
    """Frames that 16 does not divide, with an object that enters late and one that is corrected."""
    size, length = (37, 50), 9
    frames, masks = small.frames(length, size), small.masks(length, 2, size).numpy()
    segmenter = stm.Segmenter(network, policy, length=length)
    for t in range(length):
        prompt = {0: small.only(masks[0], 1), 3: small.only(masks[3], 2), 5: masks[5]}.get(t)
        probabilities = segmenter.step(frames[t], prompt)
        assert probabilities.shape == (2 + (t >= 3), *size)
        torch.testing.assert_close(probabilities.sum(0), torch.ones(size), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value_fusion": "attention"}, "value_fusion=attention: must be one of none, residual, cbam"),
        ({"decoder": "aot"}, "decoder=aot: must be one of stm, mask_propagation, stcn, xmem"),
        ({"sensory_channels": -1}, "sensory_channels=-1: must be at least 0"),
        ({"fine_channels": 0}, "fine_channels=0: must be at least 1"),
        ({"tie_encoders": True, "memory_norm": "frozen"}, "tie_encoders=true: .* got .*memory_norm=frozen"),
        ({"border": "white"}, "border=white: must be one of black, mean"),
        ({"mask_merging": "max"}, "mask_merging=max: must be one of overwrite, aggregate"),
    ],
)
def test_senseless_networks_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small.network(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_from": "first"}, "memory.every_from=first: must be start or last"),
        ({"long_term": 100, "num_prototypes": 101}, "memory.num_prototypes=101: must be .* at most"),
        ({"long_term": 1000, "max_frames": 6}, "memory.long_term=1000: must be null with memory.max_frames"),
        ({"long_term": 1000, "max_mb": 6}, "memory.long_term=1000: must be null with memory.max_mb"),
        ({"long_term": 1000, "min_working_frames": 1}, "memory.min_working_frames=1: must be at least 2"),
        ({"long_term": 1000, "max_working_frames": 5}, "memory.min_working_frames=5: .*max_working_frames=5"),
        ({"deep_update_every": 0}, "memory.deep_update_every=0: must be at least 1, or null"),
    ],
)
def test_senseless_policies_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryPolicy(**arguments)


def test_a_published_policy_has_its_authors_settings() -> None:
    assert published_policy("stm") == MemoryPolicy()
    assert published_policy("stcn") == MemoryPolicy(previous=False, every_from="last", top_k=20)
    assert published_policy("mask_propagation", include_last=False).previous is False
    xmem = published_policy("xmem", mem_every=3, deep_update_every=-1, max_long_term_elements=500)
    assert (xmem.every, xmem.deep_update_every, xmem.long_term, xmem.top_k) == (3, None, 500, 30)
    assert published_policy("xmem", enable_long_term=False, deep_update_every=0).long_term is None
    with pytest.raises(ValueError, match="include_last=True: must be one of the settings of xmem: mem_every"):
        published_policy("xmem", include_last=True)
    with pytest.raises(ValueError, match="name=aot: must be one of stm, mask_propagation, stcn"):
        published_policy("aot")
    with pytest.raises(ValueError, match="topk=3: must be one of the settings of stcn: mem_every, top_k"):
        published_policy("stcn", topk=3)


@pytest.mark.parametrize("name", ["mask_propagation", "stcn", "xmem"])
def test_the_policy_files_are_the_published_ones(name: str) -> None:
    with composed(f"memory={name}") as config:
        values = {key: value for key, value in plain(config.memory).items() if key != "_target_"}
    assert MemoryPolicy(**values) == published_policy(name)


@pytest.mark.parametrize("name", ["stm", "mask_propagation", "stcn", "xmem", "xmem_no_sensory"])
def test_the_network_files_are_the_published_ones(name: str) -> None:
    from stm.network.published_names import PUBLISHED

    file = "official" if name == "stm" else name
    with composed(f"network={file}") as config:
        values = {key: value for key, value in plain(config.network).items() if key != "_target_"}
    with torch.device("meta"):
        published = STM(**PUBLISHED[name].arguments).arguments
        assert STM(**{**values, "pretrained": False}).arguments == published


def test_small_versions_train_and_have_as_many_parameters() -> None:
    counts = []
    for name in ("tiny_stm", "tiny_mask_propagation", "tiny_stcn", "tiny_xmem"):
        with composed("backbone=tiny", f"network={name}") as config:
            arguments = {key: value for key, value in plain(config.network).items() if key != "_target_"}
        network = STM(**arguments)
        assert network.arguments["read_stride"] == 8
        counts.append(sum(parameter.numel() for parameter in network.parameters()))
        train_two_steps(network.train())
        segment_a_video(network.eval(), published_policy(name.removeprefix("tiny_"), mem_every=2))
    assert max(counts) <= 1.2 * min(counts)


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("mask_propagation", {0: 5, 0.1: 10, 0.2: 15, 0.3: 20, 0.4: 25, 0.9: 5}),
        ("stcn", {0: 5, 0.1: 10, 0.2: 15, 0.3: 20, 0.4: 25, 0.9: 5}),
        ("xmem", {0: 5, 0.1: 10, 0.3: 15, 0.9: 5}),
    ],
)
def test_trainings_have_the_authors_amounts(name: str, limits: dict[float, int]) -> None:
    """The largest skip grows at given fractions of the training, and falls to 5 at 90%."""
    with composed(f"experiment=main_{name}") as config:
        values, clips = plain(config), config.steps * config.batch_size
    for source in values["data"]["sources"].values():
        curriculum = SkipCurriculum(stages=source["clips"]["curriculum"]["stages"])
        for fraction, limit in limits.items():
            assert curriculum.max_skip(round(fraction * clips)) == limit
        assert curriculum.max_skip(round(0.9 * clips) - 1) == max(limits.values())
    assert (values["optimizer"]["lr"], values["batch_size"]) == (1e-5, 8)
    assert values["network"]["decoder"] == name
    with composed("experiment=main_davis", f"network={name}") as config:
        assert plain(config)["network"] == values["network"]
