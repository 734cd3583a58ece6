"""Frames and files as visitors of `stm explore` bring them."""

from pathlib import Path

import small
from PIL import Image

SIZE = (32, 48)
FRAMES = small.frames(23, SIZE).permute(0, 2, 3, 1).contiguous().numpy()
FIRST = small.masks(1, 2, SIZE)[0].numpy()


def written(folder: Path, frames=FRAMES[:4], names=("10.png", "9.png", "b 2.PNG", "x.png")) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(folder / name, "PNG")
    return [folder / name for name in names]
