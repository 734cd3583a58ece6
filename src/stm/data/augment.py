"""Geometry and color of training clips; the only file that knows albumentations.

A *matrix* is 2x3 and takes pixel indices (x, y) of a source image to pixel indices of the crop. Every frame
is resampled once, straight from the source into the crop.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import cv2
import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before the import, which asks a server otherwise

import albumentations as A  # noqa: E402

Size = tuple[int, int]
"""Height and width in pixels."""

FILL = (124, 116, 104)
"""ImageNet's mean color, shown where a crop reaches beyond its image; the mask is background there."""


# --- geometry ---


def crop_matrix(
    center: tuple[float, float],
    zoom: float,
    size: Size,
    angle: float = 0.0,
    stretch: float = 1.0,
    flip: bool = False,
) -> np.ndarray:
    """The matrix that puts a point of the source into the middle of the crop.

    Args:
        center: x, y of that point in source pixels.
        zoom: crop pixels per source pixel.
        size: height and width of the crop.
        angle: rotation in degrees.
        stretch: width by height of a square of the source in the crop.
        flip: mirror left and right.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    shape = np.diag([math.sqrt(stretch) * (-1 if flip else 1), 1 / math.sqrt(stretch)])
    linear = zoom * shape @ np.array([[cosine, -sine], [sine, cosine]])
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.column_stack([linear, middle - linear @ center])


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The matrix that does `first`, then `second`."""
    return (square(second) @ square(first))[:2]


def square(matrix: np.ndarray) -> np.ndarray:
    """(2, 3) -> (3, 3), homogeneous."""
    return np.vstack([matrix[:2], [0.0, 0.0, 1.0]])


