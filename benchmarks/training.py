"""Compare time and memory of a training step with those of a plain one, and equal weights.

    python benchmarks/training.py [--network stm] [--size 384] [--batch 4] [--objects 1 3] [--repeats 5]

The plain step (tests/helpers/plain_training.py) encodes and decodes clip by clip and object by object, as
reproductions of STM's training do. Steps, forward and backward, alternate in one process, so that other
load on the machine slows both. Seconds are those of the process's CPU with one thread, else of the clock.
The table has their medians, the ratio with its quartiles, the peak of memory beyond the loaded network and
its gradients (each side in a process of its own; ours also with checkpointed activations), the differences of
loss and gradients in double precision on small frames, and TFLOP/s.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.plain_training import plain_training_step

from stm.evaluation.peak_memory import PeakMemory
from stm.inference import Segmenter
from stm.network import STM
from stm.training.lightning_module import EVERY_FRAME
from stm.training.loss import SegmentationLoss
from stm.training.throughput import count_flops
from stm.video import ClipBatch

STCN = {"key_input": "image", "similarity": "l2", "value_fusion": "cbam", "memory_backbone": "resnet18"}
TINY = {"backbone": "tiny", "key_channels": 32, "value_channels": 64, "decoder_channels": 32}
NETWORKS: dict[str, dict[str, Any]] = {
    "stm": {},
    "stcn": STCN,
    "resnet18": {"backbone": "resnet18"},
    "tiny": TINY,
    "tiny_stcn": STCN | TINY | {"memory_backbone": "micro"},
}
FORMS = ("plain", "ours", "checkpointed")


def make_batch(clips: int, objects: int, size: int) -> ClipBatch:
    """Random clips of three frames; their objects are upright bars."""
    frames = torch.randint(0, 256, (clips, 3, 3, size, size), dtype=torch.uint8)
    masks = torch.zeros(clips, 3, size, size, dtype=torch.uint8)
    width = size // (2 * objects + 1)
    for o in range(objects):
        masks[..., size // 4 : 3 * size // 4, (2 * o + 1) * width : (2 * o + 2) * width] = o + 1
    counts = torch.full((clips,), objects)
    return ClipBatch(frames, masks, counts, torch.arange(clips), ("random",) * clips)


def training_loss(network: STM, batch: ClipBatch, form: str) -> torch.Tensor:
    """The loss of a step, by the plain way or by ours."""
    loss = SegmentationLoss()
    for encoder in (network.query_encoder, network.memory_encoder):
        encoder.trunk.recompute = form == "checkpointed"
        encoder.trunk.fold_norms(form != "plain")
    if form == "plain":
        return plain_training_step(network, loss, batch)
    segmenter, losses = Segmenter(network, EVERY_FRAME), []
    segmenter.step(batch.frames[:, 0], batch.object_masks(0))
    for t in range(1, batch.frames.shape[1]):
        segmenter.step(batch.frames[:, t])
        assert segmenter.logits is not None
        losses.append(loss(segmenter.logits, batch.masks[:, t]))
    return torch.stack(losses).sum()


def run(network: STM, batch: ClipBatch, form: str) -> tuple[float, float]:
    """A step without the optimizer; returns its seconds and the loss."""
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    network.zero_grad()
    began = clock()
    loss = training_loss(network, batch, form)
    loss.backward()
    value, seconds = loss.item(), clock() - began
    print(f"  {form}: {seconds:.2f} s, loss {value:.6f}", file=sys.stderr, flush=True)
    return seconds, value


def peak_bytes(arguments: tuple[str, int, int, int, int], form: str) -> int:
    """The peak of memory of a step beyond the network and its gradients, in a process of its own."""
    with mp.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_bytes, (arguments, form))


def _peak_bytes(arguments: tuple[str, int, int, int, int], form: str) -> int:
    name, clips, objects, size, threads = arguments
    network, batch = prepare(name, clips, objects, size, threads)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before, peak = PeakMemory(torch.device("cpu")).bytes(), PeakMemory(torch.device("cpu"))
    run(network, batch, form)
    return peak.bytes() - before


def prepare(name: str, clips: int, objects: int, size: int, threads: int) -> tuple[STM, ClipBatch]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return STM(**NETWORKS[name]).train(), make_batch(clips, objects, size)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, default="stm")
    parser.add_argument("--size", type=int, default=384, help="side of the clips in pixels")
    parser.add_argument("--batch", type=int, default=4, help="clips")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--repeats", type=int, default=5, help="steps of each side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    for objects in options.objects:
        compare((options.network, options.batch, objects, options.size, options.threads), options.repeats)


def exact_results(
    arguments: tuple[str, int, int, int, int],
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Loss and gradients of all forms in double precision, on frames of at most 96 pixels.

    In single precision, rounding changes the signs of some inputs of ReLUs, and with them the gradient:
    that of an untrained ResNet-50 then differs by a thousandth from the exact one in every form.
    """
    name, clips, objects, size, threads = arguments
    network, batch = prepare(name, clips, objects, min(size, 96), threads)
    network.double()
    losses, gradients = {}, {}
    for form in FORMS:
        losses[form] = run(network, batch, form)[1]
        gradients[form] = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    return losses, gradients


def compare(arguments: tuple[str, int, int, int, int], repeats: int) -> None:
    """Run all forms for one number of objects, and print the table."""
    name, clips, objects, size, _ = arguments
    network, batch = prepare(*arguments)
    peaks = {form: peak_bytes(arguments, form) for form in FORMS}  # first: a process keeps what it frees
    losses, gradients = exact_results(arguments)
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for repeat in range(repeats):
        for form in FORMS if repeat % 2 else FORMS[::-1]:
            seconds[form].append(run(network, batch, form)[0])
    print(f"{name}, {size} pixels, batch {clips}, {objects} objects")
    for form in FORMS:
        ratios = np.percentile(np.array(seconds["plain"]) / np.array(seconds[form]), [25, 50, 75])
        difference = (gradients[form] - gradients["plain"]).norm() / gradients["plain"].norm()
        print(
            f"  {form:13} {np.median(seconds[form]):7.2f} s",
            f"x{ratios[1]:.2f} ({ratios[0]:.2f}-{ratios[2]:.2f})",
            f"peak {peaks[form] / 2**20:6.0f} MB (x{peaks[form] / peaks['plain']:.2f})",
            f"loss {losses[form] - losses['plain']:+.1e}, gradients {difference:.1e}",
            sep="  ",
            flush=True,
        )
    flops = count_flops(network, batch)
    assert flops is not None
    print(f"  {flops / 1e12:.3f} TFLOP a step, {flops / np.median(seconds['ours']) / 1e12:.3f} TFLOP/s")


if __name__ == "__main__":
    main()
