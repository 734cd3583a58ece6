"""Time a frame of the network `mobile` beside the paper's ResNet-50 network, on the CPU, in turns.

    python benchmarks/mobile.py [--size 480x854] [--objects 1] [--memory 6] [--frames 24] [--threads 2]
        [--precisions float32 bfloat16]

All segment the same random video with a memory of `--memory` frames, first in, first out. Weights are random:
time does not depend on them. Prints the median time of a frame and its CPU time, once the memory is full, and
the speed relative to the ResNet-50 at the first of `--precisions`.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from stm import MemoryPolicy, Segmenter
from stm.config.environment import tune_cpu
from stm.config.schema import CONF
from stm.network import STM

NETWORKS: dict[str, list[str]] = {  # overrides of train.py
    "resnet50, stride 16": ["network=stm", "backbone=resnet50"],
    "mobile, stride 16": ["network=mobile", "backbone=efficientnet_lite0", "network.read_stride=16"],
    "mobile, stride 8": ["network=mobile", "backbone=efficientnet_lite0", "network.read_stride=8"],
}
REFERENCE = "resnet50, stride 16"
PRECISIONS = ("float32", "bfloat16")


def build(overrides: list[str]) -> STM:
    """Return a network of conf/ with random weights."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*overrides, "backbone.pretrained=false"])
    return instantiate(config.network).eval()


def main() -> None:
    """Run all networks in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", default="480x854", help="HEIGHTxWIDTH of the frames")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--memory", type=int, default=6, help="frames in memory")
    parser.add_argument("--frames", type=int, default=24, help="frames that count, after the memory is full")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precisions", nargs="+", default=["float32"], choices=PRECISIONS)
    parser.add_argument("--reference-every", type=int, default=5, help="the ResNet-50 takes every n-th frame")
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    torch.set_num_threads(arguments.threads)
    tune_cpu()
    torch.manual_seed(0)
    masks = torch.zeros(height, width, dtype=torch.uint8)
    for number in range(arguments.objects):
        masks[height // 4 : height // 2, number * 40 : number * 40 + 40] = number + 1
    warmup = arguments.memory + 2
    policy = MemoryPolicy(max_frames=arguments.memory, every=1)  # `every` only fills the memory sooner
    segmenters = {
        (name, precision): Segmenter(build(overrides), policy)
        for name, overrides in NETWORKS.items()
        for precision in arguments.precisions
    }
    times: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in segmenters}
    for t in range(warmup + arguments.frames):
        frame = torch.rand(3, height, width)
        for (name, precision), segmenter in segmenters.items():
            if name == REFERENCE and t >= warmup and t % arguments.reference_every:
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                segmenter.step(frame, masks.numpy() if t == 0 else None)
            if t >= warmup:
                times[name, precision].append((time.perf_counter() - wall, time.process_time() - cpu))
    reference = median(wall for wall, _ in times[REFERENCE, arguments.precisions[0]])
    print(
        f"{arguments.size}, {arguments.objects} object(s), {arguments.threads} threads, "
        f"memory of {arguments.memory} frames"
    )
    for (name, precision), pairs in times.items():
        wall, cpu = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
        print(f"{name:20s} {precision:8s} {1000 * wall:8.0f} ms  {1 / wall:6.2f} fps", end="")
        print(f"  {1000 * cpu:8.0f} ms CPU  {reference / wall:6.1f} x")


if __name__ == "__main__":
    main()
