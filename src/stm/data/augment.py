"""Geometric and color augmentation of training clips; the only file that uses albumentations.

A *matrix* (2, 3) maps pixel coordinates (x, y) of a source image to pixel coordinates of the crop. Every
frame is resampled once, directly from the source into the crop.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import cv2
import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks a server

import albumentations as A  # noqa: E402

Size = tuple[int, int]
"""Height and width in pixels."""

FILL = (124, 116, 104)
"""ImageNet's mean color, which fills a crop beyond its image; the mask is background there."""


# --- geometry ---


def crop_matrix(
    center: tuple[float, float],
    zoom: float,
    size: Size,
    angle: float = 0.0,
    stretch: float = 1.0,
    flip: bool = False,
) -> np.ndarray:
    """Compute the matrix that maps a point of the source to the center of the crop.

    Args:
        center: x, y of the point in source pixels.
        zoom: crop pixels per source pixel.
        size: height and width of the crop.
        angle: rotation in degrees.
        stretch: width divided by height, in the crop, of a square of the source.
        flip: mirror left and right.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    shape = np.diag([math.sqrt(stretch) * (-1 if flip else 1), 1 / math.sqrt(stretch)])
    linear = zoom * shape @ np.array([[cosine, -sine], [sine, cosine]])
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.column_stack([linear, middle - linear @ center])


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Compute the matrix that applies `first`, then `second`."""
    return (_homogeneous(second) @ _homogeneous(first))[:2]


def _homogeneous(matrix: np.ndarray) -> np.ndarray:
    """Append the row (0, 0, 1): (2, 3) -> (3, 3)."""
    return np.vstack([matrix[:2], [0.0, 0.0, 1.0]])


