"""Who is in a procedural video? Objects with a look, an outline and a way to go, before a backdrop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stm.data.shapes import Layer, Outline, Scene, Texture, rgb


@dataclass(frozen=True)
class Stage:
    """What must a script know of the picture? Its length in frames; its width and height in unit lengths."""

    frames: int
    width: float
    height: float

    @property
    def extent(self) -> np.ndarray:
        """(width, height)."""
        return np.array([self.width, self.height])


def new_actor(
    rng: np.random.Generator, stage: Stage, hue: float, count: int, label: int, texture: Texture | None = None
) -> Layer:
    """An object that moves, turns, deforms and changes its size; one of `count`, so the more, the smaller."""
    size = math.sqrt(rng.uniform(0.05, 0.18 if count == 1 else 0.13))
    growth = np.exp(wander(rng, stage, -0.22, 0.22, every=10))
    frames = np.arange(stage.frames)
    slide = rng.normal(0, 0.006, 2) if rng.random() < 0.4 else np.zeros(2)
    return Layer(
        texture=texture or _look(rng, hue),
        outline=_outline(rng),
        position=new_way(rng, stage, size),
        angle=rng.uniform(0, 2 * np.pi) + wander(rng, stage, -1.2, 1.2) + rng.normal(0, 0.03) * frames,
        size=size * growth,
        scroll=rng.random(2) + frames[:, None] * slide,
        hue=np.zeros(stage.frames),
        gain=wander(rng, stage, 0.85, 1.15, every=10),
        present=np.ones(stage.frames, bool),
        label=label,
    )


def new_stranger(
    rng: np.random.Generator, stage: Stage, hues: np.ndarray, alike: Layer | None = None
) -> Layer:
    """Something unlabelled: far from all the hues, or near one object's hue and with its texture."""
    if alike is not None:
        shift = rng.choice([-1, 1]) * rng.uniform(0.08, 0.16)
        ramp = alike.texture.ramp + [shift, 0, 0]
        texture = replace(alike.texture, ramp=ramp, seed=int(rng.integers(2**31)))
    else:
        tries = rng.random(20)
        gaps = np.abs((tries[:, None] - np.asarray(hues) + 0.5) % 1 - 0.5).min(axis=1)
        texture = _look(rng, float(tries[gaps.argmax()]))
    return new_actor(rng, stage, 0, 2, 0, texture=texture)


def _outline(rng: np.random.Generator) -> Outline:
    orders = rng.permutation([2, 3, 4, 5, 6])[: rng.integers(1, 4)]
    waves = [
        (
            int(k),
            rng.uniform(0.05, 0.5) / k**0.7,
            rng.uniform(0, 2 * np.pi),
            rng.choice([-1, 1]) * rng.uniform(0.05, 0.3),
        )
        for k in orders
    ]
    bend = (rng.uniform(0.3, 1.1), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.35))
    return Outline(
        exponent=float(rng.choice([1.3, 2, 2, 3, 6])),
        aspect=math.exp(rng.uniform(0, 0.9)),
        waves=tuple(waves),
        bend=bend if rng.random() < 0.6 else (0.0, 0.0, 0.0),
    )


def _look(rng: np.random.Generator, hue: float) -> Texture:
    """A textured surface of one hue: two or three saturated colours near it, at times with black or white."""
    saturation, value = rng.uniform(0.6, 1), rng.uniform(0.6, 1)
    ramp = [
        [hue, saturation, value],
        [hue + rng.uniform(-0.06, 0.06), saturation, value * rng.uniform(0.45, 0.75)],
    ]
    if rng.random() < 0.3:
        ramp.append([hue, rng.uniform(0, 0.2), rng.choice([0.1, 0.95])])
    kind = str(rng.choice(["noise", "stripes", "checks", "blobs", "marble", "gradient"]))
    return Texture(kind, int(rng.integers(2**31)), rng.uniform(0.06, 0.2), np.array(ramp))


