"""Composite videos: real objects, cut out by their masks, in the scenes of procedural videos.

A scene of `stm.data.synthetic.scenarios` says where objects are, how their colors drift, and when they are
absent. Here its objects and distractors show the pixels of real videos, its backdrop and walls those of
other real videos. Masks are exact up to the accuracy of the masks that the objects are cut out by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from stm.data.augment import Size, crop_matrix
from stm.data.copy_paste import paste
from stm.data.cropping import check_at_least, label_areas
from stm.data.synthetic.dataset import DEFAULT_FRAMES, MIN_FRAMES, MIN_SIDE
from stm.data.synthetic.objects import VideoSpec
from stm.data.synthetic.rendering import Layer, Scene
from stm.data.synthetic.scenarios import MIN_VISIBLE_AREA, SCENARIOS, sample_scene
from stm.video import Video

KINDS = ("plain", "event", "distractor")
MIN_TRACK_FRAMES = 8
AREA_RANGE = (0.004, 0.4)
"""Share of the frame that an object covers where it is cut out: others are blurred or cut off."""
_SCENES = 30
_ANGLE_SCALE = 0.4
"""Procedural objects turn fully; real ones keep more or less upright."""


@dataclass(frozen=True)
class Track:
    """An object of a video over consecutive annotated frames.

    Attributes:
        video: the video.
        label: the object's id.
        frames: frame numbers.
        scale: square root of the object's median area in pixels.
    """

    video: Video = field(compare=False)
    label: int
    frames: tuple[int, ...]
    scale: float

    def patch(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels uint8 (h, w, 3) and opacity uint8 (h, w) at step t; the track runs to and fro."""
        frame = self.frames[reflect(t, len(self.frames))]
        mask = self.video.mask(frame)
        assert mask is not None
        region = (mask == self.label).astype(np.uint8)
        x, y, width, height = cv2.boundingRect(region)
        box = np.s_[y : y + height, x : x + width]
        pixels = cv2.copyMakeBorder(self.video.frame(frame)[box], 2, 2, 2, 2, cv2.BORDER_REPLICATE)
        opacity = cv2.GaussianBlur(np.pad(255 * region[box], 2), (3, 3), 0)
        return pixels, opacity


class TrackPool:
    """The objects of real videos, found on first access.

    Args:
        videos: videos with masks of consecutive frames.
    """

    def __init__(self, videos: Sequence[Video]) -> None:
        self.videos = list(videos)

    @cached_property
    def tracks(self) -> list[Track]:
        """Every object's longest run of frames in which it is not cut off by the frame's border.

        Raises:
            ValueError: fewer than two videos have such an object.
        """
        tracks = [
            track for video in self.videos for label in video.first_frames if (track := _track(video, label))
        ]
        usable = sorted({track.video.name for track in tracks})
        if len(usable) < 2:
            smallest, largest = (f"{100 * share:g}%" for share in AREA_RANGE)
            raise ValueError(
                "composite videos: must have objects of at least 2 videos that are annotated, inside of the "
                f"frame and {smallest} to {largest} of it for {MIN_TRACK_FRAMES} frames in a row; got "
                f"{' and '.join(usable) or 'none'} of {', '.join(video.name for video in self.videos)}"
            )
        return tracks


def _track(video: Video, label: int) -> Track | None:
    run: list[tuple[int, int]] = []
    best: list[tuple[int, int]] = []
    for t in video.annotated:
        mask = video.mask(t)
        assert mask is not None
        area = int(np.count_nonzero(mask == label))
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]) == label
        is_whole = border.sum() <= 0.1 * math.sqrt(max(area, 1))
        is_next = not run or t == run[-1][0] + 1
        if is_whole and AREA_RANGE[0] <= area / mask.size <= AREA_RANGE[1]:
            run = [*run, (t, area)] if is_next else [(t, area)]
            best = max(best, run, key=len)
        else:
            run = []
    if len(best) < MIN_TRACK_FRAMES:
        return None
    return Track(video, label, tuple(t for t, _ in best), float(np.sqrt(np.median([a for _, a in best]))))


