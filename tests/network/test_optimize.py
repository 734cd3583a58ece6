"""The network optimized for inference: the same results, the original unchanged."""

import copy
from typing import Any

import pytest
import torch
from helpers import small_networks as small
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import stm
from stm.memory import MemoryPolicy
from stm.network import STM, compiled, for_inference
from stm.network.optimize import WinogradConv2d
from stm.network.winograd import is_eligible, winograd_conv2d


def with_statistics(network: STM) -> STM:
    """Give all statistics and weights of batch normalization different values, as after training."""
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low in (
                (layer.running_mean, -0.2),
                (layer.running_var, 0.5),
                (layer.weight.data, 0.5),
            ):
                values.copy_(low + torch.rand(values.shape, generator=generator))
            layer.bias.data.normal_(0, 0.1, generator=generator)
    return network.eval()


def run(network: STM, objects: int = 2, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    """Return the probabilities of a few frames, computed without gradients."""
    masks = small.masks(1, objects, size)[0]
    segmenter = stm.Segmenter(network, MemoryPolicy(every=2))
    with torch.inference_mode():
        return torch.stack(
            [segmenter.step(f, None if t else masks) for t, f in enumerate(small.frames(5, size))]
        )


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large", "regnet_y_400mf", "efficientnet_b0"])
@torch.no_grad()
def test_folding_batch_normalization_keeps_the_results(backbone: str) -> None:
    network = with_statistics(small.network(backbone=backbone, norm="frozen", other_objects_channel=True))
    before = copy.deepcopy(network.state_dict())
    ready = for_inference(network)
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (network, ready)]
    assert norms[0] > 20
    trunks = (ready.query_encoder.trunk, ready.memory_encoder.trunk)
    large = sum(isinstance(module, WinogradConv2d) for trunk in trunks for module in trunk.modules())
    assert norms[1] == 2 + large  # the one after each stem, since mask features are added in between
    frame, masks = torch.rand(1, 3, 64, 64), torch.rand(1, 2, 64, 64) / 2
    memory = network.memorize(frame, masks)
    for actual, reference in zip(ready.memorize(frame, masks), memory, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))
    expected = torch.softmax(network.segment(frame, memory), dim=1)
    torch.testing.assert_close(
        torch.softmax(ready.segment(frame, memory), dim=1), expected, rtol=0, atol=1e-4
    )
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_the_copy_is_made_once_and_is_independent() -> None:
    network = small.network().train()
    ready = for_inference(network)
    assert ready is not network and network.training and not ready.training
    assert for_inference(ready) is ready
    with torch.no_grad():
        network.decoder.predict.bias += 1
    assert not torch.equal(ready.decoder.predict.bias, network.decoder.predict.bias)


def test_a_segmenter_uses_the_weights_at_its_first_frame() -> None:
    """Validation during training segments each video with the current weights."""
    network = small.network()
    first = run(network)
    with torch.no_grad():
        network.query_encoder.trunk.stem.weight += 0.1
    assert not torch.allclose(run(network), first)
    with torch.no_grad():
        network.query_encoder.trunk.stem.weight -= 0.1
    torch.testing.assert_close(run(network), first, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 23), st.integers(1, 23), st.booleans(), st.integers(0, 99))
def test_winograd_equals_the_convolution(count: int, height: int, width: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(5, 7, 3, padding=1, bias=bias)
    x = torch.randn(count, 5, height, width)
    with torch.no_grad():
        expected = conv.double()(x.double())
        result = winograd_conv2d(x, conv.float().weight, conv.bias)
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=3e-5)


def test_winograd_runs_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(256, 256, 3, padding=1), torch.randn(1, 256, 12, 12)
    with torch.no_grad():
        expected = conv(x)
        with torch.autocast("cpu", torch.bfloat16):
            result = winograd_conv2d(x.bfloat16(), conv.weight, conv.bias)
    assert result.dtype == torch.float32
    # The remaining error is the rounding of the input: 2^-9 per number, over 2304 products.
    torch.testing.assert_close(result, expected, rtol=0, atol=0.02)


