"""Small data sets, in memory and in their real formats in a folder, for the tests of the data room."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stm.masks import write_mask
from stm.video import ArrayVideo

A, B, C = (5, 5, 20, 25), (22, 30, 38, 55), (2, 40, 18, 58)


def picture(seed: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """A smooth color picture, uint8 (H, W, 3), which survives JPEG."""
    corners = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize(size[::-1], Image.Resampling.BICUBIC))


def boxes(labels: Mapping[int, tuple[int, int, int, int]], size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """An index mask with a box (top, left, bottom, right) a label."""
    mask = np.zeros(size, dtype=np.uint8)
    for label, (top, left, bottom, right) in labels.items():
        mask[top:bottom, left:right] = label
    return mask


def write_frame(path: Path, frame: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path, quality=95) if path.suffix != ".png" else Image.fromarray(frame).save(
        path
    )


def write_video(
    root: Path, name: str, masks: Sequence[np.ndarray | None], step: int = 1, below: str = "", size=(40, 60)
) -> None:
    """JPEGImages/<below>/<name>/00000.jpg ... and the same in Annotations, numbered by `step`."""
    for t, mask in enumerate(masks):
        frame = f"{t * step:05d}"
        write_frame(root / "JPEGImages" / below / name / f"{frame}.jpg", picture(t, size))
        if mask is not None:
            write_mask(root / "Annotations" / below / name / f"{frame}.png", mask)


def gray_video(name: str, masks: Sequence[np.ndarray]) -> ArrayVideo:
    """A video whose frame t is all of the value 10 t, so that a clip shows which frames it has."""
    stacked = np.stack(masks)
    values = 10 * np.arange(len(stacked), dtype=np.uint8)
    frames = np.broadcast_to(values[:, None, None, None], (*stacked.shape, 3)).copy()
    return ArrayVideo(name, frames, stacked)


class Listed(ArrayVideo):
    """A video of which some frames have no truth, or are not asked for, and that notes what is read."""

    def __init__(self, *arguments, annotated=None, written=None, categories=None, **named):
        super().__init__(*arguments, **named)
        self.read = []
        if annotated is not None:
            self.annotated = annotated
        if written is not None:
            self.output_frames = written
        if categories is not None:
            self.categories = categories

    def frame(self, t):
        self.read.append(t)
        return super().frame(t)

    def mask(self, t):
        return super().mask(t) if t in self.annotated else None


def moving(name="box", ids=(3, 7), length=7, size=(40, 56), entries=None, **named):
    """Boxes that move two pixels a frame over noise; objects are there from their entry on."""
    rng = np.random.default_rng(len(name))
    frames = rng.integers(0, 256, (length, *size, 3), dtype=np.uint8)
    masks = np.zeros((length, *size), dtype=np.uint8)
    for t in range(length):
        for place, label in enumerate(ids):
            if t >= (entries or {}).get(label, 0):
                masks[t, 4 + 16 * place : 16 + 16 * place, 4 + 2 * t : 20 + 2 * t] = label
    return Listed(name, frames, masks, entries=entries, **named)


def ten_frames(labels=(3, 11, 200), name="v"):
    """A gray video with a box that stays where it is for each label."""
    return gray_video(name, [boxes(dict(zip(labels, (A, B, C), strict=False)))] * 10)


class OneStill:
    """A set of stills with one mask."""

    name = "one"

    def __init__(self, mask=None, count=5):
        self.mask, self.count = boxes({4: A, 100: B}) if mask is None else mask, count

    def __len__(self):
        return self.count

    def read(self, i):
        return picture(i), self.mask
