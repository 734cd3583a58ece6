"""Where is a clip cut out? Around objects of its first frame, so that they can be seen there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from stm.data.augment import Size, crop_matrix, warp_mask, zoom_of
from stm.masks import relabel
from stm.video import VOID, Clip

ATTEMPTS = 20
"""Draws of a first frame before a set is blamed for showing no object."""

_CROPS = 8
_KEPT = 0.3
"""Share of the object that a crop must keep, unless it covers a tenth of the crop anyway."""


def label_areas(mask: np.ndarray) -> np.ndarray:
    """Pixels of each object id, int64 (256,); 0 for background and void. Faster than a bincount."""
    areas = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    areas[[0, VOID]] = 0
    return areas


class CropAroundObjects:
    """Draws crops that show an object of a mask.

    Args:
        size: height and width of the crop.
        scale: smallest and largest zoom, relative to the largest cut of the crop's shape that fits the frame:
            1 takes all of it, 2 a half in each direction; drawn log-uniformly. Below 1 the crop reaches
            beyond the frame.
        min_object_area: share of the crop's area that an object needs to count as visible.
        flip: probability of mirroring left and right.
        rotate: largest rotation in degrees, either way.
        stretch: largest change of the aspect ratio, as a factor (1.0: none).
    """

    def __init__(
        self,
        size: Size,
        scale: tuple[float, float] = (1.0, 1.7),
        min_object_area: float = 0.002,
        flip: float = 0.5,
        rotate: float = 0.0,
        stretch: float = 1.0,
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(
                f"scale={tuple(scale)}: must be (smallest, largest) above 0, for example (1.0, 1.7)"
            )
        if stretch < 1:
            raise ValueError(f"stretch={stretch}: a factor of at least 1, for example 1.3")
        self.size, self.scale, self.min_object_area = size, tuple(scale), min_object_area
        self.flip, self.rotate, self.stretch = flip, rotate, stretch

    def visible(self, mask: np.ndarray) -> np.ndarray:
        """The ids that are large enough in a mask cut to the crop, ascending."""
        return np.flatnonzero(label_areas(mask) >= max(1.0, self.min_object_area * mask.size))

    def draw(self, rng: np.random.Generator, mask: np.ndarray) -> np.ndarray | None:
        """The matrix of a crop that shows an object of the mask, uint8 (H, W); None where it has none.

        A crop around a random pixel of a random object is taken if enough of the object is in it. After 8
        draws that fail, it is the largest object's box with a margin: its place is no longer random. In a
        frame much larger than the crop, a thin object may still fall between its pixels.
        """
        areas = label_areas(mask)
        ids = np.flatnonzero(areas)
        if len(ids) == 0:
            return None
        angle = rng.uniform(-self.rotate, self.rotate)
        stretch = math.exp(rng.uniform(-1, 1) * math.log(self.stretch))
        flip = bool(rng.random() < self.flip)
        for _ in range(_CROPS):
            anchor = int(rng.choice(ids))
            center, zoom = self._around(rng, mask, anchor)
            matrix = crop_matrix(center, zoom, self.size, angle, stretch, flip)
            shown = int(label_areas(warp_mask(mask, matrix, self.size))[anchor])
            pixels = self.size[0] * self.size[1]
            whole = areas[anchor] * zoom_of(matrix) ** 2
            if shown >= max(1.0, self.min_object_area * pixels) and shown >= min(_KEPT * whole, 0.1 * pixels):
                return matrix
        return self._box(mask, int(areas.argmax()), angle, stretch, flip)

    def _around(
        self, rng: np.random.Generator, mask: np.ndarray, anchor: int
    ) -> tuple[tuple[float, float], float]:
        """Center and zoom of a cut within the frame with a random pixel of the object in its inner part."""
        fit = max(self.size[0] / mask.shape[0], self.size[1] / mask.shape[1])
        zoom = fit * math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        pixels = np.flatnonzero(mask == anchor)
        y, x = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
        height, width = self.size[0] / zoom, self.size[1] / zoom
        return (
            _within(x + width * rng.uniform(-0.4, 0.4), width, mask.shape[1]),
            _within(y + height * rng.uniform(-0.4, 0.4), height, mask.shape[0]),
        ), zoom

    def _box(self, mask: np.ndarray, label: int, angle: float, stretch: float, flip: bool) -> np.ndarray:
        """The object's box in the middle of the crop and half as large, as far as an 8-fold zoom allows.

        An object that would be thinner than two pixels of the crop is shown larger, and not all of it.
        """
        x, y, width, height = cv2.boundingRect((mask == label).astype(np.uint8))
        fit = max(self.size[0] / mask.shape[0], self.size[1] / mask.shape[1])
        half = min(self.size[0] / height, self.size[1] / width) / 2
        zoom = min(max(half, 2 / min(width, height)), 8 * fit)
        center = (x + (width - 1) / 2, y + (height - 1) / 2)
        return crop_matrix(center, zoom, self.size, angle, stretch, flip)


def _within(center: float, length: float, extent: int) -> float:
    """The center moved so that the cut stays within the frame; the frame's middle where the cut is larger."""
    if length >= extent:
        return (extent - 1) / 2
    return min(max(center, (length - 1) / 2), extent - 1 - (length - 1) / 2)


def crop_size(crop: int | Sequence[int]) -> Size:
    """A crop given as a side or as height and width.

    Raises:
        ValueError: it is neither, or below 16 pixels.
    """
    size = (crop, crop) if isinstance(crop, int) else tuple(crop)
    if len(size) != 2 or min(size) < 16:
        raise ValueError(f"crop={crop}: a side or [height, width] in pixels, 16 or more, for example 384")
    return int(size[0]), int(size[1])


def clip_of(
    rng: np.random.Generator,
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    visible: np.ndarray,
    max_objects: int,
    k: int,
    source: str,
) -> Clip:
    """Choose the clip's objects among those visible in its first frame and lay it out.

    Args:
        images: uint8 (3, h, w) each.
        masks: uint8 (h, w) each, object ids.
        visible: ids that are large enough in the first mask; if none is, the largest is the object.
        max_objects: at most so many are drawn; the others become background.
        k, source: see `Clip`.
    """
    ids = visible if len(visible) else np.array([label_areas(masks[0]).argmax()])
    chosen = np.sort(rng.permutation(ids)[:max_objects])
    table = relabel(np.arange(256, dtype=np.uint8), chosen.tolist())
    frames, labels = np.stack(images), np.stack([cv2.LUT(mask, table) for mask in masks])
    return Clip(torch.from_numpy(frames), torch.from_numpy(labels), len(chosen), k, source)


def blank_source(name: str, tried: Sequence[str]) -> str:
    """What to say of a set whose first frames show no object."""
    return (
        f"{name}: no object in {len(tried)} first frames drawn in a row, such as {', '.join(tried[:3])}; "
        "are these index masks? (0 background, 1..254 objects, 255 void)"
    )
