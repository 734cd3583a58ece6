"""Visualization of masks: overlays, heat maps, sheets of labeled images, and writing images and videos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stm.atomic_io import atomic_path
from stm.masks import PALETTE, object_ids
from stm.video import void_label

_Label = TypeVar("_Label", int, np.ndarray)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
MIN_FPS, MAX_FPS = 0.001, 1000.0
"""Range of frame rates; outside of it, encoders silently use another rate."""


def palette_index(label: _Label) -> _Label:
    """Return the palette's entry for object ids; beyond 255 they begin again at 1."""
    return (label - 1) % 255 + 1


def object_color(label: int) -> tuple[int, int, int]:
    """Return the RGB color of an object's contour: its palette color at full brightness."""
    color = PALETTE[palette_index(label)].astype(int)
    highest = max(int(color.max()), 1)
    red, green, blue = (int(value) * 255 // highest for value in color)
    return red, green, blue


def overlay(
    frame: np.ndarray, mask: np.ndarray, alpha: float = 0.45, truth: np.ndarray | None = None
) -> np.ndarray:
    """Tint each object of a frame in its DAVIS color and outline it, uint8 (H, W, 3).

    Args:
        frame: uint8 (H, W, 3), RGB.
        mask: integer (H, W), object ids as labels; void is not drawn.
        alpha: opacity of the tint, 0..1.
        truth: integer (H, W), ground truth, whose objects are outlined in white, dashed with black.

    Raises:
        ValueError: mask or truth has another size than the frame.
    """
    for name, labels in (("mask", mask), ("truth", truth)):
        if labels is not None and labels.shape != frame.shape[:2]:
            raise ValueError(f"{name} must have the frame's size, {frame.shape[:2]}; got {labels.shape}")
    covered = (mask != 0) & (mask != void_label(mask))
    image = frame.copy()
    tint = PALETTE[palette_index(mask[covered])].astype(np.float32)
    image[covered] = np.rint((1 - alpha) * frame[covered] + alpha * tint).astype(np.uint8)
    width = max(1, round(min(mask.shape) / 240))
    for label in object_ids(mask):
        lines = _outlines(mask == label)
        cv2.polylines(image, lines, True, BLACK, width + 2, cv2.LINE_AA)
        cv2.polylines(image, lines, True, object_color(label), width, cv2.LINE_AA)
    if truth is not None:
        for label in object_ids(truth):
            lines = _outlines(truth == label)
            cv2.polylines(image, lines, True, BLACK, width, cv2.LINE_AA)
            cv2.polylines(image, _dashes(lines, 4 * width), False, WHITE, width, cv2.LINE_AA)
    return image


def _outlines(region: np.ndarray) -> list[np.ndarray]:
    """Find the closed outlines of a bool (H, W) region, holes included: int32 (N, 1, 2) each."""
    lines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return list(lines)


def _dashes(lines: Sequence[np.ndarray], length: int) -> list[np.ndarray]:
    """Return every second segment of the given length in points."""
    return [line[start : start + length] for line in lines for start in range(0, len(line), 2 * length)]


def heat(frame: np.ndarray, weights: np.ndarray, highest: float | None = None) -> np.ndarray:
    """Draw a heat map of weights over a darkened gray frame, uint8 (H, W, 3).

    Args:
        frame: uint8 (H, W, 3), RGB.
        weights: (H, W), at least 0. Color and opacity grow with the square root of the weight.
        highest: weight of full color and opacity, to compare several heat maps; by default the highest
            weight.

    Raises:
        ValueError: the weights have another size than the frame.
    """
    if weights.shape != frame.shape[:2]:
        raise ValueError(f"weights must have the frame's size, {frame.shape[:2]}; got {weights.shape}")
    scale = float(weights.max()) if highest is None else highest
    strength = np.sqrt(weights / max(scale, 1e-12)).clip(0, 1)
    colors = cv2.applyColorMap(np.rint(255 * strength).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    gray = 0.45 * frame.mean(axis=-1, keepdims=True)
    alpha = strength[..., None]
    return np.rint((1 - alpha) * gray + alpha * colors).astype(np.uint8)


def contact_sheet(
    images: Sequence[np.ndarray], labels: Sequence[str], columns: int | None = None, title: str = ""
) -> np.ndarray:
    """Arrange images in a grid on white, each under its label, uint8 (H', W', 3).

    Args:
        images: uint8 (H, W, 3) each; all are scaled to the height of the first.
        labels: one for each image.
        columns: images per row; by default all in one row.
        title: a line above the images.

    Raises:
        ValueError: there is no image, or the number of labels differs.
    """
    if not images or len(images) != len(labels):
        raise ValueError(
            f"a sheet must have at least one image and a label for each; got {len(images)} images and "
            f"{len(labels)} labels"
        )
    height = images[0].shape[0]
    scaled = [_scale_to_height(image, height) for image in images]
    width = max(image.shape[1] for image in scaled)
    columns = min(columns or len(scaled), len(scaled))
    rows = -(-len(scaled) // columns)
    gap, font = max(4, height // 60), ImageFont.load_default(max(11, height // 16))
    line = round(font.size * 1.5) if isinstance(font, ImageFont.FreeTypeFont) else 16
    top = gap + (line if title else 0)
    size = (columns * (width + gap) + gap, top + rows * (line + height + gap))
    sheet = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap, gap + line // 2), title, BLACK, font, anchor="lm")
    for i, (image, label) in enumerate(zip(scaled, labels, strict=True)):
        row, column = divmod(i, columns)
        x, y = gap + column * (width + gap), top + row * (line + height + gap)
        draw.text((x, y + line // 2), label, BLACK, font, anchor="lm")
        sheet.paste(Image.fromarray(image), (x, y + line))
    return np.asarray(sheet)


def _scale_to_height(image: np.ndarray, height: int) -> np.ndarray:
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    interpolation = cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) as JPEG or PNG, depending on the suffix, atomically.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
    if path.suffix.lower() not in formats:
        raise ValueError(f"{path}: must end in {', '.join(formats)}")
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, formats[path.suffix.lower()], quality=92)


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 24) -> None:
    """Write frames as an MP4 file (H.264) that browsers can play, one frame at a time, atomically.

    Args:
        path: ends in `.mp4`.
        frames: uint8 (H, W, 3), RGB, of one size; an odd last row or column is cropped, since H.264 requires
            it.
        fps: frames per second, 0.001 to 1000.

    Raises:
        ValueError: there is no frame, or the frame rate is out of range.
    """
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"{path}: fps={fps}: must be {MIN_FPS} to {MAX_FPS:g}, such as 24")
    path = Path(path)
    stream = None
    # an absolute path, since FFmpeg takes what precedes a colon for a protocol
    with atomic_path(path.absolute()) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        for frame in frames:
            height, width = (side - side % 2 for side in frame.shape[:2])
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": "20"}
            cropped = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(cropped, "rgb24")))
        if stream is None:
            raise ValueError(f"{path}: must have at least one frame; got none")
        container.mux(stream.encode())
