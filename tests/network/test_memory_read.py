"""The memory read and soft aggregation against slow, plain references (sections 3.2 and 3.4)."""

import math

import numpy as np
import pytest
import torch

import stm.network.memory_read as read_module
from stm.network.decoder import soft_aggregation
from stm.network.memory_read import SIMILARITIES, activate_key, potentiate, read_memory, read_weights


def slow_f(query: np.ndarray, key: np.ndarray, kind: str) -> float:
    """Compute the similarity f of one query cell and one memory cell, equation 2 and its variants."""
    channels = len(key)
    if kind == "anisotropic_l2":  # key, shrinkage of the memory, selection of the query
        channels //= 2
        weighted = sum(query[channels + 1 + c] * (query[c] - key[c]) ** 2 for c in range(channels))
        return math.exp(-key[channels] * weighted / math.sqrt(channels))
    if kind == "l2":
        return math.exp(-sum((q - k) ** 2 for q, k in zip(query, key, strict=True)) / math.sqrt(channels))
    dot = sum(q * k for q, k in zip(query, key, strict=True))
    return math.exp(dot / math.sqrt(channels) if kind == "scaled_dot" else dot)


def slow_read(keys: np.ndarray, values: np.ndarray, query: np.ndarray, kind: str) -> np.ndarray:
    """Compute equation 1 without the concatenation, cell by cell, in float64."""
    batch, objects, channels, cells = values.shape
    result = np.zeros((batch, objects, channels, query.shape[-1]))
    for b in range(batch):
        for o in range(objects):
            object_keys = keys[b, o if keys.shape[1] > 1 else 0]
            for i in range(query.shape[-1]):
                f = [slow_f(query[b, :, i], object_keys[:, j], kind) for j in range(cells)]
                for j in range(cells):
                    result[b, o, :, i] += f[j] / sum(f) * values[b, o, :, j]
    return result


