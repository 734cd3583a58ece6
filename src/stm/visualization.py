"""What did the masks cover? Masks laid over frames, sheets of labeled pictures, and videos of them.

Knows frames and index masks only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stm.atomic_io import atomic_path
from stm.masks import PALETTE, object_ids
from stm.video import VOID

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
SLOWEST, FASTEST = 0.001, 1000.0
"""Pictures a second that a video can have; beyond, encoders take another rate and don't say so."""


def object_color(label: int) -> tuple[int, int, int]:
    """The color that an object's contour is drawn in: its palette color at full brightness."""
    color = PALETTE[label].astype(int)
    brightest = max(int(color.max()), 1)
    red, green, blue = (int(value) * 255 // brightest for value in color)
    return red, green, blue


def overlay(
    frame: np.ndarray, mask: np.ndarray, alpha: float = 0.45, truth: np.ndarray | None = None
) -> np.ndarray:
    """A frame with each object tinted in its DAVIS color and outlined, uint8 (H, W, 3).

    Args:
        frame: uint8 (H, W, 3), RGB.
        mask: integer (H, W), object ids as labels; void is left as it is.
        alpha: how much of the tint covers the frame, 0..1.
        truth: integer (H, W); its objects are outlined in white, dashed with black, over all else.

    Raises:
        ValueError: mask or truth has another size than the frame.
    """
    for name, labels in (("mask", mask), ("truth", truth)):
        if labels is not None and labels.shape != frame.shape[:2]:
            raise ValueError(f"{name} of size {labels.shape} does not fit a frame of size {frame.shape[:2]}")
    covered = (mask != 0) & (mask != VOID)
    picture = frame.copy()
    tint = PALETTE[mask[covered]].astype(np.float32)
    picture[covered] = np.rint((1 - alpha) * frame[covered] + alpha * tint).astype(np.uint8)
    width = max(1, round(min(mask.shape) / 240))
    for label in object_ids(mask):
        lines = _outlines(mask == label)
        cv2.polylines(picture, lines, True, BLACK, width + 2, cv2.LINE_AA)
        cv2.polylines(picture, lines, True, object_color(label), width, cv2.LINE_AA)
    if truth is not None:
        for label in object_ids(truth):
            lines = _outlines(truth == label)
            cv2.polylines(picture, lines, True, BLACK, width, cv2.LINE_AA)
            cv2.polylines(picture, _dashes(lines, 4 * width), False, WHITE, width, cv2.LINE_AA)
    return picture


def _outlines(region: np.ndarray) -> list[np.ndarray]:
    """Closed outlines of a bool (H, W) region, holes included: int32 (N, 1, 2) each."""
    lines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return list(lines)


def _dashes(lines: Sequence[np.ndarray], length: int) -> list[np.ndarray]:
    """Every second stretch of the given length, in points."""
    return [line[start : start + length] for line in lines for start in range(0, len(line), 2 * length)]


def heat(frame: np.ndarray, weights: np.ndarray, highest: float | None = None) -> np.ndarray:
    """A darkened gray frame that glows where weights are high, uint8 (H, W, 3).

    Args:
        frame: uint8 (H, W, 3), RGB.
        weights: (H, W), at least 0; the highest glows most, half as much as it does at a quarter of it.
        highest: what glows most, where several pictures are to be compared; by default the highest of these.

    Raises:
        ValueError: the weights have another size than the frame.
    """
    if weights.shape != frame.shape[:2]:
        raise ValueError(f"weights of size {weights.shape} do not fit a frame of size {frame.shape[:2]}")
    most = float(weights.max()) if highest is None else highest
    strength = np.sqrt(weights / max(most, 1e-12)).clip(0, 1)
    glow = cv2.applyColorMap(np.rint(255 * strength).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    gray = 0.45 * frame.mean(axis=-1, keepdims=True)
    share = strength[..., None]
    return np.rint((1 - share) * gray + share * glow).astype(np.uint8)


def contact_sheet(
    pictures: Sequence[np.ndarray], labels: Sequence[str], columns: int | None = None, title: str = ""
) -> np.ndarray:
    """Pictures side by side on white, each under its label, uint8 (H', W', 3).

    Args:
        pictures: uint8 (H, W, 3) each; all are scaled to the first one's height.
        labels: one for each picture.
        columns: pictures in a row; all in one row by default.
        title: a line above all.

    Raises:
        ValueError: there is no picture, or not a label for each.
    """
    if not pictures or len(pictures) != len(labels):
        raise ValueError(
            f"a sheet needs a label for each picture: {len(pictures)} pictures, {len(labels)} labels"
        )
    height = pictures[0].shape[0]
    scaled = [_to_height(picture, height) for picture in pictures]
    width = max(picture.shape[1] for picture in scaled)
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
    for number, (picture, label) in enumerate(zip(scaled, labels, strict=True)):
        row, column = divmod(number, columns)
        x, y = gap + column * (width + gap), top + row * (line + height + gap)
        draw.text((x, y + line // 2), label, BLACK, font, anchor="lm")
        sheet.paste(Image.fromarray(picture), (x, y + line))
    return np.asarray(sheet)


def _to_height(picture: np.ndarray, height: int) -> np.ndarray:
    if picture.shape[0] == height:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    shrinks = picture.shape[0] > height
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def write_image(path: str | Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3) as JPEG or PNG, by the path's suffix; the file appears whole or not at all.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: must end in {', '.join(kinds)}")
    with atomic_path(path) as beside:
        Image.fromarray(picture).save(beside, kind, quality=92)


def write_video(path: str | Path, pictures: Iterable[np.ndarray], fps: float = 24) -> None:
    """Write pictures as an MP4 that browsers play (H.264), one at a time; it appears whole or not at all.

    Args:
        path: ends in `.mp4`.
        pictures: uint8 (H, W, 3) of one size; an odd last row or column is left out, as H.264 wants.
        fps: pictures a second, 0.001 to 1000.

    Raises:
        ValueError: there is no picture, or the rate is none that a video can have.
    """
    if not SLOWEST <= fps <= FASTEST:
        raise ValueError(f"{path}: fps={fps}: must be {SLOWEST} to {FASTEST:g}, such as 24")
    path = Path(path)
    stream = None
    with atomic_path(path) as beside, av.open(str(beside), "w", format="mp4") as container:
        for picture in pictures:
            height, width = (side - side % 2 for side in picture.shape[:2])
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": "20"}
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), "rgb24")
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"{path}: no pictures to make a video of")
        container.mux(stream.encode())
