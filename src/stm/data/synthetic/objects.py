"""Who is in a procedural video? Objects with a look, an outline and a way to go, before a backdrop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stm.data.synthetic.rendering import Layer, Outline, Scene
from stm.data.synthetic.textures import Texture, rgb


@dataclass(frozen=True)
class VideoSpec:
    """What must a script know of the picture? Its length in frames; its width and height in unit lengths."""

    frames: int
    width: float
    height: float

    @property
    def extent(self) -> np.ndarray:
        """(width, height)."""
        return np.array([self.width, self.height])


def steady(
    stage: VideoSpec, texture: Texture, outline: Outline | None, label: int = 0, **changing: np.ndarray
) -> Layer:
    """A layer that rests in the middle at size 1, but for the values, an array each, that are given."""
    zeros, ones = np.zeros(stage.frames), np.ones(stage.frames)
    place = np.zeros((stage.frames, 2))
    rest = {"position": place, "angle": zeros, "size": ones, "scroll": place, "hue": zeros, "gain": ones}
    return Layer(texture, outline, **{**rest, "present": ones > 0, **changing}, label=label)


def sample_object(
    rng: np.random.Generator, stage: VideoSpec, texture: Texture, count: int, label: int = 0
) -> Layer:
    """An object that moves, turns, deforms and changes its size; one of `count`, so the more, the smaller."""
    size = math.sqrt(rng.uniform(0.05, 0.18 if count == 1 else 0.13))
    frames = np.arange(stage.frames)
    slide = rng.normal(0, 0.006, 2) if rng.random() < 0.4 else np.zeros(2)
    return steady(
        stage,
        texture,
        _outline(rng),
        label,
        position=sample_trajectory(rng, stage, size),
        angle=rng.uniform(0, 2 * np.pi) + wander(rng, stage, -1.2, 1.2) + rng.normal(0, 0.03) * frames,
        size=size * np.exp(wander(rng, stage, -0.22, 0.22, every=10)),
        scroll=rng.random(2) + frames[:, None] * slide,
        gain=wander(rng, stage, 0.85, 1.15, every=10),
    )


def sample_objects(
    rng: np.random.Generator, stage: VideoSpec, hues: np.ndarray, gray: float = 0.0
) -> list[Layer]:
    """The objects, one for each hue, labeled from 1; each is grayish with probability `gray`."""
    looks = [appearance_at(rng, float(hue), vivid=rng.random() >= gray) for hue in hues]
    return [sample_object(rng, stage, texture, len(hues), label) for label, texture in enumerate(looks, 1)]


def sample_distractor(
    rng: np.random.Generator, stage: VideoSpec, hues: np.ndarray, vivid: bool = True
) -> Layer:
    """Something unlabeled whose hue is far from all the hues; grayish unless vivid."""
    tries = rng.random(20)
    gaps = np.abs((tries[:, None] - hues + 0.5) % 1 - 0.5).min(axis=1)
    return sample_object(rng, stage, appearance_at(rng, float(tries[gaps.argmax()]), vivid), 2)


def sample_similar_object(rng: np.random.Generator, stage: VideoSpec, actor: Layer) -> Layer:
    """Something unlabeled with an actor's kind of texture and nearly its hue."""
    shift = [rng.choice([-1, 1]) * rng.uniform(0.08, 0.16), 0, 0]
    texture = replace(actor.texture, ramp=actor.texture.ramp + shift, seed=int(rng.integers(2**31)))
    return sample_object(rng, stage, texture, 2)


def appearance_at(rng: np.random.Generator, hue: float, vivid: bool = True) -> Texture:
    """A textured surface of one hue: two colors near it, at times with black or white as a third."""
    saturation, value = rng.uniform(0.6, 1) if vivid else rng.uniform(0, 0.5), rng.uniform(0.6, 1)
    other = hue + rng.uniform(-0.06, 0.06)
    ramp = [[hue, saturation, value], [other, saturation, value * rng.uniform(0.45, 0.75)]]
    if rng.random() < 0.3:
        ramp.append([hue, rng.uniform(0, 0.2), rng.choice([0.1, 0.95])])
    kind = str(rng.choice(["noise", "stripes", "checks", "blobs", "marble", "gradient"]))
    return Texture(kind, int(rng.integers(2**31)), rng.uniform(0.06, 0.2), np.array(ramp))


