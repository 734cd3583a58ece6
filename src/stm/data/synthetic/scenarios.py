"""What happens in a procedural video? A script chooses a scene's values at random; it draws nothing.

A new kind is one function (random numbers, stage, number of the video) -> Scene and a line in `SCENARIOS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from stm.data.synthetic.objects import (
    VideoSpec,
    compose,
    sample_distractor,
    sample_object,
    sample_objects,
    sample_similar_object,
    sample_trajectory,
    steady,
    wander,
)
from stm.data.synthetic.rendering import Layer, Outline, Scene, render_mask
from stm.data.synthetic.textures import Texture

SMALLEST = 0.015  # share of the picture that each object shows in the first frame
FADE = 3  # frames that an object takes to leave the picture or to come back

Scenario = Callable[[np.random.Generator, VideoSpec, int], Scene]


def plain(rng: np.random.Generator, stage: VideoSpec, number: int) -> Scene:
    """Motion, deformation and mutual occlusion of 1..3 objects with mild drift; some distractors, walls."""
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25]))
    hues = (rng.random() + np.arange(count) / count + rng.uniform(-0.08, 0.08, count)) % 1
    cast = sample_objects(rng, stage, hues, gray=0.2)
    cast = [replace(actor, hue=wander(rng, stage, -0.04, 0.04)) for actor in cast]
    if stage.frames >= 12 and rng.random() < 0.4:  # one leaves and comes back
        who, start = int(rng.integers(count)), int(rng.integers(stage.frames // 4, stage.frames // 2))
        cast[who] = _away(rng, stage, cast[who], start, start + int(rng.integers(3, stage.frames // 3)))
    extras = [sample_distractor(rng, stage, hues) for _ in range(rng.integers(0, 3))]
    if rng.random() < 0.4:  # of like appearance, but told apart by a look at the hue
        extras.append(sample_similar_object(rng, stage, cast[int(rng.integers(count))]))
    front = [_pole(rng, stage)] if rng.random() < 0.3 else []
    shuffled = [[*cast, *extras][i] for i in rng.permutation(len(cast) + len(extras))]
    return compose(rng, stage, [*shuffled, *front], cast)


def event(rng: np.random.Generator, stage: VideoSpec, number: int) -> Scene:
    """The test of memory: objects change their look, are absent, and return elsewhere in the changed look.

    Hues drift by a third of the circle (in every fourth video hardly) over the first 18-22 of 40 frames; 3-6
    frames later all objects are absent for 4-8, out of the picture or behind a wall. Nothing else ever has
    the look of the first frame.
    """
    return _event(rng, stage, weak=number % 4 == 3)


def distractor(rng: np.random.Generator, stage: VideoSpec, number: int) -> Scene:
    """The stress test: as `event`, but something that isn't the object has, all along, its first look."""
    return _event(rng, stage, weak=number % 4 == 3, lookalike=True)


