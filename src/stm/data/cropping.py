"""Crops around objects of a clip's first frame, so that they are visible there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from stm.data.augment import Size, crop_matrix, warp_mask, zoom_of
from stm.masks import relabel
from stm.video import Clip, void_label

ATTEMPTS = 20
"""Number of first frames drawn before a data set without visible objects is reported."""

_CROP_ATTEMPTS = 8
_MIN_KEPT = 0.3
"""Fraction of an object that a crop must keep unless the object covers a tenth of the crop."""


def label_areas(mask: np.ndarray) -> np.ndarray:
    """Count the pixels of each object id, int64 (256,) or, of uint16, (65536,); 0 for background and void."""
    void = void_label(mask)
    # calcHist is faster than np.bincount.
    areas = cv2.calcHist([mask], [0], None, [void + 1], [0, void + 1]).ravel().astype(np.int64)
    areas[[0, void]] = 0
    return areas


class CropAroundObjects:
    """Random crops that show an object of a mask.

    Args:
        size: height and width of the crop in pixels.
        scale: smallest and largest zoom relative to the largest window of the crop's shape that fits into the
            frame, drawn log-uniformly: 1 takes the largest window, 2 half of it in each direction. Below 1,
            the crop extends beyond the frame.
        min_object_area: fraction of the crop's area from which on an object counts as visible.
        flip: probability of mirroring left and right.
        rotate: largest rotation in degrees, in either direction.
        stretch: largest factor by which the aspect ratio changes; 1.0 for no change.

    Raises:
        ValueError: an argument is out of range.
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
                f"scale={tuple(scale)}: must be (smallest, largest), both above 0, such as (1.0, 1.7)"
            )
        if stretch < 1:
            raise ValueError(f"stretch={stretch}: must be a factor of at least 1, such as 1.3")
        self.size, self.scale, self.min_object_area = size, tuple(scale), min_object_area
        self.flip, self.rotate, self.stretch = flip, rotate, stretch

    def visible(self, mask: np.ndarray) -> np.ndarray:
        """Return the ids that are large enough in a cropped mask, ascending."""
        return np.flatnonzero(label_areas(mask) >= max(1.0, self.min_object_area * mask.size))

    def draw(self, rng: np.random.Generator, mask: np.ndarray) -> np.ndarray | None:
        """Draw the matrix of a crop that shows an object of the mask (H, W); None if it has no object.

        A crop around a random pixel of a random object is accepted if it keeps enough of the object. After 8
        rejected crops, the crop is the largest object's box with a margin, whose position is not random. In a
        frame much larger than the crop, a thin object may still fall between pixels of the crop.
        """
        areas = label_areas(mask)
        ids = np.flatnonzero(areas)
        if len(ids) == 0:
            return None
        angle = rng.uniform(-self.rotate, self.rotate)
        stretch = math.exp(rng.uniform(-1, 1) * math.log(self.stretch))
        flip = bool(rng.random() < self.flip)
        for _ in range(_CROP_ATTEMPTS):
            anchor = int(rng.choice(ids))
            center, zoom = self._around(rng, mask, anchor)
            matrix = crop_matrix(center, zoom, self.size, angle, stretch, flip)
            shown = int(label_areas(warp_mask(mask, matrix, self.size))[anchor])
            pixels = self.size[0] * self.size[1]
            needed = min(_MIN_KEPT * (areas[anchor] * zoom_of(matrix) ** 2), 0.1 * pixels)
            if shown >= max(1.0, self.min_object_area * pixels) and shown >= needed:
                return matrix
        return self._box(mask, int(areas.argmax()), angle, stretch, flip)

    def _around(
        self, rng: np.random.Generator, mask: np.ndarray, anchor: int
    ) -> tuple[tuple[float, float], float]:
        """Draw center and zoom of a window in the frame, with a random pixel of the object in its middle."""
        fit = max(self.size[0] / mask.shape[0], self.size[1] / mask.shape[1])
        zoom = fit * math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        pixels = np.flatnonzero(mask == anchor)
        y, x = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
        height, width = self.size[0] / zoom, self.size[1] / zoom
        return (
            _clamp_center(x + width * rng.uniform(-0.4, 0.4), width, mask.shape[1]),
            _clamp_center(y + height * rng.uniform(-0.4, 0.4), height, mask.shape[0]),
        ), zoom

    def _box(self, mask: np.ndarray, label: int, angle: float, stretch: float, flip: bool) -> np.ndarray:
        """Center the object's box in the crop at half the crop's size, limited to an 8-fold zoom.

        An object that would be thinner than two pixels of the crop is enlarged further and only partly shown.
        """
        x, y, width, height = cv2.boundingRect((mask == label).astype(np.uint8))
        fit = max(self.size[0] / mask.shape[0], self.size[1] / mask.shape[1])
        half = min(self.size[0] / height, self.size[1] / width) / 2
        zoom = min(max(half, 2 / min(width, height)), 8 * fit)
        center = (x + (width - 1) / 2, y + (height - 1) / 2)
        return crop_matrix(center, zoom, self.size, angle, stretch, flip)


def _clamp_center(center: float, length: float, extent: int) -> float:
    """Move a center so that the window stays in the frame, or to the middle if the window is larger."""
    if length >= extent:
        return (extent - 1) / 2
    return min(max(center, (length - 1) / 2), extent - 1 - (length - 1) / 2)


def check_at_least(minimum: int, **values: int) -> None:
    """Check that arguments are not below a minimum.

    Raises:
        ValueError: an argument is below the minimum.
    """
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name}={value}: must be at least {minimum}")


def crop_size(crop: int | Sequence[int]) -> Size:
    """Convert a side, or height and width, to height and width.

    Raises:
        ValueError: it is neither of the two, or a side is below 16 pixels.
    """
    size = (crop, crop) if isinstance(crop, int) else tuple(crop)
    if len(size) != 2 or min(size) < 16:
        raise ValueError(f"crop={crop}: must be a side or [height, width], at least 16 pixels, such as 384")
    return int(size[0]), int(size[1])


def make_clip(
    rng: np.random.Generator,
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    visible: np.ndarray,
    max_objects: int,
    k: int,
    source: str,
) -> Clip:
    """Draw a clip's objects among those visible in its first frame, and relabel and stack its frames.

    Args:
        rng: draws the objects.
        images: uint8 (3, h, w) each.
        masks: uint8 or uint16 (h, w) each, object ids.
        visible: ids that are large enough in the first mask; if empty, the largest object is taken.
        max_objects: largest number of objects; the others become background.
        k: see `Clip.index`.
        source: see `Clip.source`.
    """
    ids = visible if len(visible) else np.array([label_areas(masks[0]).argmax()])
    chosen = np.sort(rng.permutation(ids)[:max_objects])
    frames, labels = np.stack(images), np.stack([relabel(mask, chosen.tolist()) for mask in masks])
    return Clip(torch.from_numpy(frames), torch.from_numpy(labels), len(chosen), k, source)


def no_object_message(name: str, tried: Sequence[str]) -> str:
    """Return the error message for a data set whose first frames show no object."""
    return (
        f"{name}: no object in {len(tried)} first frames drawn in a row, such as {', '.join(tried[:3])}; "
        "must be index masks (0 background, 1..254 objects, 255 void)"
    )