def zoom_of(matrix: np.ndarray) -> float:
    """Crop pixels per source pixel, as the root of the area ratio."""
    return float(math.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def shrinkage(matrix: np.ndarray) -> int:
    """By how much may a frame be shrunk (1, 2, 4 or 8) before it is warped, with no loss to the crop?"""
    zoom = zoom_of(matrix)
    return next((by for by in (8, 4, 2) if zoom * by <= 1.0), 1)


def after_shrinking(matrix: np.ndarray, by: int) -> np.ndarray:
    """The same matrix for a shrunk source: its pixel i covers the pixels by*i .. by*i + by - 1."""
    offset = (by - 1) / 2
    return compose(matrix, np.array([[by, 0.0, offset], [0.0, by, offset]]))


def warp_frame(frame: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
    """Resample a frame into the crop: uint8 (H, W, 3) -> (h, w, 3), bilinear."""
    return cv2.warpAffine(
        frame, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=FILL
    )


def warp_mask(mask: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
    """Resample labels into the crop: uint8 (H, W) -> (h, w), nearest."""
    return cv2.warpAffine(mask, matrix, size[::-1], flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)


class _CropThenAffine(A.Affine):
    """albumentations' random affine transform, drawn for the crop and applied with the cut in one pass.

    Takes two more values with each call: `cut`, the matrix of the crop, and `strength` in 0..1.
    """

    def __init__(self, size: Size, **amounts: object) -> None:
        super().__init__(**amounts)
        self.size = size
        self._full = {name: getattr(self, name) for name in ("rotate", "shear", "scale", "translate_percent")}

    @property
    def targets_as_params(self) -> list[str]:
        return ["cut", "strength"]

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        strength = data["strength"]
        for name, full in self._full.items():
            neutral = 1.0 if name == "scale" else 0.0
            if isinstance(full, dict):  # a pair of bounds for x and one for y
                setattr(self, name, {axis: _towards(pair, neutral, strength) for axis, pair in full.items()})
            else:
                setattr(self, name, _towards(full, neutral, strength))
        drawn = super().get_params_dependent_on_data({**params, "shape": self.size}, data)
        drawn["matrix"] = compose(drawn["matrix"], data["cut"])
        return drawn

    # albumentations' own warp returns the whole source, uncut, where the matrix happens to be the identity.
    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: object) -> np.ndarray:
        return warp_frame(img, matrix, self.size)

    def apply_to_mask(self, mask: np.ndarray, matrix: np.ndarray, **params: object) -> np.ndarray:
        return warp_mask(mask, matrix, self.size)


def _towards(bounds: tuple[float, float], neutral: float, strength: float) -> tuple[float, float]:
    low, high = (neutral + strength * (bound - neutral) for bound in bounds)
    return low, high


class StillMotion:
    """How does a still become several frames? By a random affine transform for each (paper, section 3.5).

    The transform is built once; each clip reseeds it.

    Args:
        size: height and width of the crop.
        rotate: largest rotation in degrees, either way.
        shear: largest shear in degrees, either way, in x and in y.
        zoom: smallest and largest magnification.
        translate: largest shift in parts of the crop, either way, in x and in y.
    """

    def __init__(
        self, size: Size, rotate: float, shear: float, zoom: tuple[float, float], translate: float
    ) -> None:
        affine = _CropThenAffine(
            size,
            rotate=(-rotate, rotate),
            shear=(-shear, shear),
            scale=tuple(zoom),
            keep_ratio=True,
            translate_percent=(-translate, translate),
            p=1.0,
        )
        self._transform = A.Compose([affine])

    def reseed(self, rng: np.random.Generator) -> None:
        """Tie what follows to the generator: forked workers would all draw the same otherwise."""
        self._transform.set_random_seed(int(rng.integers(2**32)))

    def __call__(
        self, frame: np.ndarray, mask: np.ndarray, cut: np.ndarray, strength: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw the next transform and apply it: uint8 (H, W, 3) and (H, W) -> (h, w, 3) and (h, w).

        Args:
            frame, mask: the source, at one size.
            cut: the matrix that takes the source to the undistorted crop.
            strength: 0 gives the undistorted crop, 1 the full amounts.
        """
        moved = self._transform(image=frame, mask=mask, cut=cut, strength=strength)
        return moved["image"], moved["mask"]


# --- color ---

Recolor = Callable[[np.ndarray], np.ndarray]


class ColorJitter:
    """How do a clip's colors change? Alike in all of its frames, and a little differently in each.

    Gamma, contrast, brightness and the gain of each channel fold into one table of 256 entries a channel.

    Args:
        shared: strength of the change that all frames of a clip share. 1 is strong: gamma and contrast by a
            factor of up to 1.6, brightness by 0.2, gains by 1.35.
        each: strength of the change that each frame has for itself.
        permute: probability that the channels change places, in all frames of a clip alike.
    """

    def __init__(self, shared: float = 0.0, each: float = 0.0, permute: float = 0.0) -> None:
        self.shared, self.each, self.permute = shared, each, permute

    def draw(self, rng: np.random.Generator, frames: int, strength: float = 1.0) -> list[Recolor]:
        """A function a frame, uint8 (h, w, 3) -> (3, h, w); `strength` in 0..1 scales all amounts."""
        shared = _curve(rng, self.shared * strength)
        order = rng.permutation(3) if rng.random() < self.permute * strength else np.arange(3)
        curves = [_curve(rng, self.each * strength) for _ in range(frames)]
        if not self.shared and not self.each:
            return [_Table(None, order) for _ in curves]
        steps = np.arange(256, dtype=np.float32)[:, None] / 255
        start = shared(np.repeat(steps, 3, axis=1))
        return [_Table(np.rint(curve(start) * 255).astype(np.uint8), order) for curve in curves]


class _Table:
    """Look every value up in its channel's table, reorder the channels, and lay them one behind the other."""

    def __init__(self, table: np.ndarray | None, order: np.ndarray) -> None:
        self.table = None if table is None else np.ascontiguousarray(table.T)  # (3, 256)
        self.order = order

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        planes = cv2.split(frame)
        if self.table is not None:  # a plane at a time is twice as fast as all three
            planes = [cv2.LUT(plane, table) for plane, table in zip(planes, self.table, strict=True)]
        return np.stack([planes[channel] for channel in self.order])


def _curve(rng: np.random.Generator, strength: float) -> Recolor:
    """A random map of values in 0..1, (..., 3), as strong as told; 0 is the identity."""
    gamma, contrast = np.exp(strength * rng.uniform(-0.5, 0.5, 2))
    gain = np.exp(strength * rng.uniform(-0.3, 0.3, 3))
    brightness = strength * rng.uniform(-0.2, 0.2)

    def apply(values: np.ndarray) -> np.ndarray:
        bent = (values**gamma - 0.5) * contrast + 0.5 + brightness
        return np.clip(bent * gain, 0.0, 1.0)

    return apply