def still(rng: np.random.Generator, stage: VideoSpec, number: int) -> Scene:
    """A single picture with 1..4 objects, and others that aren't labeled."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))
    hues = rng.random() + np.arange(count) / count + rng.uniform(-0.1, 0.1, count)
    cast = sample_objects(rng, stage, hues, gray=0.2)
    extras = [sample_distractor(rng, stage, hues) for _ in range(rng.integers(0, 3))]
    shuffled = [[*cast, *extras][i] for i in rng.permutation(len(cast) + len(extras))]
    return compose(rng, stage, shuffled, cast)


SCENARIOS: dict[str, Scenario] = {"plain": plain, "event": event, "distractor": distractor, "still": still}


def sample_scene(script: Scenario, rng: np.random.Generator, stage: VideoSpec, number: int) -> Scene:
    """The first scene of a script in which every object shows enough of itself in the first frame."""
    size = round(64 * stage.height), round(64 * stage.width)
    for _ in range(100):
        scene = script(rng, stage, number)
        areas = np.bincount(render_mask(scene, 0, size).ravel(), minlength=256) / (size[0] * size[1])
        if all(areas[label] >= 1.2 * SMALLEST for label in scene.labels):
            return scene
    raise AssertionError(f"{script.__name__} number {number}: no scene of 100 shows every object in frame 0")


def _event(rng: np.random.Generator, stage: VideoSpec, weak: bool, lookalike: bool = False) -> Scene:
    pace = stage.frames / 40
    drifted = rng.integers(18, 23)
    start = round(pace * (drifted + rng.integers(3, 7)))
    back = start + max(1, round(pace * rng.integers(4, 9)))
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    # the looks at both ends of the drift are evenly spread: n objects are 1/(3n) apart modulo a third
    hues = (rng.random() + np.arange(count) * (1 / 3 + 1 / (3 * count))) % 1
    drift = rng.choice([-1, 1]) * (rng.uniform(0.03, 0.08) if weak else rng.uniform(0.31, 0.36))
    change = drift * np.clip(np.arange(stage.frames) / (pace * drifted), 0, 1)
    cast = [replace(actor, hue=change) for actor in sample_objects(rng, stage, hues)]
    cast = [_elsewhere(rng, stage, actor, start, back) for actor in cast]
    taken = np.concatenate([hues, hues + drift / 2, hues + drift])
    several = rng.choice([0, 1, 2], p=[0.2, 0.5, 0.3])  # grayish where the objects' hues fill the circle
    extras = [sample_distractor(rng, stage, taken, vivid=count == 1) for _ in range(several)]
    if extras and rng.random() < 0.5:  # a newcomer: the first frame does not tell that it is background
        extras[0] = _away(rng, stage, extras[0], 0, int(rng.integers(start // 2, back + 1)))
    if lookalike:
        extras.append(sample_object(rng, stage, cast[int(rng.integers(count))].texture, count))
    front = []
    match rng.choice(["out", "wall", "curtain"]):
        case "out":
            cast = [_away(rng, stage, actor, start, back) for actor in cast]
        case "wall":
            wall, side, edge = _wall(rng, stage, start, back)
            cast = [_behind(rng, stage, actor, start, back, side, edge) for actor in cast]
            front = [wall]
        case "curtain":
            front = [_curtain(rng, stage, cast, start, back)]
            cast = [replace(actor, present=_outside(stage, start, back)) for actor in cast]
    scene = compose(rng, stage, [*extras, *(cast[i] for i in rng.permutation(count)), *front], cast)
    return replace(scene, absence=(start, back))


# How they leave and return: at `start` they are gone, at `back` they are half to be seen


def _outside(stage: VideoSpec, start: int, back: int) -> np.ndarray:
    frames = np.arange(stage.frames)
    return (frames < start) | (frames >= back)


def _elsewhere(rng: np.random.Generator, stage: VideoSpec, actor: Layer, start: int, back: int) -> Layer:
    """The actor goes another way after its absence, one that begins far from where it left."""
    ways = [sample_trajectory(rng, stage, float(actor.size[0])) for _ in range(6)]
    best = max(ways, key=lambda way: float(np.linalg.norm(way[0] - actor.position[start])))
    position = actor.position.copy()
    position[back:] = best[: stage.frames - back]
    return replace(actor, position=position)


def _pass(actor: Layer, start: int, back: int, leave: np.ndarray, enter: np.ndarray, frames: int) -> Layer:
    """The actor moves to the gate `leave` right before its absence and from the gate `enter` right after."""
    t = np.arange(frames)
    there = np.clip(1 - (start - 1 - t) / FADE, 0, 1) * (t < start)
    here = np.clip(1 - (t - back) / FADE, 0, 1) * (t >= back)
    position = (
        actor.position + there[:, None] * (leave - actor.position) + here[:, None] * (enter - actor.position)
    )
    return replace(actor, position=position, present=actor.present & ((t < start) | (t >= back)))


def _away(rng: np.random.Generator, stage: VideoSpec, actor: Layer, start: int, back: int) -> Layer:
    """The actor leaves the picture through the nearest border and returns through any."""
    half = stage.extent / 2
    leave = actor.position[start - 1].copy()
    axis = int((half - np.abs(leave)).argmin())
    leave[axis] = math.copysign(half[axis], leave[axis])
    enter = rng.uniform(-0.7, 0.7, 2) * half
    axis = int(rng.integers(2))
    enter[axis] = rng.choice([-1, 1]) * half[axis]
    return _pass(actor, start, back, leave, enter, stage.frames)


def _slab(rng: np.random.Generator, stage: VideoSpec, axis: int, length: float, along: np.ndarray) -> Layer:
    """A wall across the whole picture, `length` long along the axis, its middle at `along` in each frame."""
    sides = 1.3 * stage.extent
    sides[axis] = length
    position = np.zeros((stage.frames, 2))
    position[:, axis] = along
    ramp = np.array(
        [
            [rng.random(), rng.uniform(0, 0.3), rng.uniform(0.3, 0.9)],
            [rng.random(), 0.1, rng.uniform(0.1, 0.6)],
        ]
    )
    kind = str(rng.choice(["noise", "clouds", "stripes", "checks", "marble", "gradient"]))
    return steady(
        stage,
        Texture(kind, int(rng.integers(2**31)), rng.uniform(0.1, 0.4), ramp),
        Outline(exponent=math.inf, aspect=sides[0] / sides[1]),
        position=position,
        size=np.full(stage.frames, math.sqrt(sides[0] * sides[1])),
    )


def _pole(rng: np.random.Generator, stage: VideoSpec) -> Layer:
    """A narrow wall that objects pass behind; it stands or drifts."""
    axis = int(rng.integers(2))
    half = float(stage.extent[axis]) / 2
    along = rng.uniform(-half, half) + wander(rng, stage, -0.15, 0.15, every=12)
    return _slab(rng, stage, axis, rng.uniform(0.08, 0.2), along)


def _wall(
    rng: np.random.Generator, stage: VideoSpec, start: int, back: int
) -> tuple[Layer, np.ndarray, np.ndarray]:
    """A wall that covers nearly half of the picture before the absence; also its side (2,) and edge (T,)."""
    axis, sign = int(rng.integers(2)), rng.choice([-1, 1])
    half = float(stage.extent[axis]) / 2
    deep = half * rng.uniform(0.1, 0.2)
    ends = -half * 1.05, -deep
    stays = rng.random() < 0.5
    edge = np.interp(
        np.arange(stage.frames),
        [start - 10, start - 4, back + 3, back + 8],
        [*ends, ends[1], ends[int(stays)]],
    )
    side = np.zeros(2)
    side[axis] = sign
    return _slab(rng, stage, axis, 2 * half, sign * (edge - half)), side, edge


def _behind(
    rng: np.random.Generator,
    stage: VideoSpec,
    actor: Layer,
    start: int,
    back: int,
    side: np.ndarray,
    edge: np.ndarray,
) -> Layer:
    """The actor keeps in front of the wall's edge, goes behind it and returns from it at another place."""
    along = np.maximum(actor.position @ side, edge + 0.5 * actor.size)
    actor = replace(actor, position=actor.position + (along - actor.position @ side)[:, None] * side)
    gates = [actor.position[start - 1], actor.position[back]]
    leave, enter = (
        gate + (edge[t] - gate @ side) * side for gate, t in zip(gates, (start - 1, back), strict=True)
    )
    return _pass(actor, start, back, leave, enter, stage.frames)


def _curtain(
    rng: np.random.Generator, stage: VideoSpec, cast: Sequence[Layer], start: int, back: int
) -> Layer:
    """A wall that sweeps over the whole picture: the last object is half hidden right before the absence."""
    axis, sign = int(rng.integers(2)), rng.choice([-1, 1])
    half = float(stage.extent[axis]) / 2
    length = 2.3 * half
    last = max(sign * actor.position[start - 1, axis] for actor in cast) - length / 2
    first = [sign * actor.position[back, axis] for actor in cast]
    outside = half + length / 2
    times = [start - 4, start - 1, start, back - 1, back, back + 3]
    if rng.random() < 0.5:  # on to the other side
        places = [-outside, last, 0, 0, min(first) + length / 2, outside]
    else:  # back to where it came from
        places = [-outside, last, 0, 0, max(first) - length / 2, -outside]
    return _slab(rng, stage, axis, length, sign * np.interp(np.arange(stage.frames), times, places))
