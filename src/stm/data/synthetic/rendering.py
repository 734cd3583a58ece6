"""Rendering of procedural scenes: a `Scene` holds plain values, `render` draws its frames and exact masks.

The unit of length is the square root of the frame's area. The origin is the center of the frame, x points to
the right and y down. So an object of size 0.3 covers 0.09 of the frame at any resolution. The first axis (T)
of an array that changes over time is the frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from stm.data.synthetic.textures import Texture, pattern, rgb

SUBPIXELS = 4  # outlines are filled at this multiple of the resolution in both directions


@dataclass(frozen=True)
class Outline:
    """Contour of an object: a superellipse with traveling waves and a periodic bend.

    Attributes:
        exponent: exponent of the superellipse: 2 for an ellipse, less for a diamond, `math.inf` for a
            rectangle.
        aspect: width divided by height, before waves and bend.
        waves: (order, amplitude relative to the radius, phase, radians per frame) of each wave around the
            contour.
        bend: (largest angle between the middle and an end, phase, radians per frame).
    """

    exponent: float = 2.0
    aspect: float = 1.0
    waves: tuple[tuple[int, float, float, float], ...] = ()
    bend: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Layer:
    """A textured area at one depth, with its position and appearance in every frame.

    Attributes:
        texture: the texture.
        outline: the contour; None fills the frame.
        position: position of the center in unit lengths, (T, 2).
        angle: rotation in radians, (T,).
        size: square root of the area, (T,); for a layer without outline, the magnification.
        scroll: shift of the texture under the outline in unit lengths, (T, 2).
        hue: offset of the ramp's hues, (T,); 1 is the full circle.
        gain: factor on the brightness, (T,).
        present: whether the layer is drawn, bool (T,).
        label: object id; 0 for background.
        is_scenery: whether it is a part of the backdrop, with which it moves.
    """

    texture: Texture
    outline: Outline | None
    position: np.ndarray
    angle: np.ndarray
    size: np.ndarray
    scroll: np.ndarray
    hue: np.ndarray
    gain: np.ndarray
    present: np.ndarray
    label: int = 0
    is_scenery: bool = False


@dataclass(frozen=True, eq=False)
class Scene:
    """The values that determine a procedural video.

    Attributes:
        layers: layers from back to front.
        light: brightness of the frame, (T,).
        shade: increase of each layer's brightness toward the light, per size of the layer, (2,).
        noise: standard deviation of the sensor noise, as brightness in 0..1.
        blur: standard deviation of the lens blur in unit lengths.
        seed: seed of the noise.
        absence: first frame without objects and the frame of their return, for an event.
    """

    layers: tuple[Layer, ...]
    light: np.ndarray
    shade: np.ndarray
    noise: float
    blur: float
    seed: int
    absence: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.light)

    @property
    def labels(self) -> list[int]:
        """Object ids, ascending."""
        return sorted({layer.label for layer in self.layers} - {0})


def render(scene: Scene, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Render all frames of a scene.

    Args:
        scene: the scene.
        size: (H, W) in pixels.

    Returns:
        Frames uint8 (T, H, W, 3), RGB, and masks uint8 (T, H, W). The label of a pixel is that of the
        foremost layer that covers at least half of it.
    """
    frames = np.empty((len(scene), *size, 3), np.uint8)
    masks = np.zeros((len(scene), *size), np.uint8)
    every = np.arange(len(scene))
    paints = [(layer, polygons(layer, every), _Paint(layer, size)) for layer in scene.layers]
    rng = np.random.default_rng(scene.seed)
    sigma = scene.blur * _unit(size)
    grain = rng.standard_normal((size[0] + 32, size[1] + 32, 3), np.float32) * np.float32(255 * scene.noise)
    for t in range(len(scene)):
        canvas = np.zeros((*size, 3), np.float32)
        for layer, points, paint in paints:
            if not layer.present[t]:
                continue
            box, alpha = _coverage(points[t], size)
            if alpha.size == 0:
                continue
            colors = paint(t, box, scene.shade)
            canvas[box] = cv2.blendLinear(colors, canvas[box], alpha, 1 - alpha)
            masks[t][box][alpha >= 0.5] = layer.label
        canvas *= np.float32(scene.light[t])
        if sigma > 0.2:
            canvas[:] = cv2.GaussianBlur(canvas, (0, 0), sigma)
        y, x = rng.integers(0, 33, 2)  # shift one sheet of noise, since drawing it per frame is slow
        canvas += grain[y : y + size[0], x : x + size[1]]
        frames[t] = np.clip(np.rint(canvas), 0, 255)
    return frames, masks


def render_mask(scene: Scene, t: int, size: tuple[int, int]) -> np.ndarray:
    """Render only the mask of frame t, uint8 (H, W)."""
    labels = np.zeros(size, np.uint8)
    for layer in scene.layers:
        if layer.present[t]:
            box, alpha = _coverage(polygons(layer, np.array([t]))[0], size)
            labels[box][alpha >= 0.5] = layer.label
    return labels