def zoom_of(matrix: np.ndarray) -> float:
    """Compute crop pixels per source pixel, as the square root of the ratio of areas."""
    return float(math.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def shrinkage(matrix: np.ndarray) -> int:
    """Return the largest factor (1, 2, 4 or 8) by which to shrink a frame before warping it without loss."""
    zoom = zoom_of(matrix)
    return next((by for by in (8, 4, 2) if zoom * by <= 1.0), 1)


def after_shrinking(matrix: np.ndarray, by: int) -> np.ndarray:
    """Adapt a matrix to a shrunk source, whose pixel i covers the pixels by * i .. by * i + by - 1."""
    offset = (by - 1) / 2
    return compose(matrix, np.array([[by, 0.0, offset], [0.0, by, offset]]))


def warp_frame(frame: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
    """Resample a frame into the crop, bilinearly: uint8 (H, W, 3) -> (h, w, 3)."""
    return cv2.warpAffine(
        frame, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=FILL
    )


def warp_mask(mask: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
    """Resample labels into the crop, by nearest neighbor: (H, W) -> (h, w)."""
    return cv2.warpAffine(mask, matrix, size[::-1], flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)


class _CropThenAffine(A.Affine):
    """The random affine transform of albumentations, composed with a crop into a single warp.

    Each call takes two more values: `cut`, the matrix of the crop, and `strength` in 0..1.
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
            if isinstance(full, dict):  # bounds for x and for y
                setattr(
                    self, name, {axis: _scale_bounds(pair, neutral, strength) for axis, pair in full.items()}
                )
            else:
                setattr(self, name, _scale_bounds(full, neutral, strength))
        sampled = super().get_params_dependent_on_data({**params, "shape": self.size}, data)
        sampled["matrix"] = compose(sampled["matrix"], data["cut"])
        return sampled

    # The warp of albumentations returns the source uncropped if the matrix happens to be the identity.
    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: object) -> np.ndarray:
        return warp_frame(img, matrix, self.size)

    def apply_to_mask(self, mask: np.ndarray, matrix: np.ndarray, **params: object) -> np.ndarray:
        return warp_mask(mask, matrix, self.size)


def _scale_bounds(bounds: tuple[float, float], neutral: float, strength: float) -> tuple[float, float]:
    low, high = (neutral + strength * (bound - neutral) for bound in bounds)
    return low, high


class StillMotion:
    """Random affine transforms that turn a still into several frames (paper, section 3.5).

    Args:
        size: height and width of the crop.
        rotate: largest rotation in degrees, in either direction.
        shear: largest shear in degrees, in either direction, in x and in y.
        zoom: smallest and largest magnification.
        translate: largest shift as a fraction of the crop, in either direction, in x and in y.
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
        """Seed the transform from the generator; otherwise all forked workers would draw the same."""
        self._transform.set_random_seed(int(rng.integers(2**32)))

    def __call__(
        self, frame: np.ndarray, mask: np.ndarray, cut: np.ndarray, strength: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a transform and apply it.

        Args:
            frame: uint8 (H, W, 3), RGB.
            mask: uint8 (H, W).
            cut: matrix that maps the source to the undistorted crop.
            strength: 0 for the undistorted crop, 1 for the full amounts.

        Returns:
            Frame uint8 (h, w, 3) and mask uint8 (h, w).
        """
        moved = self._transform(image=frame, mask=mask, cut=cut, strength=strength)
        return moved["image"], moved["mask"]


# --- color ---

Recolor = Callable[[np.ndarray], np.ndarray]


class ColorJitter:
    """Random changes of color, one for the whole clip and a small one for each frame.

    Gamma, contrast, brightness and channel gains are combined into one table of 256 entries per channel.

    Args:
        shared: strength of the change of all frames. 1 is strong: gamma and contrast change by a factor of up
            to 1.6, brightness by 0.2, gains by 1.35.
        each: strength of the change of each frame.
        permute: probability of permuting the channels, in the same way in all frames.
    """

    def __init__(self, shared: float = 0.0, each: float = 0.0, permute: float = 0.0) -> None:
        self.shared, self.each, self.permute = shared, each, permute

    def draw(self, rng: np.random.Generator, frames: int, strength: float = 1.0) -> list[Recolor]:
        """Draw a function uint8 (h, w, 3) -> (3, h, w) for each frame; `strength` (0..1) scales amounts."""
        shared = _curve(rng, self.shared * strength)
        order = rng.permutation(3) if rng.random() < self.permute * strength else np.arange(3)
        curves = [_curve(rng, self.each * strength) for _ in range(frames)]
        if not self.shared and not self.each:
            return [_ColorTable(None, order) for _ in curves]
        steps = np.arange(256, dtype=np.float32)[:, None] / 255
        start = shared(np.repeat(steps, 3, axis=1))
        return [_ColorTable(np.rint(curve(start) * 255).astype(np.uint8), order) for curve in curves]


class _ColorTable:
    """A lookup table for each channel, and an order of the channels: uint8 (h, w, 3) -> (3, h, w)."""

    def __init__(self, table: np.ndarray | None, order: np.ndarray) -> None:
        self.table = None if table is None else np.ascontiguousarray(table.T)  # (3, 256)
        self.order = order

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        planes = cv2.split(frame)
        if self.table is not None:  # one plane at a time is twice as fast as all three at once
            planes = [cv2.LUT(plane, table) for plane, table in zip(planes, self.table, strict=True)]
        return np.stack([planes[channel] for channel in self.order])


def _curve(rng: np.random.Generator, strength: float) -> Recolor:
    """Draw a map of values in 0..1, (..., 3); a strength of 0 is the identity."""
    gamma, contrast = np.exp(strength * rng.uniform(-0.5, 0.5, 2))
    gain = np.exp(strength * rng.uniform(-0.3, 0.3, 3))
    brightness = strength * rng.uniform(-0.2, 0.2)

    def apply(values: np.ndarray) -> np.ndarray:
        adjusted = (values**gamma - 0.5) * contrast + 0.5 + brightness
        return np.clip(adjusted * gain, 0.0, 1.0)

    return apply
