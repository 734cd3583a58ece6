"""Videos of any length whose frames are made when they are asked for, and their evaluation as a process.

python -m helpers.long_video OUTPUT LENGTH, in tests, evaluates one with an overlay video, and writes
OUTPUT/watched.json: the memory in use and the number of masks whenever a 100th frame was requested.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from helpers.small_networks import network
from stm.evaluation.evaluate import Benchmark, evaluate
from stm.memory import MemoryPolicy
from stm.video import Video


class LongVideo(Video):
    """A bright box that goes to and fro over noise; nothing is kept."""

    def __init__(self, name: str, length: int, size: tuple[int, int] = (240, 432)) -> None:
        self.name, self.size = name, size
        self.frame_names = [f"{t:05d}" for t in range(length)]
        self.first_frames = {1: 0}
        self._noise = np.random.default_rng(0).integers(0, 128, (*size, 3), dtype=np.uint8)

    def mask(self, t: int) -> np.ndarray:
        height, width = self.size
        left = abs(t % width - width // 2)
        mask = np.zeros(self.size, dtype=np.uint8)
        mask[height // 4 : height // 2, left : left + width // 4] = 1
        return mask

    def frame(self, t: int) -> np.ndarray:
        return self._noise + 120 * self.mask(t)[..., None]


class Watched(LongVideo):
    """Notes what was in use and what was there when its frames were asked for."""

    def __init__(self, name: str, length: int, output: Path) -> None:
        super().__init__(name, length)
        self.masks, self.seen = output / "masks" / name, []

    def frame(self, t: int) -> np.ndarray:
        if t % 100 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.seen.append({"t": t, "mb": pages / 256, "masks": len(list(self.masks.glob("*.png")))})
        return super().frame(t)


def run(output: Path, lengths: list[int], workers: int = 2, video: bool = False) -> list[Watched]:
    """Evaluate a video of each length."""
    videos = [Watched(f"video-{i}", length, output) for i, length in enumerate(lengths)]
    policy = MemoryPolicy(first=True, previous=True, every=None)
    benchmark = Benchmark("long", videos, size=32)
    evaluate(
        network(key_input="image"), policy, benchmark, output, progress=False, workers=workers, video=video
    )
    return videos


if __name__ == "__main__":
    torch.set_num_threads(1)
    (video,) = run(Path(sys.argv[1]), [int(sys.argv[2])], video=True)
    Path(sys.argv[1], "watched.json").write_text(json.dumps(video.seen))