class CompositeVideo(Video):
    """A composite video, rendered on first access, cached, and left out of pickles.

    Args:
        pool: where objects and backgrounds come from.
        kind: one of `KINDS`.
        number: index of the video among those of its kind, from 0.
        seed: seed of the set, at least 0.
        size: (H, W) in pixels.
        frames: number of frames.
    """

    def __init__(self, pool: TrackPool, kind: str, number: int, seed: int, size: Size, frames: int) -> None:
        self.pool, self.kind, self.number, self.seed, self.size = pool, kind, number, seed, size
        self.name = f"composite-{kind}-{seed}-{number:04d}"
        self.frame_names = [f"{t:05d}" for t in range(frames)]

    def frame(self, t: int) -> np.ndarray:
        """Return frame t, uint8 (H, W, 3), RGB."""
        return self._rendered[1][t]

    def mask(self, t: int) -> np.ndarray:
        """Return the index mask of frame t, uint8 (H, W)."""
        return self._rendered[2][t]

    @cached_property
    def first_frames(self) -> Mapping[int, int]:
        """Object id -> 0, since all objects are visible in the first frame."""
        return dict.fromkeys(self._rendered[0].labels, 0)

    @property
    def absence(self) -> tuple[int, int] | None:
        """First frame without objects and the frame of their return in an event video; otherwise None."""
        return self._rendered[0].absence

    @cached_property
    def _rendered(self) -> tuple[Scene, np.ndarray, np.ndarray]:
        """The scene, frames and masks; drawn again until every object is visible in the first frame."""
        rng = np.random.default_rng([self.number, self.seed, *f"composite/{self.kind}".encode()])
        unit = math.sqrt(self.size[0] * self.size[1])
        spec = VideoSpec(len(self), width=self.size[1] / unit, height=self.size[0] / unit)
        for _ in range(_SCENES):
            scene = sample_scene(SCENARIOS[self.kind], rng, spec, self.number)
            cast = _Cast(rng, scene, self.pool)
            areas = label_areas(cast.render(0, self.size)[1]) / (self.size[0] * self.size[1])
            if all(areas[label] >= MIN_VISIBLE_AREA for label in scene.labels):
                break
        rendered = [cast.render(t, self.size) for t in range(len(self))]
        scene_frames, masks = (np.stack(arrays) for arrays in zip(*rendered, strict=True))
        return scene, scene_frames, masks

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_rendered", "first_frames")}


