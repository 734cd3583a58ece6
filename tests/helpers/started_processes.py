"""Segmenters in the middle of a video, under some policies."""

from torch import Tensor

from helpers import small_networks as small
from helpers.small_networks import only
from stm.inference import Segmenter
from stm.memory import MemoryPolicy
from stm.network import STM

FRAMES, MASKS = small.frames(12), small.masks(12, 3).numpy()
POLICIES = {
    "paper": MemoryPolicy(every=3),
    "top_k": MemoryPolicy(every=2, top_k=3),
    "near": MemoryPolicy(every=2, motion_sigma=0.2),
    "prototypes": MemoryPolicy(every=1, max_frames=3, prototypes=4, eviction="least_used"),
    "novel": MemoryPolicy(every=1, max_frames=4, eviction="most_similar", min_novelty=0.0),
}


def begun(network: STM, policy: MemoryPolicy | None = None, frames: int = 6, objects: int = 2) -> Segmenter:
    segmenter = Segmenter(network, policy)
    for t in range(frames):
        segmenter.step(FRAMES[t], only(MASKS[0], *range(1, objects + 1)) if t == 0 else None)
    return segmenter


def go_on(segmenter: Segmenter, frames: range = range(6, 12)) -> list[Tensor]:
    return [segmenter.step(FRAMES[t]) for t in frames]