def compose(
    rng: np.random.Generator, stage: VideoSpec, layers: Sequence[Layer], cast: Sequence[Layer]
) -> Scene:
    """The layers before a backdrop that a moving camera sees, with light, noise and blur."""
    frames = np.arange(stage.frames)
    backdrop = steady(
        stage,
        _backdrop(rng, cast),
        None,
        position=frames[:, None] * rng.normal(0, 0.008, 2) + wander(rng, stage, [-0.1, -0.1], [0.1, 0.1]),
        angle=rng.uniform(0, 2 * np.pi) + frames * rng.normal(0, 0.008),
        size=np.exp(wander(rng, stage, -0.15, 0.15, every=12)),
    )
    scenery = [_scenery(rng, stage, backdrop, cast) for _ in range(rng.choice([0, 1, 2], p=[0.5, 0.3, 0.2]))]
    turn, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    return Scene(
        layers=(backdrop, *scenery, *layers),
        light=wander(rng, stage, 0.85, 1.1, every=12),
        shade=strength * np.array([math.cos(turn), math.sin(turn)]),
        noise=rng.uniform(0, 0.035),
        blur=rng.uniform(0, 0.007),
        seed=int(rng.integers(2**31)),
    )


def _scenery(rng: np.random.Generator, stage: VideoSpec, backdrop: Layer, cast: Sequence[Layer]) -> Layer:
    """Something large that stands before the backdrop and moves with it."""
    turned = backdrop.angle - backdrop.angle[0]
    spot = rng.uniform(-0.6, 0.6, 2)
    return steady(
        stage,
        _backdrop(rng, cast),
        replace(_outline(rng, pace=0.0), bend=(0.0, 0.0, 0.0)),
        position=backdrop.position
        + (backdrop.size * np.stack([np.cos(turned), np.sin(turned)])).T * spot[0]
        + (backdrop.size * np.stack([-np.sin(turned), np.cos(turned)])).T * spot[1],
        angle=rng.uniform(0, 2 * np.pi) + turned,
        size=backdrop.size * rng.uniform(0.4, 0.9),
    )


def _outline(rng: np.random.Generator, pace: float = 1.0) -> Outline:
    """A contour of a few waves, in most cases bent, that deforms at a pace."""
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


def _backdrop(rng: np.random.Generator, cast: Sequence[Layer]) -> Texture:
    """A surface whose colors keep away from every look that an object has in the course of the video."""
    ends = [(actor, actor.hue[np.abs(actor.hue).argmax()]) for actor in cast]
    drifts = [(actor.texture.ramp[:2], change) for actor, end in ends for change in np.linspace(0, end, 4)]
    looks = np.stack([rgb(ramp + [change, 0, 0]).mean(axis=0) for ramp, change in drifts])
    best, ramp = -1.0, np.zeros((2, 3))
    for _ in range(12):
        hue, value = rng.random(), rng.uniform(0.2, 0.9)
        saturation = rng.uniform(0.05, 0.3) if rng.random() < 0.7 else rng.uniform(0.3, 0.7)
        other = [hue + rng.uniform(-0.1, 0.1), saturation, value * rng.uniform(0.35, 0.85)]
        tried = np.array([[hue, saturation, value], other])
        distance = np.linalg.norm(looks - rgb(tried).mean(axis=0), axis=1).min()
        if distance > best:
            best, ramp = distance, tried
        if best > 0.35:
            break
    kind = str(rng.choice(["clouds", "clouds", "noise", "stripes", "checks", "blobs", "marble", "gradient"]))
    return Texture(kind, int(rng.integers(2**31)), rng.uniform(0.1, 0.5), ramp, period=2.0)


def sample_trajectory(rng: np.random.Generator, stage: VideoSpec, size: float) -> np.ndarray:
    """A way through the picture: every few frames somewhere else, at least 0.3 away, (T, 2)."""
    reach = np.maximum(stage.extent / 2 - 0.35 * size, 0.1)
    every = rng.uniform(15, 28)
    spots = [rng.uniform(-reach, reach)]
    while len(spots) < math.ceil(stage.frames / every) + 3:
        tries = rng.uniform(-reach, reach, (10, 2))
        far = np.linalg.norm(tries - spots[-1], axis=1) > 0.3
        spots.append(tries[far.argmax()])
    return _through(np.array(spots), np.arange(stage.frames) / every)


def wander(
    rng: np.random.Generator,
    stage: VideoSpec,
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
