"""Time a frame of the network `mobile` beside the paper's ResNet-50 network, on the CPU, in turns.

    python benchmarks/mobile.py [--size 480x854] [--objects 1] [--frames 24] [--threads 2]

Both segment the same random video with the memory policy `fifo` (at most 6 frames). Weights are random, since
time does not depend on them. Prints the median time of a frame and its CPU time, once the memory is full.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from stm import MemoryPolicy, Segmenter
from stm.config.environment import tune_cpu
from stm.network import STM

MOBILE = {
    "backbone": "efficientnet_lite0",
    "memory_backbone": "micro",
    "memory_norm": "group",
    "key_channels": 48,
    "value_channels": 96,
    "decoder_channels": 48,
    "fine_channels": 32,
    "similarity": "l2",
    "key_input": "image",
    "other_objects_channel": True,
    "fuse_strides": True,
}
NETWORKS = {
    "resnet50, stride 16": {},
    "mobile, stride 16": {**MOBILE, "read_stride": 16},
    "mobile, stride 8": {**MOBILE, "read_stride": 8},
}
REFERENCE = "resnet50, stride 16"


def main() -> None:
    """Run all networks in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", default="480x854", help="HEIGHTxWIDTH of the frames")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--warmup", type=int, default=8, help="first frames that do not count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference-every", type=int, default=5, help="the ResNet-50 takes every n-th frame")
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    torch.set_num_threads(arguments.threads)
    tune_cpu()
    torch.manual_seed(0)
    masks = torch.zeros(height, width, dtype=torch.uint8)
    for number in range(arguments.objects):
        masks[height // 4 : height // 2, number * 40 : number * 40 + 40] = number + 1
    policy = MemoryPolicy(max_frames=6)
    segmenters = {name: Segmenter(STM(**values).eval(), policy) for name, values in NETWORKS.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in NETWORKS}
    for t in range(arguments.frames):
        frame = torch.rand(3, height, width)
        for name, segmenter in segmenters.items():
            if name == REFERENCE and t % arguments.reference_every:
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            segmenter.step(frame, masks.numpy() if t == 0 else None)
            if t >= arguments.warmup:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    reference = median(wall for wall, _ in times[REFERENCE])
    print(f"{arguments.size}, {arguments.objects} object(s), {arguments.threads} threads, memory of 6 frames")
    for name, pairs in times.items():
        wall, cpu = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
        print(f"{name:22s} {1000 * wall:8.0f} ms  {1 / wall:6.2f} fps  {1000 * cpu:8.0f} ms CPU", end="")
        print(f"  {reference / wall:6.1f} x")


if __name__ == "__main__":
    main()
