"""How is a procedural scene drawn? A `Scene` is plain values; `render` turns it into frames and exact masks.

Lengths are in units of the square root of the picture's area, with the origin in the picture's middle, x to
the right and y down: an object of size 0.3 covers 0.09 of the picture, at any resolution. Arrays that change
over time have the frame as their first axis, T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from stm.data.synthetic.textures import Texture, pattern, rgb

SUBPIXELS = 4  # an outline is filled at this many times the resolution, in both directions


@dataclass(frozen=True)
class Outline:
    """What contour does an object have, and how does it deform? A superellipse with travelling waves, bent.

    Attributes:
        exponent: of the superellipse: 2 an ellipse, below it a diamond, `math.inf` a rectangle.
        aspect: width over height before the waves and the bend.
        waves: (order, amplitude, phase, radians a frame) of each wave around the contour; an amplitude is
            relative to the radius.
        bend: (largest angle between the middle and an end, phase, radians a frame).
    """

    exponent: float = 2.0
    aspect: float = 1.0
    waves: tuple[tuple[int, float, float, float], ...] = ()
    bend: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Layer:
    """What lies at one depth? A textured area and where it is in every frame.

    Attributes:
        texture: its surface.
        outline: its contour; None fills the picture.
        position: of its middle, unit lengths, (T, 2).
        angle: radians, (T,).
        size: square root of its area, (T,); for a layer without outline its magnification.
        scroll: of the texture under the outline, unit lengths, (T, 2).
        hue: added to the ramp's hues, 1 is the whole circle, (T,).
        gain: of its brightness, (T,).
        present: whether it is drawn, bool (T,).
        label: its object id; 0 for what belongs to the background.
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


@dataclass(frozen=True, eq=False)
class Scene:
    """What does a procedural video show?

    Attributes:
        layers: from the back to the front.
        light: the picture's brightness, (T,).
        shade: how much brighter each layer is towards the light, brightness a size, (2,).
        noise: standard deviation of the sensor's noise, brightness 0..1.
        blur: standard deviation of the lens's blur, unit lengths.
        seed: of the noise.
        absence: first frame without any object and the frame in which they return, where that is the story.
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
        """The object ids, ascending."""
        return sorted({layer.label for layer in self.layers} - {0})


def render(scene: Scene, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw every frame of a scene at size (H, W): uint8 (T, H, W, 3) in RGB, and labels, uint8 (T, H, W).

    A pixel has the label of the foremost layer that covers at least half of it.
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
        y, x = rng.integers(0, 33, 2)  # one sheet of grain, moved: drawing it anew takes most of the time
        canvas += grain[y : y + size[0], x : x + size[1]]
        frames[t] = np.clip(np.rint(canvas), 0, 255)
    return frames, masks


def render_mask(scene: Scene, t: int, size: tuple[int, int]) -> np.ndarray:
    """Draw the labels of frame t alone, uint8 (H, W)."""
    labels = np.zeros(size, np.uint8)
    for layer in scene.layers:
        if layer.present[t]:
            box, alpha = _coverage(polygons(layer, np.array([t]))[0], size)
            labels[box][alpha >= 0.5] = layer.label
    return labels


def contours(outline: Outline, t: np.ndarray, points: int = 96) -> np.ndarray:
    """The outline at frames t (T,) around the origin, each with area 1, float (T, points, 2)."""
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
    """The layer's contour in the picture at frames t (T,), unit lengths, float (T, points, 2)."""
    if layer.outline is None:
        return np.tile(1e3 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]), (len(t), 1, 1))
    cos, sin = np.cos(layer.angle[t]), np.sin(layer.angle[t])
    turn = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)
    shape = contours(layer.outline, t) @ turn
    return layer.size[t, None, None] * shape + layer.position[t, None]


class _Paint:
    """A layer's colors: the pattern as a tile, and a table of its 256 colors for each frame."""

    def __init__(self, layer: Layer, size: tuple[int, int]) -> None:
        self.layer, self.size = layer, size
        samples = 2 ** math.ceil(math.log2(_unit(size) * layer.texture.period))
        self.tile = pattern(layer.texture, max(64, samples))
        ramp = np.repeat(layer.texture.ramp[None], len(layer.hue), axis=0)
        ramp[..., 0] += layer.hue[:, None]
        stops = rgb(ramp) * layer.gain[:, None, None]
        place = np.linspace(0, len(layer.texture.ramp) - 1, 256)
        low = np.minimum(place.astype(int), len(layer.texture.ramp) - 2)
        part = (place - low)[:, None]
        table = stops[:, low] * (1 - part) + stops[:, low + 1] * part
        self.table = (255 * table).astype(np.float32)

    def __call__(self, t: int, box: tuple[slice, slice], shade: np.ndarray) -> np.ndarray:
        """Colors of the layer within a box of pixels at frame t, float32 (h, w, 3), 0..255."""
        layer, unit = self.layer, _unit(self.size)
        height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
        per_unit = self.tile.shape[0] / layer.texture.period
        # pixel -> unit lengths around the layer's middle -> turned and scaled back -> samples of the tile
        origin = (np.array([box[1].start, box[0].start]) + 0.5 - np.array(self.size[::-1]) / 2) / unit
        back = _turn(-layer.angle[t]) * (layer.size[0] / layer.size[t])
        start = (back @ (origin - layer.position[t]) + layer.scroll[t]) * per_unit - 0.5
        matrix = np.column_stack([back * (per_unit / unit), start % self.tile.shape[0]])
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
    """The box of pixels that a polygon (points, 2) touches, and how much of each it covers: 0..1, float32.

    The box is empty where the polygon is not in the picture.
    """
    points = points * _unit(size) + np.array(size[::-1]) / 2
    far = np.clip(points, -4 * max(size), 5 * max(size))  # fillPoly's numbers have 32 bits
    left, top = np.clip(np.floor(far.min(axis=0)).astype(int), 0, size[::-1])
    right, bottom = np.clip(np.ceil(far.max(axis=0)).astype(int), 0, size[::-1])
    box = slice(top, max(top, bottom)), slice(left, max(left, right))
    if right <= left or bottom <= top:
        return box, np.zeros((box[0].stop - top, box[1].stop - left), np.float32)
    fine = np.zeros(((bottom - top) * SUBPIXELS, (right - left) * SUBPIXELS), np.uint8)
    corners = np.rint(((far - [left, top]) * SUBPIXELS - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(fine, [corners], 254, shift=4)
    cv2.polylines(fine, [corners], True, 127, shift=4)  # fillPoly takes the edge in whole: half is right
    coarse = cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return box, coarse.astype(np.float32) / 254


def _turn(angle: float) -> np.ndarray:
    """The rotation by an angle, (2, 2)."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _unit(size: tuple[int, int]) -> float:
    """Pixels in a unit length."""
    return math.sqrt(size[0] * size[1])
