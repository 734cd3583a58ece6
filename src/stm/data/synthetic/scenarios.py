"""Kinds of procedural videos: a scenario draws the values of a scene, without rendering it.

A new kind needs one function (generator, dimensions, number of the video) -> Scene and an entry in
`SCENARIOS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from stm.data.synthetic.objects import (
    VideoSpec,
    compose_scene,
    sample_distractor,
    sample_object,
    sample_objects,
    sample_similar_object,
    sample_trajectory,
    smooth_noise,
    static_layer,
)
from stm.data.synthetic.rendering import Layer, Outline, Scene, render_mask
from stm.data.synthetic.textures import Texture

MIN_VISIBLE_AREA = 0.015  # fraction of the first frame that each object covers
TRANSITION_FRAMES = 3  # frames that an object takes to leave the frame or to return

Scenario = Callable[[np.random.Generator, VideoSpec, int], Scene]


def plain(rng: np.random.Generator, spec: VideoSpec, number: int) -> Scene:
    """Draw 1 to 3 objects that move, deform and occlude each other, with slight color drift."""
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25]))
    hues = (rng.random() + np.arange(count) / count + rng.uniform(-0.08, 0.08, count)) % 1
    objects = sample_objects(rng, spec, hues, gray=0.2)
    objects = [replace(layer, hue=smooth_noise(rng, spec, -0.04, 0.04)) for layer in objects]
    if spec.frames >= 12 and rng.random() < 0.4:  # one object leaves and returns
        i, start = int(rng.integers(count)), int(rng.integers(spec.frames // 4, spec.frames // 2))
        back = start + int(rng.integers(3, spec.frames // 3))
        objects[i] = _leave_frame(rng, spec, objects[i], start, back)
    distractors = [sample_distractor(rng, spec, hues) for _ in range(rng.integers(0, 3))]
    if rng.random() < 0.4:  # similar to an object except for the hue
        distractors.append(sample_similar_object(rng, spec, objects[int(rng.integers(count))]))
    front = [_sample_pole(rng, spec)] if rng.random() < 0.3 else []
    shuffled = [[*objects, *distractors][i] for i in rng.permutation(len(objects) + len(distractors))]
    return compose_scene(rng, spec, [*shuffled, *front], objects)


def event(rng: np.random.Generator, spec: VideoSpec, number: int) -> Scene:
    """Draw a test of memory: objects change their appearance, are absent, and return elsewhere.

    Hues drift by a third of the color circle (only slightly in every fourth video) over the first 18 to 22 of
    40 frames. 3 to 6 frames later, all objects are absent for 4 to 8 frames, outside of the frame or behind a
    wall. Nothing else ever has the appearance that an object has in the first frame.
    """
    return _event(rng, spec, is_weak=number % 4 == 3)


def distractor(rng: np.random.Generator, spec: VideoSpec, number: int) -> Scene:
    """Draw an `event` with a distractor that always has the appearance of an object in the first frame."""
    return _event(rng, spec, is_weak=number % 4 == 3, has_lookalike=True)


def still(rng: np.random.Generator, spec: VideoSpec, number: int) -> Scene:
    """Draw a still with 1 to 4 objects and some unlabeled distractors."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))
    hues = rng.random() + np.arange(count) / count + rng.uniform(-0.1, 0.1, count)
    objects = sample_objects(rng, spec, hues, gray=0.2)
    distractors = [sample_distractor(rng, spec, hues) for _ in range(rng.integers(0, 3))]
    shuffled = [[*objects, *distractors][i] for i in rng.permutation(len(objects) + len(distractors))]
    return compose_scene(rng, spec, shuffled, objects)


SCENARIOS: dict[str, Scenario] = {"plain": plain, "event": event, "distractor": distractor, "still": still}


def sample_scene(scenario: Scenario, rng: np.random.Generator, spec: VideoSpec, number: int) -> Scene:
    """Draw scenes until every object covers enough of the first frame."""
    size = round(64 * spec.height), round(64 * spec.width)
    for _ in range(100):
        scene = scenario(rng, spec, number)
        areas = np.bincount(render_mask(scene, 0, size).ravel(), minlength=256) / (size[0] * size[1])
        if all(areas[label] >= 1.2 * MIN_VISIBLE_AREA for label in scene.labels):
            return scene
    raise AssertionError(
        f"{scenario.__name__} number {number}: no scene of 100 shows every object in frame 0"
    )


