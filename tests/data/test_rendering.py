"""Rendering of procedural scenes: masks match the visible objects at every resolution."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from stm.data.synthetic.dataset import SyntheticVideo, synthetic_videos
from stm.data.synthetic.rendering import Scene, polygons, render, render_mask
from stm.data.synthetic.textures import TEXTURES, Texture, pattern, rgb

SIZE = 64


@pytest.fixture(scope="module")
def plain() -> list[SyntheticVideo]:
    return synthetic_videos(6, seed=5, split="val", kind="plain", size=SIZE)


def slow_labels(scene: Scene, t: int, size: tuple[int, int], fine: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Compute labels by the even-odd rule on a fine grid, and the pixels where no layer covers about half."""
    unit = np.sqrt(size[0] * size[1])
    x = ((np.arange(size[1] * fine) + 0.5) / fine - size[1] / 2) / unit
    y = (((np.arange(size[0] * fine) + 0.5) / fine - size[0] / 2) / unit)[:, None]
    labels, clear = np.zeros(size, np.uint8), np.ones(size, bool)
    for layer in scene.layers:
        if not layer.present[t]:
            continue
        inside = np.zeros((size[0] * fine, size[1] * fine), bool)
        corners = polygons(layer, np.array([t]))[0]
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            crosses = (y0 > y) != (y1 > y)
            at = x0 + (y - y0) * (x1 - x0) / (y1 - y0 if y1 != y0 else 1.0)
            inside ^= crosses & (x < at)
        cover = inside.reshape(size[0], fine, size[1], fine).mean(axis=(1, 3))
        labels[cover >= 0.5] = layer.label
        clear &= np.abs(cover - 0.5) > 0.2  # the renderer uses sixteen points per pixel
    return labels, clear


def test_masks_equal_a_slow_point_in_polygon_rasterization(plain: list[SyntheticVideo]) -> None:
    disputed = 0
    for video in plain[:6]:
        for t in (0, 11, 23):
            labels, clear = slow_labels(video.scene, t, (SIZE, SIZE))
            np.testing.assert_array_equal(video.mask(t)[clear], labels[clear])
            disputed += np.count_nonzero(~clear)
    assert disputed < 0.04 * 18 * SIZE * SIZE


def test_drawing_one_mask_equals_drawing_the_video(plain: list[SyntheticVideo]) -> None:
    for t in (0, 11, 23):
        np.testing.assert_array_equal(render_mask(plain[0].scene, t, (SIZE, SIZE)), plain[0].mask(t))


def test_the_mask_covers_the_pixels_that_change_with_an_objects_color(plain: list[SyntheticVideo]) -> None:
    for video in plain[:5]:
        scene = replace(video.scene, noise=0.0, blur=0.0, light=np.ones(len(video)), shade=np.zeros(2))

        def render_with(label: int, brightness: float, scene: Scene = scene) -> tuple[np.ndarray, np.ndarray]:
            gray = np.array([[0, 0, brightness]] * 2)
            layers = [
                replace(layer, texture=replace(layer.texture, ramp=gray), gain=np.ones(len(scene)))
                if layer.label == label
                else layer
                for layer in scene.layers
            ]
            return render(replace(scene, layers=tuple(layers)), (SIZE, SIZE))

        for label in scene.labels:
            white, masks = render_with(label, 1.0)
            black, _ = render_with(label, 0.0)
            visible = (white[..., 0].astype(float) - black[..., 0]) / 255  # fraction of each pixel
            assert (masks[visible > 0.52] == label).all()
            assert (masks[visible < 0.05] != label).all()


def test_a_scene_looks_the_same_at_another_resolution() -> None:
    small = synthetic_videos(4, seed=2, split="val", size=(60, 96))
    large = synthetic_videos(4, seed=2, split="val", size=(120, 192))
    for a, b in zip(small, large, strict=True):
        for t in (0, len(a) - 1):
            assert a.frame(t).shape == (60, 96, 3)
            shrunk = b.mask(t)[::2, ::2]
            assert np.mean(shrunk == a.mask(t)) > 0.97
            colors = cv2.resize(b.frame(t), (96, 60), interpolation=cv2.INTER_AREA)
            assert np.abs(colors.astype(int) - a.frame(t)).mean() < 12


def test_an_object_covers_the_square_of_its_size(plain: list[SyntheticVideo]) -> None:
    for video in plain:
        for layer in video.scene.layers[1:]:
            x, y = polygons(layer, np.arange(len(video))).transpose(2, 0, 1)
            area = 0.5 * np.abs(np.sum(x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1), axis=1))
            np.testing.assert_allclose(area, layer.size**2, rtol=1e-9)


@pytest.mark.parametrize("kind", TEXTURES)
def test_a_pattern_is_seamless_and_the_same_at_any_resolution(kind: str) -> None:
    texture = Texture(kind, seed=3, wavelength=0.2, ramp=np.zeros((2, 3)))
    small, large = pattern(texture, 128).astype(int), pattern(texture, 256).astype(int)
    steps = np.abs(np.diff(large, axis=1))
    assert np.abs(large[:, 0] - large[:, -1]).max() <= 1.2 * steps.max()
    assert np.abs(small - large[::2, ::2]).mean() < 3
    assert small.std() > 20


def test_colors_equal_those_of_the_standard_library() -> None:
    hsv = np.random.default_rng(0).random((50, 3))
    np.testing.assert_allclose(rgb(hsv), [colorsys.hsv_to_rgb(*color) for color in hsv], atol=1e-12)
    np.testing.assert_allclose(rgb(hsv + [3, 0, 0]), rgb(hsv))


def test_an_unknown_texture_is_refused() -> None:
    with pytest.raises(ValueError, match="kind='plaid': must be one of noise"):
        pattern(Texture("plaid", 0, 0.2, np.zeros((2, 3))), 64)