class _Cast:
    """A scene with the real object, video or image that each of its layers shows."""

    def __init__(self, rng: np.random.Generator, scene: Scene, pool: TrackPool) -> None:
        self.scene = scene
        self.tracks: dict[int, tuple[Track, int]] = {}
        objects = [layer for layer in scene.layers if _shows_object(layer)]
        order = rng.permutation(len(pool.tracks))
        looks: dict[int, Track] = {}  # a layer with an object's own texture shows the same track
        for i, layer in enumerate(objects):
            key = id(layer.texture)
            looks.setdefault(key, pool.tracks[order[i % len(order)]])
            self.tracks[id(layer)] = looks[key], int(rng.integers(1000))
        taken = {track.video.name for track, _ in self.tracks.values()}
        others = [video for video in pool.videos if video.name not in taken] or pool.videos
        self.background = others[int(rng.integers(len(others)))]
        self.start, self.zoom = int(rng.integers(len(self.background))), rng.uniform(1.0, 1.4)
        wall = others[int(rng.integers(len(others)))]
        self.wall = wall.frame(int(rng.integers(len(wall))))

    def render(self, t: int, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Return frame t, uint8 (H, W, 3), and its mask, uint8 (H, W)."""
        backdrop = self.background.frame(reflect(self.start + t, len(self.background)))
        zoom = self.zoom * max(size[0] / backdrop.shape[0], size[1] / backdrop.shape[1])
        center = ((backdrop.shape[1] - 1) / 2, (backdrop.shape[0] - 1) / 2)
        flags, border = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR, cv2.BORDER_REFLECT
        frame = cv2.warpAffine(
            backdrop, crop_matrix(center, zoom, size), size[::-1], flags=flags, borderMode=border
        )
        mask = np.zeros(size, np.uint8)
        for layer in self.scene.layers:
            if layer.present[t] and id(layer) in self.tracks:
                track, offset = self.tracks[id(layer)]
                pixels, opacity = track.patch(offset + t)
                pixels = recolored(pixels, float(layer.hue[t]), float(layer.gain[t]))
                matrix = _object_matrix(layer, t, opacity.shape, track.scale, size)
                paste([frame], [mask], (pixels, opacity), [matrix], layer.label)
            elif layer.present[t] and layer.outline is not None and not layer.is_scenery:
                height, width = self.wall.shape[:2]
                opaque = np.full((height, width), 255, np.uint8)
                paste(
                    [frame], [mask], (self.wall, opaque), [_wall_matrix(layer, t, (height, width), size)], 0
                )
        return cv2.convertScaleAbs(frame, alpha=float(self.scene.light[t])), mask


def _shows_object(layer: Layer) -> bool:
    """Return whether a layer is an object or a distractor, not backdrop, scenery or a wall."""
    return layer.outline is not None and not layer.is_scenery and not math.isinf(layer.outline.exponent)


def _object_matrix(layer: Layer, t: int, patch: Size, scale: float, size: Size) -> np.ndarray:
    unit = math.sqrt(size[0] * size[1])
    angle = math.degrees(_ANGLE_SCALE * (layer.angle[t] - layer.angle[0]))
    center = ((patch[1] - 1) / 2, (patch[0] - 1) / 2)
    matrix = crop_matrix(center, layer.size[t] * unit / scale, size, angle)
    matrix[:, 2] += layer.position[t] * unit
    return matrix


def _wall_matrix(layer: Layer, t: int, patch: Size, size: Size) -> np.ndarray:
    """Return the matrix that stretches an image over the rectangle of a wall."""
    assert layer.outline is not None
    unit = math.sqrt(size[0] * size[1])
    width, height = (layer.size[t] * unit * math.sqrt(layer.outline.aspect) ** sign for sign in (1, -1))
    left_top = np.array(size[::-1]) / 2 + layer.position[t] * unit - np.array([width, height]) / 2
    return np.column_stack([np.diag([width / patch[1], height / patch[0]]), left_top])


def recolored(pixels: np.ndarray, hue: float, gain: float) -> np.ndarray:
    """Rotate hues by a part of the color circle and scale the brightness, uint8 (h, w, 3)."""
    if abs(hue) > 1e-3:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(round(256 * hue) % 256)  # wraps around
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return cv2.convertScaleAbs(pixels, alpha=gain)


def reflect(t: int, length: int) -> int:
    """Return the t-th number of 0, 1, ..., length - 1, length - 2, ..., 1, 0, 1, ..."""
    period = max(1, 2 * (length - 1))
    return min(t % period, period - t % period) if length > 1 else 0


def composite_videos(
    videos: Sequence[Video],
    count: int,
    seed: int = 0,
    kind: str = "mixed",
    frame_size: Sequence[int] = (240, 424),
    frames: int | None = None,
) -> list[CompositeVideo]:
    """List the first `count` composite videos of a seed.

    Args:
        videos: where objects and backgrounds come from.
        count: number of videos.
        seed: at least 0.
        kind: `plain`, `event`, `distractor` or `mixed` (alternating plain and event); see
            `stm.data.synthetic.dataset.synthetic_videos`.
        frame_size: (H, W) in pixels.
        frames: number of frames; by default 24 for plain and 40 for the others.

    Raises:
        ValueError: an unknown kind, or a number that is too small.
    """
    check_at_least(1, count=count)
    check_at_least(0, seed=seed)
    if len(frame_size) != 2 or min(frame_size) < MIN_SIDE:
        raise ValueError(
            f"frame_size={list(frame_size)}: must be a height and a width of at least {MIN_SIDE} pixels, "
            "such as [240, 424]"
        )
    height, width = frame_size
    if kind not in (*KINDS, "mixed"):
        raise ValueError(f"kind={kind!r}: must be {', '.join(KINDS)} or mixed")
    kinds = ("plain", "event") if kind == "mixed" else (kind,)
    for name in kinds:
        if frames is not None and frames < MIN_FRAMES[name]:
            raise ValueError(
                f"frames={frames}: must be at least {MIN_FRAMES[name]} for videos of kind {name}"
            )
    pool = TrackPool(videos)
    return [
        CompositeVideo(pool, name, i // len(kinds), seed, (height, width), frames or DEFAULT_FRAMES[name])
        for i, name in ((i, kinds[i % len(kinds)]) for i in range(count))
    ]