def test_winograd_is_for_plain_convolutions_of_medium_size() -> None:
    def eligible(*channels: int, **arguments: Any) -> bool:
        return is_eligible(nn.Conv2d(*channels, **({"kernel_size": 3, "padding": 1} | arguments)))

    assert eligible(256, 512)
    assert not eligible(256, 128)
    assert not eligible(1024, 512)  # its transformed filters would take 75 MB
    for arguments in (
        {"stride": 2},
        {"kernel_size": 1, "padding": 0},
        {"padding": 0},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"padding_mode": "reflect"},
    ):
        assert not eligible(256, 256, **arguments)


@torch.no_grad()
def test_large_convolutions_share_weights_and_keep_the_results_on_a_cpu() -> None:
    """A second copy of them would take more memory than segmenting a small frame."""
    network = with_statistics(small.network(backbone="resnet18", norm="frozen", decoder_channels=256))
    ready = for_inference(network)
    shared = {weight.data_ptr(): weight.numel() for weight in network.parameters()}
    copied = sum(weight.numel() for weight in ready.parameters() if weight.data_ptr() not in shared)
    assert copied < 0.2 * sum(shared.values())
    large = [module for module in ready.modules() if isinstance(module, WinogradConv2d)]
    assert sum(module.is_winograd for module in large) >= 10  # the decoder's
    for side in (64, 176):  # 16 and 121 tiles at stride 4: too few for Winograd's algorithm, and enough
        frame, masks = torch.rand(2, 3, side, side), torch.rand(2, 2, side, side) / 2
        expected = torch.softmax(network.segment(frame, network.memorize(frame, masks)), dim=1)
        result = torch.softmax(ready.segment(frame, ready.memorize(frame, masks)), dim=1)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)
    assert all(weight.requires_grad for weight in network.parameters() if weight.ndim == 4)


@pytest.mark.parametrize("keys", ["image", "image_mask"])
def test_chunks_of_objects_keep_the_results(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large frames are processed by chunks of objects to save memory."""
    network = small.network(key_input=keys, other_objects_channel=True)
    expected = run(for_inference(network), objects=3)
    monkeypatch.setattr("stm.network.optimize.CHUNK_CELLS", 1)
    torch.testing.assert_close(run(for_inference(network), objects=3), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_compilation_keeps_the_results_and_covers_all_numbers_of_objects() -> None:
    network = small.network(key_input="image")
    fast = compiled(network)
    try:
        for size in ((32, 48), (48, 64)):
            for objects in (1, 2):
                torch.testing.assert_close(
                    run(fast, objects, size), run(network, objects, size), rtol=0, atol=1e-5
                )
            torch.compiler.set_stance("fail_on_recompile")
            for objects in (3, 5, 1, 4):
                torch.testing.assert_close(
                    run(fast, objects, size), run(network, objects, size), rtol=0, atol=1e-5
                )
            torch.compiler.set_stance("default")
    finally:
        torch.compiler.set_stance("default")


def test_out_of_memory_names_a_setting_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a full GPU is raised by hand, so that no GPU is needed."""
    frames, mask = small.frames(9), small.masks(1, 1)[0]

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def advice(policy: MemoryPolicy, at: int) -> str:
        segmenter = stm.Segmenter(small.network(), policy)
        for t in range(at):
            segmenter.step(frames[t], None if t else mask)
        with monkeypatch.context() as patch, pytest.raises(MemoryError) as caught:
            patch.setattr(STM, "encode", full)
            segmenter.step(frames[at])
        return str(caught.value)

    message = advice(MemoryPolicy(every=1), 8)
    assert message.startswith("frame 8: out of memory with 8 frames of 1 objects at 32x48 in memory (0 MB)")
    assert "memory.max_frames=4" in message
    assert "benchmark.size=22" in advice(MemoryPolicy(every=None), 8)
