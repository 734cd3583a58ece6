"""No step waits for a GPU or leaves a tensor on another device: shown by fake CUDA tensors on a CPU."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from stm import Segmenter
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.training.lightning_module import STMModule
from stm.training.loss import SegmentationLoss
from stm.video import ClipBatch

ADAM = partial(torch.optim.Adam, lr=1e-5)
COUNTS = torch.tensor([2, 1])  # on the host, like a batch's


@pytest.fixture
def fake_cuda() -> Iterator[Any]:
    """Tensors without content, on a GPU; reading one on the host raises."""
    with FakeTensorMode(allow_non_fake_inputs=False), torch.device("cuda"):
        yield


def batch() -> ClipBatch:
    frames = torch.zeros(2, 3, 3, 64, 80, dtype=torch.uint8)
    return ClipBatch(frames, frames[:, :, 0].contiguous(), COUNTS, COUNTS, ("one", "two"))


@pytest.mark.parametrize("network", [{}, {"key_input": "image", "similarity": "l2", "decoder": "stcn"}])
@pytest.mark.usefixtures("fake_cuda")
def test_a_training_step_never_waits_for_the_gpu(network: dict[str, Any]) -> None:
    loss = SegmentationLoss(bootstrap_fraction=0.5, bootstrap_start_step=0, bootstrap_end_step=1, dice=0.5)
    module = STMModule(STM(backbone="resnet18", **network), loss, ADAM).train()
    module._require_finite = lambda *_: None  # type: ignore[method-assign] # its event needs a real GPU
    value = module.training_step(batch(), 0)
    assert value.device.type == "cuda" and value.requires_grad


@pytest.mark.parametrize("policy", [MemoryPolicy(), MemoryPolicy(top_k=8, max_frames=3)])
@pytest.mark.usefixtures("fake_cuda")
def test_inference_never_waits_for_the_gpu(policy: MemoryPolicy) -> None:
    network = STM(backbone="resnet18").eval()
    network.ready_for_inference = True  # fake tensors cannot be copied
    with torch.inference_mode():
        segmenter = Segmenter(network, policy)
        for t in range(7):
            masks = torch.zeros(1, 2, 64, 80) if t == 0 else None
            probabilities = segmenter.step(torch.zeros(1, 3, 64, 80, dtype=torch.uint8), masks)
    assert probabilities.device.type == "cuda"


@pytest.mark.usefixtures("fake_cuda")
def test_reading_a_value_would_be_noticed() -> None:
    with pytest.raises(DataDependentOutputException):
        bool(torch.zeros(2).any())
