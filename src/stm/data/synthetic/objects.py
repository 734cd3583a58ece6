"""Random objects of procedural videos (texture, outline, trajectory) and the backdrop behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stm.data.synthetic.rendering import Layer, Outline, Scene
from stm.data.synthetic.textures import Texture, rgb


@dataclass(frozen=True)
class VideoSpec:
    """Dimensions of a procedural video.

    Attributes:
        frames: number of frames, T.
        width: width of a frame in unit lengths.
        height: height of a frame in unit lengths.
    """

    frames: int
    width: float
    height: float

    @property
    def extent(self) -> np.ndarray:
        """(width, height), float (2,)."""
        return np.array([self.width, self.height])


def static_layer(
    spec: VideoSpec, texture: Texture, outline: Outline | None, label: int = 0, **changing: np.ndarray
) -> Layer:
    """Create a layer at rest in the center with size 1, except for the arrays in `changing`."""
    zeros, ones = np.zeros(spec.frames), np.ones(spec.frames)
    center = np.zeros((spec.frames, 2))
    rest = {"position": center, "angle": zeros, "size": ones, "scroll": center, "hue": zeros, "gain": ones}
    return Layer(texture, outline, **{**rest, "present": ones > 0, **changing}, label=label, is_scenery=False)


def sample_object(
    rng: np.random.Generator, spec: VideoSpec, texture: Texture, count: int, label: int = 0
) -> Layer:
    """Draw an object that moves, rotates, deforms and changes its size; it is smaller if `count` > 1."""
    size = math.sqrt(rng.uniform(0.05, 0.18 if count == 1 else 0.13))
    frames = np.arange(spec.frames)
    scroll_rate = rng.normal(0, 0.006, 2) if rng.random() < 0.4 else np.zeros(2)
    return static_layer(
        spec,
        texture,
        _sample_outline(rng),
        label,
        position=sample_trajectory(rng, spec, size),
        angle=rng.uniform(0, 2 * np.pi) + smooth_noise(rng, spec, -1.2, 1.2) + rng.normal(0, 0.03) * frames,
        size=size * np.exp(smooth_noise(rng, spec, -0.22, 0.22, every=10)),
        scroll=rng.random(2) + frames[:, None] * scroll_rate,
        gain=smooth_noise(rng, spec, 0.85, 1.15, every=10),
    )


def sample_objects(
    rng: np.random.Generator, spec: VideoSpec, hues: np.ndarray, gray: float = 0.0
) -> list[Layer]:
    """Draw an object for each hue, labeled from 1; each is nearly gray with probability `gray`."""
    textures = [sample_texture(rng, float(hue), vivid=rng.random() >= gray) for hue in hues]
    return [sample_object(rng, spec, texture, len(hues), label) for label, texture in enumerate(textures, 1)]


def sample_distractor(
    rng: np.random.Generator, spec: VideoSpec, hues: np.ndarray, vivid: bool = True
) -> Layer:
    """Draw an unlabeled object whose hue is far from the given hues; nearly gray unless vivid."""
    candidates = rng.random(20)
    gaps = np.abs((candidates[:, None] - hues + 0.5) % 1 - 0.5).min(axis=1)
    return sample_object(rng, spec, sample_texture(rng, float(candidates[gaps.argmax()]), vivid), 2)


def sample_similar_object(rng: np.random.Generator, spec: VideoSpec, layer: Layer) -> Layer:
    """Draw an unlabeled object with the kind of texture and nearly the hue of a layer."""
    shift = [rng.choice([-1, 1]) * rng.uniform(0.08, 0.16), 0, 0]
    texture = replace(layer.texture, ramp=layer.texture.ramp + shift, seed=int(rng.integers(2**31)))
    return sample_object(rng, spec, texture, 2)


def sample_texture(rng: np.random.Generator, hue: float, vivid: bool = True) -> Texture:
    """Draw a texture of two colors near a hue, sometimes with nearly black or white as a third."""
    saturation, value = rng.uniform(0.6, 1) if vivid else rng.uniform(0, 0.5), rng.uniform(0.6, 1)
    second_hue = hue + rng.uniform(-0.06, 0.06)
    ramp = [[hue, saturation, value], [second_hue, saturation, value * rng.uniform(0.45, 0.75)]]
    if rng.random() < 0.3:
        ramp.append([hue, rng.uniform(0, 0.2), rng.choice([0.1, 0.95])])
    kind = str(rng.choice(["noise", "stripes", "checks", "blobs", "marble", "gradient"]))
    return Texture(kind, int(rng.integers(2**31)), rng.uniform(0.06, 0.2), np.array(ramp))


def compose_scene(
    rng: np.random.Generator, spec: VideoSpec, layers: Sequence[Layer], objects: Sequence[Layer]
) -> Scene:
    """Place layers before a random backdrop, with camera motion, light, noise and blur.

    Args:
        rng: draws the random values.
        spec: dimensions of the video.
        layers: all layers before the backdrop, from back to front.
        objects: the labeled layers, whose colors the backdrop avoids.
    """
    frames = np.arange(spec.frames)
    backdrop = static_layer(
        spec,
        _sample_backdrop(rng, objects),
        None,
        position=frames[:, None] * rng.normal(0, 0.008, 2)
        + smooth_noise(rng, spec, [-0.1, -0.1], [0.1, 0.1]),
        angle=rng.uniform(0, 2 * np.pi) + frames * rng.normal(0, 0.008),
        size=np.exp(smooth_noise(rng, spec, -0.15, 0.15, every=12)),
    )
    count = rng.choice([0, 1, 2], p=[0.5, 0.3, 0.2])
    scenery = [_sample_scenery(rng, spec, backdrop, objects) for _ in range(count)]
    direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    return Scene(
        layers=(backdrop, *scenery, *layers),
        light=smooth_noise(rng, spec, 0.85, 1.1, every=12),
        shade=strength * np.array([math.cos(direction), math.sin(direction)]),
        noise=rng.uniform(0, 0.035),
        blur=rng.uniform(0, 0.007),
        seed=int(rng.integers(2**31)),
    )


def _sample_scenery(
    rng: np.random.Generator, spec: VideoSpec, backdrop: Layer, objects: Sequence[Layer]
) -> Layer:
    """Draw a large layer that is fixed to the backdrop and moves with it."""
    rotation = backdrop.angle - backdrop.angle[0]
    offset = rng.uniform(-0.6, 0.6, 2)
    layer = static_layer(
        spec,
        _sample_backdrop(rng, objects),
        replace(_sample_outline(rng, pace=0.0), bend=(0.0, 0.0, 0.0)),
        position=backdrop.position
        + (backdrop.size * np.stack([np.cos(rotation), np.sin(rotation)])).T * offset[0]
        + (backdrop.size * np.stack([-np.sin(rotation), np.cos(rotation)])).T * offset[1],
        angle=rng.uniform(0, 2 * np.pi) + rotation,
        size=backdrop.size * rng.uniform(0.4, 0.9),
    )
    return replace(layer, is_scenery=True)


def _sample_outline(rng: np.random.Generator, pace: float = 1.0) -> Outline:
    """Draw a contour of a few waves, usually bent; `pace` scales the speed of its deformation."""
    waves = []
    for order in rng.permutation([2, 3, 4, 5, 6])[: rng.integers(1, 4)]:
        rate = pace * rng.choice([-1, 1]) * rng.uniform(0.05, 0.3)
        waves.append((int(order), rng.uniform(0.05, 0.5) / order**0.7, rng.uniform(0, 2 * np.pi), rate))
    bend = (rng.uniform(0.3, 1.1), rng.uniform(0, 2 * np.pi), pace * rng.uniform(0.1, 0.35))
    return Outline(
        exponent=float(rng.choice([1.3, 2, 2, 3, 6])),
        aspect=math.exp(rng.uniform(0, 0.9)),
        waves=tuple(waves),
        bend=bend if rng.random() < 0.6 else (0.0, 0.0, 0.0),
    )


def _sample_backdrop(rng: np.random.Generator, objects: Sequence[Layer]) -> Texture:
    """Draw a texture whose colors differ from those of every object over the whole video."""
    ends = [(layer, layer.hue[np.abs(layer.hue).argmax()]) for layer in objects]
    drifts = [(layer.texture.ramp[:2], change) for layer, end in ends for change in np.linspace(0, end, 4)]
    colors = np.stack([rgb(ramp + [change, 0, 0]).mean(axis=0) for ramp, change in drifts])
    best, ramp = -1.0, np.zeros((2, 3))
    for _ in range(12):
        hue, value = rng.random(), rng.uniform(0.2, 0.9)
        saturation = rng.uniform(0.05, 0.3) if rng.random() < 0.7 else rng.uniform(0.3, 0.7)
        second = [hue + rng.uniform(-0.1, 0.1), saturation, value * rng.uniform(0.35, 0.85)]
        candidate = np.array([[hue, saturation, value], second])
        distance = np.linalg.norm(colors - rgb(candidate).mean(axis=0), axis=1).min()
        if distance > best:
            best, ramp = distance, candidate
        if best > 0.35:
            break
    kind = str(rng.choice(["clouds", "clouds", "noise", "stripes", "checks", "blobs", "marble", "gradient"]))
    return Texture(kind, int(rng.integers(2**31)), rng.uniform(0.1, 0.5), ramp, period=2.0)


def sample_trajectory(rng: np.random.Generator, spec: VideoSpec, size: float) -> np.ndarray:
    """Draw a smooth trajectory of random waypoints, neighbors usually at least 0.3 apart, (T, 2)."""
    reach = np.maximum(spec.extent / 2 - 0.35 * size, 0.1)
    every = rng.uniform(15, 28)
    waypoints = [rng.uniform(-reach, reach)]
    while len(waypoints) < math.ceil(spec.frames / every) + 3:
        candidates = rng.uniform(-reach, reach, (10, 2))
        is_far = np.linalg.norm(candidates - waypoints[-1], axis=1) > 0.3
        waypoints.append(candidates[is_far.argmax()])
    return _catmull_rom(np.array(waypoints), np.arange(spec.frames) / every)


def smooth_noise(
    rng: np.random.Generator,
    spec: VideoSpec,
    low: float | Sequence[float],
    high: float | Sequence[float],
    every: float = 8,
) -> np.ndarray:
    """Draw smooth values around [low, high] with a control point every few frames, (T,) or (T, values)."""
    count = math.ceil(spec.frames / every) + 3
    points = rng.uniform(low, high, (count, *np.shape(low)))
    return _catmull_rom(points, rng.random() + np.arange(spec.frames) / every)


def _catmull_rom(points: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Evaluate the Catmull-Rom spline through points at positions (T,) that count points from the first."""
    points = np.concatenate([points[:1], points, points[-1:], points[-1:]])
    first = np.minimum(at.astype(int), len(points) - 4)
    u = (at - first).reshape(-1, *[1] * (points.ndim - 1))
    a, b, c, d = (points[first + i] for i in range(4))
    return b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