def _backdrop(rng: np.random.Generator, cast: Sequence[Layer]) -> Texture:
    """A surface whose colours keep away from every look that an object has in the course of the video."""
    looks = []
    for actor in cast:
        for change in np.linspace(0, actor.hue[np.abs(actor.hue).argmax()], 4):
            looks.append(rgb(actor.texture.ramp[:2] + [change, 0, 0]).mean(axis=0))
    best, ramp = -1.0, np.zeros((2, 3))
    for _ in range(12):
        hue, saturation = (
            rng.random(),
            rng.uniform(0.05, 0.3) if rng.random() < 0.7 else rng.uniform(0.3, 0.7),
        )
        value, contrast = rng.uniform(0.2, 0.9), rng.uniform(0.35, 0.85)
        tried = np.array(
            [[hue, saturation, value], [hue + rng.uniform(-0.1, 0.1), saturation, value * contrast]]
        )
        distance = np.linalg.norm(np.array(looks) - rgb(tried).mean(axis=0), axis=1).min()
        if distance > best:
            best, ramp = distance, tried
        if best > 0.35:
            break
    kind = str(rng.choice(["clouds", "clouds", "noise", "stripes", "checks", "blobs", "marble", "gradient"]))
    return Texture(kind, int(rng.integers(2**31)), rng.uniform(0.1, 0.5), ramp, period=2.0)


def compose(rng: np.random.Generator, stage: Stage, layers: Sequence[Layer], cast: Sequence[Layer]) -> Scene:
    """The layers before a backdrop that a moving camera sees, with light, noise and blur."""
    frames = np.arange(stage.frames)
    backdrop = Layer(
        texture=_backdrop(rng, cast),
        outline=None,
        position=frames[:, None] * rng.normal(0, 0.008, 2) + wander(rng, stage, [-0.1, -0.1], [0.1, 0.1]),
        angle=rng.uniform(0, 2 * np.pi) + frames * rng.normal(0, 0.008),
        size=np.exp(wander(rng, stage, -0.15, 0.15, every=12)),
        scroll=np.zeros((stage.frames, 2)) + rng.random(2),
        hue=np.zeros(stage.frames),
        gain=np.ones(stage.frames),
        present=np.ones(stage.frames, bool),
    )
    turn, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    return Scene(
        layers=(backdrop, *layers),
        light=wander(rng, stage, 0.85, 1.1, every=12),
        shade=strength * np.array([math.cos(turn), math.sin(turn)]),
        noise=rng.uniform(0, 0.035),
        blur=rng.uniform(0, 0.007),
        seed=int(rng.integers(2**31)),
    )


def new_way(rng: np.random.Generator, stage: Stage, size: float) -> np.ndarray:
    """A way through the picture: every few frames somewhere else, at least a third of a unit away, (T, 2)."""
    reach = np.maximum(stage.extent / 2 - 0.35 * size, 0.1)
    every = rng.uniform(13, 26)
    spots = [rng.uniform(-reach, reach)]
    while len(spots) < math.ceil(stage.frames / every) + 3:
        tries = rng.uniform(-reach, reach, (10, 2))
        far = np.linalg.norm(tries - spots[-1], axis=1) > 0.3
        spots.append(tries[far.argmax()])
    return _through(np.array(spots), np.arange(stage.frames) / every)


def wander(
    rng: np.random.Generator,
    stage: Stage,
    low: float | Sequence[float],
    high: float | Sequence[float],
    every: float = 8,
) -> np.ndarray:
    """Smooth random values between low and high, a new goal every few frames, (T,) or (T, values)."""
    count = math.ceil(stage.frames / every) + 3
    goals = rng.uniform(low, high, (count, *np.shape(low)))
    return _through(goals, rng.random() + np.arange(stage.frames) / every)


def _through(goals: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The smooth (Catmull-Rom) curve through the goals, from the first one on; `at` counts goals, (T,)."""
    goals = np.concatenate([goals[:1], goals, goals[-1:], goals[-1:]])
    first = np.minimum(at.astype(int), len(goals) - 4)
    u = (at - first).reshape(-1, *[1] * (goals.ndim - 1))
    a, b, c, d = (goals[first + i] for i in range(4))
    return b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