def random_memory(
    groups: int, scale: float = 1.0, kind: str = "dot", cells: int = 10, queries: int = 6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(groups)
    channels = 9 if kind == "anisotropic_l2" else 4
    keys = scale * torch.randn((2, groups, channels, cells), generator=generator)
    values = torch.randn((2, 3, 5, cells), generator=generator)
    query = scale * torch.randn((2, channels, queries), generator=generator)
    keys = activate_key(keys.flatten(0, 1)[..., None], kind)[..., 0].unflatten(0, (2, groups))
    return keys, values, activate_key(query[..., None], kind)[..., 0]


@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("groups", [1, 3], ids=["shared keys", "keys per object"])
def test_the_read_is_equation_1(kind: str, groups: int) -> None:
    keys, values, query = random_memory(groups, kind=kind)
    expected = slow_read(keys.double().numpy(), values.double().numpy(), query.double().numpy(), kind)
    np.testing.assert_allclose(read_memory(keys, values, query, kind), expected, atol=1e-5)


def test_l2_is_the_softmax_of_true_negative_squared_distances() -> None:
    keys, _, query = random_memory(3, scale=3.0)
    distance = torch.cdist(keys.transpose(-1, -2), query[:, None].transpose(-1, -2).expand(-1, 3, -1, -1))
    expected = torch.softmax(-distance.square() / math.sqrt(4), dim=-2)
    torch.testing.assert_close(read_weights(keys, query, "l2"), expected, atol=1e-5, rtol=1e-4)


def test_a_query_that_equals_one_memory_key_reads_its_value_by_l2() -> None:
    """Dot products favor long keys; distances favor equal ones."""
    keys = torch.tensor([[1.0, 0.0], [9.0, 9.0], [-5.0, 2.0]]).T[None, None]
    values = torch.tensor([[10.0, 20.0, 30.0]])[None, None]
    query = torch.tensor([[1.0], [0.0]])[None]
    assert read_memory(keys, values, query, "l2").item() == pytest.approx(10, abs=1e-3)
    assert read_memory(keys, values, query, "dot").item() == pytest.approx(20, abs=1e-2)


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_weights_sum_to_one_and_stay_finite_for_large_keys(kind: str) -> None:
    keys, _, query = random_memory(1, scale=100.0, kind=kind)
    weights = read_weights(keys, query, kind)
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(weights.sum(-2), torch.ones(2, 1, 6))


@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("groups", [1, 3], ids=["shared keys", "keys per object"])
def test_the_k_most_similar_cells_are_read_by_their_weights(kind: str, groups: int) -> None:
    keys, values, query = random_memory(groups, kind=kind)
    weights = read_weights(keys, query, kind, top_k=3)
    assert ((weights > 0).sum(-2) == 3).all()
    torch.testing.assert_close(weights.sum(-2), torch.ones(2, groups, 6))
    everything = read_weights(keys, query, kind)
    kept = everything * (weights > 0)
    torch.testing.assert_close(weights, kept / kept.sum(-2, keepdim=True), atol=1e-5, rtol=1e-4)
    assert (kept.amin(-2) >= 0).all() and (
        kept.sum(-2) >= everything.topk(3, dim=-2).values.sum(-2) - 1e-6
    ).all()
    mass = torch.zeros(2, groups, 10)
    read = read_memory(keys, values, query, kind, 3, mass)
    torch.testing.assert_close(read, values @ weights.expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mass, weights.sum(-1), atol=1e-5, rtol=1e-4)


def test_exactly_k_cells_are_read_where_all_tie() -> None:
    keys, query = torch.zeros(1, 1, 4, 10), torch.ones(1, 4, 6)
    assert ((read_weights(keys, query, "l2", 3) > 0).sum(-2) == 3).all()


@pytest.mark.parametrize("groups", [1, 3])
def test_a_top_k_read_has_the_gradient_of_its_weights(groups: int) -> None:
    keys, values, query = (x.requires_grad_() for x in random_memory(groups))
    read_memory(keys, values, query, "l2", 3).square().sum().backward()
    grads = [x.grad.clone() for x in (keys, values, query)]
    for x in (keys, values, query):
        x.grad = None
    weights = read_weights(keys, query, "l2", 3).expand(-1, 3, -1, -1)
    (values @ weights).square().sum().backward()
    for x, grad in zip((keys, values, query), grads, strict=True):
        torch.testing.assert_close(x.grad, grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("groups", [1, 3])
def test_prototypes_read_values_and_shrinkage_from_all_cells(kind: str, groups: int) -> None:
    keys, values, _ = random_memory(groups, kind=kind)
    chosen = torch.tensor([7, 2])
    new_keys, new_values = potentiate(keys, values, chosen, kind)
    for group in range(groups):
        weights = read_weights(keys[:, [group]], keys[:, group][..., chosen], kind)[:, 0]
        expected = keys[:, group][..., chosen].clone()
        if kind == "anisotropic_l2":
            expected[:, 4] = (keys[:, group, 4:5] @ weights)[:, 0]
        torch.testing.assert_close(new_keys[:, group], expected)
        for o in range(3) if groups == 1 else (group,):
            torch.testing.assert_close(new_values[:, o], values[:, o] @ weights)


def test_an_unknown_similarity_raises() -> None:
    keys, values, query = random_memory(1)
    with pytest.raises(ValueError, match="similarity=cosine: must be one of dot, scaled_dot, l2"):
        read_memory(keys, values, query, "cosine")


def aggregated(*probabilities: float) -> list[float]:
    """Return the probabilities of background and objects at one pixel."""
    p = torch.tensor(probabilities).view(1, -1, 1, 1)
    return torch.softmax(soft_aggregation(p), dim=1).flatten().tolist()


def test_aggregation_of_hand_computed_pixels() -> None:
    # One object, p = 0.8: background 0.2; odds 0.25 and 4.
    assert aggregated(0.8) == pytest.approx([0.25 / 4.25, 4 / 4.25], abs=1e-6)
    # Two objects of 0.5: background 0.25; odds 1/3, 1, 1.
    assert aggregated(0.5, 0.5) == pytest.approx([1 / 7, 3 / 7, 3 / 7], abs=1e-6)
    # 0.9 and 0.25: background 0.1 * 0.75 = 0.075; odds 3/37, 9, 1/3.
    total = 3 / 37 + 9 + 1 / 3
    assert aggregated(0.9, 0.25) == pytest.approx([3 / 37 / total, 9 / total, 1 / 3 / total], abs=1e-6)


@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("groups", [1, 3])
def test_a_large_memory_is_read_in_chunks(kind: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, values, query = random_memory(groups, 1.0, kind, cells=50, queries=17)
    expected = read_memory(keys, values, query, kind)
    chunks = []
    logits = read_module._logits
    monkeypatch.setattr(read_module, "_logits", lambda *a: chunks.append(a[1].shape[-1]) or logits(*a))
    monkeypatch.setattr(read_module, "ATTENTION_CHUNK", {"cpu": 2 * groups * 50 * 6})
    with torch.inference_mode():
        torch.testing.assert_close(read_memory(keys, values, query, kind), expected)
        assert chunks == [6, 6, 5]
        monkeypatch.setattr(read_module, "ATTENTION_CHUNK", {"cpu": 1})  # less than one cell requires
        torch.testing.assert_close(read_memory(keys, values, query, kind), expected)
    chunks.clear()
    torch.testing.assert_close(
        read_memory(keys.requires_grad_(), values, query, kind), expected, rtol=0, atol=0
    )
    assert chunks == [17]


def test_aggregation_is_finite_for_certain_probabilities() -> None:
    p = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]]).view(1, 2, 1, 4).requires_grad_()
    logits = soft_aggregation(p)
    assert torch.isfinite(logits).all()
    assert logits[0, :, 0].argmax(0).tolist()[:3] == [0, 1, 2]
    torch.nn.functional.cross_entropy(logits, torch.tensor([[[1, 2, 0, 0]]])).backward()
    assert torch.isfinite(p.grad).all()


def test_aggregation_has_the_gradient_of_its_formula() -> None:
    p = torch.rand((2, 3, 4, 5), generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    weight = torch.rand((2, 4, 4, 5), generator=torch.Generator().manual_seed(1))
    single, plain = p.clone().requires_grad_(), p.double().requires_grad_()
    (soft_aggregation(single) * weight).sum().backward()
    background = (1 - plain[:, 0]) * (1 - plain[:, 1]) * (1 - plain[:, 2])
    merged = torch.stack([background, *plain.unbind(1)], dim=1)
    (merged.logit() * weight).sum().backward()
    torch.testing.assert_close(single.grad, plain.grad.float(), rtol=1e-4, atol=1e-5)


def test_padded_slots_have_no_effect() -> None:
    p = torch.rand((2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    present = torch.tensor([[True, False, True], [True, True, True]])
    logits = soft_aggregation(p, present)
    alone = soft_aggregation(p[:1, [0, 2]])
    torch.testing.assert_close(logits[:1, [0, 1, 3]], alone, rtol=0, atol=0)
    assert (logits[0, 2] == -math.inf).all()
    torch.testing.assert_close(logits[1:], soft_aggregation(p[1:]), rtol=0, atol=0)


def test_the_clamp_runs_in_float32() -> None:
    """1 - 1e-7 is 1 in half precision, and the logit of 1 is infinite."""
    logits = soft_aggregation(torch.ones((1, 1, 1, 1), dtype=torch.bfloat16))
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
