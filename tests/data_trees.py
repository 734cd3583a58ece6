"""Small data sets in their real formats, written to a folder, for the tests of the data room."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stm.clip import ArrayVideo
from stm.masks import write_mask


def picture(seed: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """A smooth colour picture, uint8 (H, W, 3), which survives JPEG."""
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


def grey_video(name: str, masks: Sequence[np.ndarray]) -> ArrayVideo:
    """A video whose frame t is all of the value 10 t, so that a clip shows which frames it has."""
    stacked = np.stack(masks)
    values = 10 * np.arange(len(stacked), dtype=np.uint8)
    frames = np.broadcast_to(values[:, None, None, None], (*stacked.shape, 3)).copy()
    return ArrayVideo(name, frames, stacked)
