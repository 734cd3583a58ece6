"""Test-time augmentation."""

from pathlib import Path

import numpy as np
import torch
from helpers import small_networks as small

from stm import Segmenter
from stm.evaluation.evaluate import Benchmark, evaluate
from stm.inference.ensemble import Augmentation, Ensemble
from stm.masks import read_mask
from stm.memory import MemoryPolicy
from stm.video import ArrayVideo

FRAMES = small.frames(4, (40, 56)).permute(0, 2, 3, 1).numpy()
MASK = small.masks(4, 2, (40, 56))[0].numpy()


def run(segmenter: Ensemble | Segmenter, is_mirrored: bool = False) -> torch.Tensor:
    frames, mask = (FRAMES[:, :, ::-1], MASK[:, ::-1]) if is_mirrored else (FRAMES, MASK)
    steps = [
        segmenter.step(np.ascontiguousarray(frame), np.ascontiguousarray(mask) if t == 0 else None)
        for t, frame in enumerate(frames)
    ]
    return torch.stack(steps)


def test_the_mirrored_video_gives_mirrored_probabilities() -> None:
    network = small.network()
    one, other = (run(Ensemble([network], flip=True), is_mirrored) for is_mirrored in (False, True))
    assert torch.equal(one, other.flip(-1))
    assert not torch.allclose(one, run(Segmenter(network)), atol=1e-4)


def test_a_network_averaged_with_itself_is_itself() -> None:
    network = small.network()
    assert torch.equal(run(Ensemble([network, network])), run(Segmenter(network)))


def test_the_mean_is_over_networks_and_sizes() -> None:
    networks = [small.network(seed) for seed in (0, 1)]
    policy = MemoryPolicy(every=2)
    parts = [run(Segmenter(network, policy, size=size)) for network in networks for size in (None, 32)]
    ensemble = Ensemble(networks, policy, sizes=(None, 32))
    torch.testing.assert_close(run(ensemble), torch.stack(parts).mean(0))
    assert ensemble.object_ids == [1, 2]
    assert np.array_equal(ensemble.labels(ensemble.network_probabilities[0]) > 0, run_labels(ensemble))


def run_labels(ensemble: Ensemble) -> np.ndarray:
    return ensemble.network_probabilities[0].argmax(0).numpy() > 0


def test_an_evaluation_averages_and_records_it(tmp_path: Path) -> None:
    video = ArrayVideo("one", FRAMES, small.masks(4, 2, (40, 56)).numpy())
    networks = [small.network(seed) for seed in (0, 1)]
    augmentation = Augmentation(True, (32, 40), (networks[1],), ("other",))
    scores = evaluate(networks[0], None, Benchmark("mine", [video]), tmp_path, augmentation=augmentation)
    ensemble = Ensemble(networks, sizes=(32, 40), flip=True)
    labels = [ensemble.labels(step) for step in run(ensemble)]
    for t in range(1, 4):
        written = read_mask(tmp_path / "masks" / "one" / f"{video.frame_names[t]}.png")
        assert np.array_equal(written, labels[t])
    assert scores.settings["augmentation"] == {"flip": True, "sizes": [32, 40], "networks": ["other"]}