def _event(rng: np.random.Generator, spec: VideoSpec, is_weak: bool, has_lookalike: bool = False) -> Scene:
    pace = spec.frames / 40
    drift_frames = rng.integers(18, 23)
    start = round(pace * (drift_frames + rng.integers(3, 7)))
    back = start + max(1, round(pace * rng.integers(4, 9)))
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    # hues at both ends of the drift are evenly spaced: n objects are 1/(3n) apart modulo a third
    hues = (rng.random() + np.arange(count) * (1 / 3 + 1 / (3 * count))) % 1
    drift = rng.choice([-1, 1]) * (rng.uniform(0.03, 0.08) if is_weak else rng.uniform(0.31, 0.36))
    change = drift * np.clip(np.arange(spec.frames) / (pace * drift_frames), 0, 1)
    objects = [replace(layer, hue=change) for layer in sample_objects(rng, spec, hues)]
    objects = [_return_elsewhere(rng, spec, layer, start, back) for layer in objects]
    taken = np.concatenate([hues, hues + drift / 2, hues + drift])
    num_distractors = rng.choice([0, 1, 2], p=[0.2, 0.5, 0.3])
    # nearly gray distractors if the hues of several objects fill the circle
    distractors = [sample_distractor(rng, spec, taken, vivid=count == 1) for _ in range(num_distractors)]
    if distractors and rng.random() < 0.5:  # it enters late: the first frame does not show it as background
        distractors[0] = _leave_frame(rng, spec, distractors[0], 0, int(rng.integers(start // 2, back + 1)))
    if has_lookalike:
        distractors.append(sample_object(rng, spec, objects[int(rng.integers(count))].texture, count))
    front = []
    match rng.choice(["out", "wall", "curtain"]):
        case "out":
            objects = [_leave_frame(rng, spec, layer, start, back) for layer in objects]
        case "wall":
            wall, side, edge = _sample_wall(rng, spec, start, back)
            objects = [_hide_behind(spec, layer, start, back, side, edge) for layer in objects]
            front = [wall]
        case "curtain":
            front = [_sample_curtain(rng, spec, objects, start, back)]
            objects = [replace(layer, present=_presence(spec, start, back)) for layer in objects]
    shuffled = [objects[i] for i in rng.permutation(count)]
    scene = compose_scene(rng, spec, [*distractors, *shuffled, *front], objects)
    return replace(scene, absence=(start, back))


# Absences: objects are invisible from frame `start` on and half visible again in frame `back`.


def _presence(spec: VideoSpec, start: int, back: int) -> np.ndarray:
    frames = np.arange(spec.frames)
    return (frames < start) | (frames >= back)


def _return_elsewhere(
    rng: np.random.Generator, spec: VideoSpec, layer: Layer, start: int, back: int
) -> Layer:
    """Give a layer another trajectory after its absence, which begins far from where it left."""
    candidates = [sample_trajectory(rng, spec, float(layer.size[0])) for _ in range(6)]
    best = max(candidates, key=lambda path: float(np.linalg.norm(path[0] - layer.position[start])))
    position = layer.position.copy()
    position[back:] = best[: spec.frames - back]
    return replace(layer, position=position)


def _move_through_gates(
    spec: VideoSpec, layer: Layer, start: int, back: int, leave: np.ndarray, enter: np.ndarray
) -> Layer:
    """Move a layer to the point `leave` right before its absence and from the point `enter` after it."""
    t = np.arange(spec.frames)
    leaving = np.clip(1 - (start - 1 - t) / TRANSITION_FRAMES, 0, 1) * (t < start)
    entering = np.clip(1 - (t - back) / TRANSITION_FRAMES, 0, 1) * (t >= back)
    position = (
        layer.position
        + leaving[:, None] * (leave - layer.position)
        + entering[:, None] * (enter - layer.position)
    )
    return replace(layer, position=position, present=layer.present & _presence(spec, start, back))


def _leave_frame(rng: np.random.Generator, spec: VideoSpec, layer: Layer, start: int, back: int) -> Layer:
    """Let a layer leave the frame through the nearest border and return through a random one."""
    half = spec.extent / 2
    leave = layer.position[start - 1].copy()
    axis = int((half - np.abs(leave)).argmin())
    leave[axis] = math.copysign(half[axis], leave[axis])
    enter = rng.uniform(-0.7, 0.7, 2) * half
    axis = int(rng.integers(2))
    enter[axis] = rng.choice([-1, 1]) * half[axis]
    return _move_through_gates(spec, layer, start, back, leave, enter)


def _make_wall(
    rng: np.random.Generator, spec: VideoSpec, axis: int, length: float, center: np.ndarray
) -> Layer:
    """Draw a wall across the frame with a length along an axis and a center on that axis in each frame."""
    sides = 1.3 * spec.extent
    sides[axis] = length
    position = np.zeros((spec.frames, 2))
    position[:, axis] = center
    ramp = np.array(
        [
            [rng.random(), rng.uniform(0, 0.3), rng.uniform(0.3, 0.9)],
            [rng.random(), 0.1, rng.uniform(0.1, 0.6)],
        ]
    )
    kind = str(rng.choice(["noise", "clouds", "stripes", "checks", "marble", "gradient"]))
    return static_layer(
        spec,
        Texture(kind, int(rng.integers(2**31)), rng.uniform(0.1, 0.4), ramp),
        Outline(exponent=math.inf, aspect=sides[0] / sides[1]),
        position=position,
        size=np.full(spec.frames, math.sqrt(sides[0] * sides[1])),
    )


def _sample_pole(rng: np.random.Generator, spec: VideoSpec) -> Layer:
    """Draw a narrow wall in front of the objects, at rest or drifting."""
    axis = int(rng.integers(2))
    half = float(spec.extent[axis]) / 2
    center = rng.uniform(-half, half) + smooth_noise(rng, spec, -0.15, 0.15, every=12)
    return _make_wall(rng, spec, axis, rng.uniform(0.08, 0.2), center)


def _sample_wall(
    rng: np.random.Generator, spec: VideoSpec, start: int, back: int
) -> tuple[Layer, np.ndarray, np.ndarray]:
    """Draw a wall that covers nearly half of the frame before the absence; also its side (2,), edge (T,)."""
    axis, sign = int(rng.integers(2)), rng.choice([-1, 1])
    half = float(spec.extent[axis]) / 2
    depth = half * rng.uniform(0.1, 0.2)
    ends = -half * 1.05, -depth
    stays = rng.random() < 0.5
    edge = np.interp(
        np.arange(spec.frames),
        [start - 10, start - 4, back + 3, back + 8],
        [*ends, ends[1], ends[int(stays)]],
    )
    side = np.zeros(2)
    side[axis] = sign
    return _make_wall(rng, spec, axis, 2 * half, sign * (edge - half)), side, edge


def _hide_behind(
    spec: VideoSpec, layer: Layer, start: int, back: int, side: np.ndarray, edge: np.ndarray
) -> Layer:
    """Keep a layer beside a wall's edge, move it behind the wall and let it return at another point."""
    along = np.maximum(layer.position @ side, edge + 0.5 * layer.size)
    layer = replace(layer, position=layer.position + (along - layer.position @ side)[:, None] * side)
    gates = [layer.position[start - 1], layer.position[back]]
    leave, enter = (
        gate + (edge[t] - gate @ side) * side for gate, t in zip(gates, (start - 1, back), strict=True)
    )
    return _move_through_gates(spec, layer, start, back, leave, enter)


def _sample_curtain(
    rng: np.random.Generator, spec: VideoSpec, objects: Sequence[Layer], start: int, back: int
) -> Layer:
    """Draw a wall that sweeps over the frame and half hides the last object right before the absence."""
    axis, sign = int(rng.integers(2)), rng.choice([-1, 1])
    half = float(spec.extent[axis]) / 2
    length = 2.3 * half
    last = max(sign * layer.position[start - 1, axis] for layer in objects) - length / 2
    first = [sign * layer.position[back, axis] for layer in objects]
    outside = half + length / 2
    times = [start - 4, start - 1, start, back - 1, back, back + 3]
    if rng.random() < 0.5:  # sweep on to the other side
        centers = [-outside, last, 0, 0, min(first) + length / 2, outside]
    else:  # return to the side it came from
        centers = [-outside, last, 0, 0, max(first) - length / 2, -outside]
    return _make_wall(rng, spec, axis, length, sign * np.interp(np.arange(spec.frames), times, centers))
