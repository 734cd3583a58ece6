"""Golden cases: outputs of the published code on two small videos, with the paper's memory."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import stm
from stm.memory import MemoryPolicy
from stm.network import STM, is_published, load_official

CASES = ("one_object", "two_objects")


@pytest.fixture(scope="module")
def weights(golden: Path) -> dict[str, torch.Tensor]:
    spec = importlib.util.spec_from_file_location("golden_weights", golden / "weights.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.state_dict()


SLOW_FORMS = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("file", "prefixed", "compiled", "state_dict", "model")
]


@pytest.fixture(scope="module", params=["plain", *SLOW_FORMS])
def network(
    request: pytest.FixtureRequest, weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> STM:
    if request.param == "plain":
        return load_official(weights)
    prefixed = {f"module.{name}": tensor for name, tensor in weights.items()}
    if request.param == "prefixed":
        return load_official(prefixed)
    if request.param == "compiled":
        return load_official({f"_orig_mod.{name}": tensor for name, tensor in prefixed.items()})
    path = tmp_path_factory.mktemp("official") / "STM_weights.pth"
    if request.param == "file":
        torch.save(prefixed, path)
        return load_official(path)
    torch.save({"epoch": 3, request.param: prefixed}, path)
    return stm.load(path)


@pytest.mark.parametrize("case", CASES)
def test_videos_equal_the_published_code(network: STM, golden: Path, case: str) -> None:
    truth = np.load(golden / f"{case}.npz")
    segmenter = stm.Segmenter(network, MemoryPolicy(every=int(truth["memory_every"])))
    for t, frame in enumerate(truth["frames"]):
        probabilities = segmenter.step(frame, truth["first_mask"] if t == 0 else None)
        expected = truth["probabilities"][t]
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=2e-4, err_msg=f"frame {t}")
        ranked = np.sort(expected, axis=0)
        clear = ranked[-1] - ranked[-2] > 1e-3
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(segmenter.labels(probabilities)[clear], truth["masks"][t][clear])


@pytest.mark.parametrize("case", CASES)
def test_keys_and_values_equal_the_published_code(network: STM, golden: Path, case: str) -> None:
    truth = np.load(golden / f"{case}.npz")
    frame = torch.from_numpy(truth["frames"][0]).permute(2, 0, 1) / 255
    objects = truth["key"].shape[0]
    masks = torch.stack([torch.from_numpy(truth["first_mask"] == o + 1).float() for o in range(objects)])
    with torch.no_grad():
        key, value = network.memorize(frame, masks)
    for actual, expected in ((key, truth["key"]), (value, truth["value"])):
        assert np.linalg.norm(actual.numpy() - expected) < 1e-3 * np.linalg.norm(expected)
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_the_cases_detect_a_missing_detail(weights: dict[str, torch.Tensor], golden: Path) -> None:
    """Equation 2 as printed, without the published division, exceeds the tolerance."""
    truth = np.load(golden / "two_objects.npz")
    network = load_official(weights)
    network.similarity = "dot"
    segmenter = stm.Segmenter(network, MemoryPolicy(every=int(truth["memory_every"])))
    segmenter.step(truth["frames"][0], truth["first_mask"])
    assert np.abs(segmenter.step(truth["frames"][1]).numpy() - truth["probabilities"][1]).max() > 2e-3


def test_the_number_of_parameters_equals_the_published_one(weights: dict[str, torch.Tensor]) -> None:
    buffers = ("running_mean", "running_var", "num_batches_tracked", "Encoder_M.mean", "Encoder_M.std")
    buffers += ("Encoder_Q.mean", "Encoder_Q.std")
    published = sum(tensor.numel() for name, tensor in weights.items() if not name.endswith(buffers))
    ours = sum(p.numel() for p in STM(other_objects_channel=True).parameters())
    assert ours == published
    assert ours == pytest.approx(38.9e6, abs=5e4)


def test_published_names_are_recognized(weights: dict[str, torch.Tensor]) -> None:
    assert is_published(weights)
    assert is_published({f"module.{name}": tensor for name, tensor in weights.items()})
    assert not is_published({"query_encoder.key.weight": torch.zeros(1)})


def test_problems_of_a_state_dict_are_listed(weights: dict[str, torch.Tensor]) -> None:
    wrong = {f"module.{name}": tensor for name, tensor in weights.items()}
    del wrong["module.Decoder.pred2.bias"]
    del wrong["module.Encoder_Q.std"]
    wrong["module.Decoder.aspp.weight"] = torch.zeros(3)
    wrong["optimizer"] = torch.zeros(3)
    wrong["module.KV_M_r4.Key.weight"] = torch.zeros(64, 1024, 3, 3)
    wrong["module.Encoder_M.mean"] = torch.full((1, 3, 1, 1), 0.5)
    with pytest.raises(ValueError) as error:
        load_official(wrong)
    lines = str(error.value).splitlines()[1:]
    assert sorted(line.strip().split(", expected")[0].split("ImageNet")[0] for line in lines) == [
        "Decoder.aspp.weight: not part of the published network",
        "Decoder.pred2.bias: missing",
        "Encoder_M.mean: must be ",
        "Encoder_Q.std: missing",
        "KV_M_r4.Key.weight: shape (64, 1024, 3, 3)",
        "optimizer: not part of the published network",
    ]
    assert "expected (128, 1024, 3, 3)" in str(error.value)


def test_a_long_list_of_problems_is_truncated() -> None:
    with pytest.raises(ValueError, match="(?s)missing.*and [0-9]+ more") as error:
        load_official({"epoch": torch.zeros(1)})
    assert len(str(error.value).splitlines()) < 30


class Exploit:
    """Content of a malicious file: code that runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_code_in_a_file_does_not_run(tmp_path: Path, save: str) -> None:
    evidence, file = tmp_path / "evidence", tmp_path / "weights.pth"
    if save == "torch":
        torch.save({"Decoder.pred2.bias": Exploit(evidence)}, file)
    else:
        file.write_bytes(pickle.dumps({"Decoder.pred2.bias": Exploit(evidence)}))
    with pytest.raises(ValueError, match=r"weights\.pth"):
        load_official(file)
    assert not evidence.exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 truncated"])
def test_a_file_without_weights_raises(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth"):
        load_official(file)


def test_a_file_without_a_state_dict_raises(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth: must contain a state dict; got a list"):
        load_official(tmp_path / "list.pth")


def test_a_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is a folder: it must be a file"):
        load_official(tmp_path)


def test_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.pth"):
        load_official(tmp_path / "missing.pth")
