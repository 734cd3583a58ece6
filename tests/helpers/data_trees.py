"""Small data sets for tests, in memory and in their real formats on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stm.masks import write_mask
from stm.video import ArrayVideo
from stm.visualization import write_video as write_movie

A, B, C = (5, 5, 20, 25), (22, 30, 38, 55), (2, 40, 18, 58)


def smooth_image(seed: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """Return a smooth random color image, uint8 (H, W, 3), that JPEG compression hardly changes."""
    corners = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize(size[::-1], Image.Resampling.BICUBIC))


def boxes(labels: Mapping[int, tuple[int, int, int, int]], size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """Return an index mask with a box (top, left, bottom, right) for each label."""
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
    """Write JPEGImages/<below>/<name>/00000.jpg ... and masks in Annotations, numbered by `step`."""
    for t, mask in enumerate(masks):
        frame = f"{t * step:05d}"
        write_frame(root / "JPEGImages" / below / name / f"{frame}.jpg", smooth_image(t, size))
        if mask is not None:
            write_mask(root / "Annotations" / below / name / f"{frame}.png", mask)


def gray_video(name: str, masks: Sequence[np.ndarray]) -> ArrayVideo:
    """Return a video whose frame t has the value 10 t everywhere, which identifies the frames of a clip."""
    stacked = np.stack(masks)
    values = 10 * np.arange(len(stacked), dtype=np.uint8)
    frames = np.broadcast_to(values[:, None, None, None], (*stacked.shape, 3)).copy()
    return ArrayVideo(name, frames, stacked)


class RecordingVideo(ArrayVideo):
    """A video that records which frames are read; some frames may lack masks or not be output frames."""

    def __init__(self, *arguments, annotated=None, output_frames=None, categories=None, **named):
        super().__init__(*arguments, **named)
        self.read = []
        if annotated is not None:
            self.annotated = annotated
        if output_frames is not None:
            self.output_frames = output_frames
        if categories is not None:
            self.categories = categories

    def frame(self, t):
        self.read.append(t)
        return super().frame(t)

    def mask(self, t):
        return super().mask(t) if t in self.annotated else None


def moving(name="box", ids=(3, 7), length=7, size=(40, 56), first_frames=None, **named):
    """Return a video of boxes that move two pixels per frame over noise, each from its first frame on."""
    rng = np.random.default_rng(len(name))
    frames = rng.integers(0, 256, (length, *size, 3), dtype=np.uint8)
    masks = np.zeros((length, *size), dtype=np.uint8)
    for t in range(length):
        for i, label in enumerate(ids):
            if t >= (first_frames or {}).get(label, 0):
                masks[t, 4 + 16 * i : 16 + 16 * i, 4 + 2 * t : 20 + 2 * t] = label
    return RecordingVideo(name, frames, masks, first_frames=first_frames, **named)


def ten_frames(labels=(3, 11, 200), name="v"):
    """Return a gray video with a box at rest for each label."""
    return gray_video(name, [boxes(dict(zip(labels, (A, B, C), strict=False)))] * 10)


class OneStill:
    """Stills that share one mask."""

    name = "one"

    def __init__(self, mask=None, count=5):
        self.mask, self.count = boxes({4: A, 100: B}) if mask is None else mask, count

    def __len__(self):
        return self.count

    def read(self, i):
        return smooth_image(i), self.mask


def write_sav_train(
    folder: Path, name: str, frames: int = 24, size: tuple[int, int] = (40, 60)
) -> np.ndarray:
    """Write a video of SA-V train with two overlapping objects; return its masks, bool (T, 2, H, W)."""
    from pycocotools import mask as coco

    masks = np.zeros((frames // 4, 2, *size), dtype=np.uint8)
    masks[:, 0, 4:30, 5:40] = 1
    for t in range(len(masks)):
        masks[t, 1, 10:20, 10 + t : 20 + t] = 1
    folder.mkdir(parents=True, exist_ok=True)
    shades = (np.full((*size, 3), 10 * t, dtype=np.uint8) for t in range(frames))
    write_movie(folder / f"{name}.mp4", shades, fps=24)
    codes = [[coco.encode(np.asfortranarray(mask)) for mask in both] for both in masks]
    plain = [[{**code, "counts": code["counts"].decode()} for code in both] for both in codes]
    (folder / f"{name}_manual.json").write_text(json.dumps({"video_id": name, "masklet": plain}))
    return masks > 0