def contours(outline: Outline, t: np.ndarray, points: int = 96) -> np.ndarray:
    """Compute the outline at frames t (T,), centered and of area 1: float (T, points, 2)."""
    theta = np.arange(points) * (2 * np.pi / points)
    cos, sin = np.abs(np.cos(theta)), np.abs(np.sin(theta))
    if math.isinf(outline.exponent):
        radius = 1 / np.maximum(cos, sin)
    else:
        radius = (cos**outline.exponent + sin**outline.exponent) ** (-1 / outline.exponent)
    radius = np.repeat(radius[None], len(t), axis=0)
    for order, amplitude, phase, rate in outline.waves:
        radius *= 1 + amplitude * np.cos(order * theta + phase + rate * t[:, None])
    x = radius * np.cos(theta) * math.sqrt(outline.aspect)
    y = radius * np.sin(theta) / math.sqrt(outline.aspect)
    bend, phase, rate = outline.bend
    if bend > 0:  # the x axis becomes an arc of the same length
        angle = bend * np.sin(phase + rate * t)[:, None]
        curve = np.where(np.abs(angle) < 1e-3, 1e-3, angle) / np.abs(x).max(axis=1, keepdims=True)
        x, y = (1 / curve + y) * np.sin(curve * x), (1 / curve + y) * np.cos(curve * x) - 1 / curve
    area = 0.5 * np.sum(x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1), axis=1)
    shape = np.stack([x, y], axis=2)
    middle = (shape.min(axis=1, keepdims=True) + shape.max(axis=1, keepdims=True)) / 2
    return (shape - middle) / np.sqrt(np.abs(area))[:, None, None]


def polygons(layer: Layer, t: np.ndarray) -> np.ndarray:
    """Compute a layer's contour in the frames t (T,) in unit lengths: float (T, points, 2)."""
    if layer.outline is None:
        return np.tile(1e3 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]), (len(t), 1, 1))
    cos, sin = np.cos(layer.angle[t]), np.sin(layer.angle[t])
    turn = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)
    shape = contours(layer.outline, t) @ turn
    return layer.size[t, None, None] * shape + layer.position[t, None]


class _Paint:
    """Colors of a layer: its pattern as a tile, and a table of 256 colors for each frame."""

    def __init__(self, layer: Layer, size: tuple[int, int]) -> None:
        self.layer, self.size = layer, size
        samples = 2 ** math.ceil(math.log2(_unit(size) * layer.texture.period))
        self.tile = pattern(layer.texture, max(64, samples))
        ramp = np.repeat(layer.texture.ramp[None], len(layer.hue), axis=0)
        ramp[..., 0] += layer.hue[:, None]
        stops = rgb(ramp) * layer.gain[:, None, None]
        position = np.linspace(0, len(layer.texture.ramp) - 1, 256)
        low = np.minimum(position.astype(int), len(layer.texture.ramp) - 2)
        fraction = (position - low)[:, None]
        table = stops[:, low] * (1 - fraction) + stops[:, low + 1] * fraction
        self.table = (255 * table).astype(np.float32)

    def __call__(self, t: int, box: tuple[slice, slice], shade: np.ndarray) -> np.ndarray:
        """Compute the colors in a box of pixels at frame t, float32 (h, w, 3), 0..255."""
        layer, unit = self.layer, _unit(self.size)
        height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
        per_unit = self.tile.shape[0] / layer.texture.period
        # pixels -> unit lengths from the layer's center -> rotation and scale undone -> samples of the tile
        origin = (np.array([box[1].start, box[0].start]) + 0.5 - np.array(self.size[::-1]) / 2) / unit
        inverse = _rotation(-layer.angle[t]) * (layer.size[0] / layer.size[t])
        start = (inverse @ (origin - layer.position[t]) + layer.scroll[t]) * per_unit - 0.5
        matrix = np.column_stack([inverse * (per_unit / unit), start % self.tile.shape[0]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        values = cv2.warpAffine(self.tile, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
        colors = self.table[t].take(values, axis=0)
        if layer.outline is not None:
            across, down = (origin - layer.position[t]) * shade / layer.size[t]
            step = shade / (unit * layer.size[t])
            ramp = 1 + (across + step[0] * np.arange(width)) + (down + step[1] * np.arange(height))[:, None]
            colors *= np.clip(ramp, 0.4, 1.6).astype(np.float32)[..., None]
        return colors


def _coverage(points: np.ndarray, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Compute the box of pixels that a polygon (points, 2) touches, and the covered fraction of each pixel.

    Returns:
        The box as row and column slices, empty if the polygon lies outside of the frame, and float32 in 0..1.
    """
    points = points * _unit(size) + np.array(size[::-1]) / 2
    points = np.clip(points, -4 * max(size), 5 * max(size))  # fillPoly uses 32-bit integers
    left, top = np.clip(np.floor(points.min(axis=0)).astype(int), 0, size[::-1])
    right, bottom = np.clip(np.ceil(points.max(axis=0)).astype(int), 0, size[::-1])
    box = slice(top, max(top, bottom)), slice(left, max(left, right))
    if right <= left or bottom <= top:
        return box, np.zeros((box[0].stop - top, box[1].stop - left), np.float32)
    fine = np.zeros(((bottom - top) * SUBPIXELS, (right - left) * SUBPIXELS), np.uint8)
    corners = np.rint(((points - [left, top]) * SUBPIXELS - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(fine, [corners], 254, shift=4)
    cv2.polylines(fine, [corners], True, 127, shift=4)  # fillPoly fills edge pixels fully: half is right
    coarse = cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return box, coarse.astype(np.float32) / 254


def _rotation(angle: float) -> np.ndarray:
    """Return the matrix of a rotation, (2, 2)."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _unit(size: tuple[int, int]) -> float:
    """Return the pixels per unit length."""
    return math.sqrt(size[0] * size[1])
