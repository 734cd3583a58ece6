"""COCO as stills: polygons and run lengths of the annotations, decoded when an image is read.

The json is read once into flat arrays. An image's annotations are a slice of them: reading an image looks at
nothing but its own, and a loading process holds no Python object for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from stm.clip import VOID
from stm.data.files import check_size, read_frame


class CocoStills:
    """The images of a COCO json that have annotations; each instance is an object, crowds are void.

    Objects are numbered by falling area and drawn in that order, so that a small one in front of a large one
    is seen; beyond 254, the smallest are left out.

    Args:
        images: the folder of frames, such as `train2017`.
        annotations: `instances_train2017.json` or the like.
        name: see `stm.data.stills.Stills`.

    Raises:
        FileNotFoundError: the json or the folder is missing.
        ValueError: the json is not of COCO's form, or nothing in it is annotated.
    """

    def __init__(self, images: str | Path, annotations: str | Path, name: str = "coco") -> None:
        for path in (Path(images), Path(annotations)):
            if not path.exists():
                raise FileNotFoundError(f"{path}: there is no such file or folder")
        self.name, self._images = name, str(images)
        try:
            self._index(json.loads(Path(annotations).read_bytes()))
        except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{annotations}: must have images (id, file_name, height, width) and annotations "
                f"(image_id, segmentation, area) ({error!r})"
            ) from error
        if len(self) == 0:
            raise ValueError(f"{annotations}: no image has an annotation")

    def _index(self, described: dict) -> None:
        """Lay all out flat: annotation a has the parts first[a] to first[a + 1] - 1: polygons or runs."""
        place = {image["id"]: i for i, image in enumerate(described["images"])}
        annotations = described["annotations"]
        crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
        owner = np.array([place[a["image_id"]] for a in annotations], dtype=np.int64)
        # By image; in it crowds first, then from large to small: the order of drawing.
        area = np.array([float(a.get("area", 0)) for a in annotations])
        order = np.lexsort((-area, ~crowd, owner))
        parts = [_parts(annotations[a]["segmentation"]) for a in order]
        self._crowd = crowd[order]
        self._first = _offsets(len(p) for p in parts)
        flat = [part for p in parts for part in p]
        self._is_polygon = np.array([part.dtype == np.float32 for part in flat], dtype=bool)
        polygons = [part for part in flat if part.dtype == np.float32]
        runs = [part for part in flat if part.dtype == np.uint32]
        self._points = np.concatenate([np.empty(0, np.float32), *polygons])
        self._runs = np.concatenate([np.empty(0, np.uint32), *runs])
        # Where a part begins: polygons and runs take turns in the list, but lie in arrays of their own.
        self._begin = np.zeros(len(flat), dtype=np.int64)
        self._end = np.zeros(len(flat), dtype=np.int64)
        for chosen, found in ((self._is_polygon, polygons), (~self._is_polygon, runs)):
            offsets = _offsets(map(len, found))
            self._begin[chosen], self._end[chosen] = offsets[:-1], offsets[1:]
        used, begins = np.unique(owner[order], return_index=True)
        self._annotations = np.append(begins, len(order))
        kept = [described["images"][i] for i in used]
        self._names = np.array([image["file_name"].encode() for image in kept], dtype=np.bytes_)
        self._shapes = np.array([(image["height"], image["width"]) for image in kept], dtype=np.int32)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Still i, see `stm.data.stills.Stills`.

        Raises:
            FileNotFoundError: the image is missing.
            ValueError: it is broken, or not of the size that the json tells.
        """
        path = f"{self._images}/{self._names[i].decode()}"
        mask = self.mask(i)
        check_size(path, "its COCO annotation", mask.shape)
        return read_frame(path), mask

    def mask(self, i: int) -> np.ndarray:
        """The objects of image i, uint8 (H, W), drawn from its annotations alone."""
        mask = np.zeros(self._shapes[i], dtype=np.uint8)
        label = 0
        for a in range(self._annotations[i], self._annotations[i + 1]):
            if not self._crowd[a]:
                label += 1
            if label < VOID:
                self._draw(mask, a, VOID if self._crowd[a] else label)
        return mask

    def _draw(self, mask: np.ndarray, annotation: int, label: int) -> None:
        for part in range(self._first[annotation], self._first[annotation + 1]):
            inside = slice(self._begin[part], self._end[part])
            if self._is_polygon[part]:
                fill_polygon(mask, self._points[inside].reshape(-1, 2), label)
            else:
                mask[decode_runs(self._runs[inside], mask.shape)] = label


def coco(images: str | Path, annotations: str | Path, name: str = "coco") -> CocoStills:
    """COCO's images with their instances, see `CocoStills`."""
    return CocoStills(images, annotations, name)


def fill_polygon(mask: np.ndarray, points: np.ndarray, label: int) -> None:
    """Give a label to the pixels whose centre lies in the polygon, in place.

    Args:
        mask: uint8 (H, W).
        points: (points, 2), x and y in pixels; pixel i reaches from i to i + 1.
        label: 0..255.
    """
    left, top = np.maximum(np.floor(points.min(axis=0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)), mask.shape[::-1]).astype(int)
    if right <= left or bottom <= top:
        return
    # fillPoly adds the border's pixels, half a pixel all round (9% of a 40-pixel object): so it fills a
    # canvas four times as fine, looked up at the pixels' centres; shift=8 keeps eight digits of the fraction.
    canvas = np.zeros((4 * (bottom - top), 4 * (right - left)), dtype=np.uint8)
    cv2.fillPoly(canvas, [np.rint((points - (left, top)) * 4 * 256).astype(np.int32)], 1, shift=8)
    mask[top:bottom, left:right][canvas[2::4, 2::4] > 0] = label


def decode_runs(runs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Where is the object? Bool (H, W) from lengths of alternating runs, background first, down the columns.

    Raises:
        ValueError: the runs don't add up to the image.
    """
    height, width = shape
    if int(runs.sum()) != height * width:
        raise ValueError(f"run lengths add up to {int(runs.sum())} pixels, the image has {height}x{width}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def uncompress_runs(text: str | bytes) -> np.ndarray:
    """Run lengths from COCO's string: uint32.

    A number is a group of characters with five bits each, lowest first, 48 added; bit 6 says that another
    follows, bit 5 of the last is the sign. From the fourth number on, what is kept is the difference to the
    number two places before.
    """
    numbers: list[int] = []
    value = shift = 0
    for character in text.encode() if isinstance(text, str) else text:
        code = character - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return np.array(numbers, dtype=np.uint32)


def _parts(segmentation: dict | Sequence[Sequence[float]]) -> list[np.ndarray]:
    """Polygons as float32 (2 x points,), or one array of run lengths, uint32."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        return [uncompress_runs(counts) if isinstance(counts, str) else np.array(counts, dtype=np.uint32)]
    return [np.array(polygon, dtype=np.float32) for polygon in segmentation if len(polygon) >= 6]


def _offsets(lengths: Iterable[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.fromiter(lengths, dtype=np.int64))]).astype(np.int64)
