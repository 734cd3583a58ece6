"""COCO as stills: polygons and run lengths of the annotations, decoded when an image is read.

The json is read once into flat arrays, kept in an index beside it. An image's annotations are a slice of
them: reading an image looks at nothing but its own, and a loading process holds no Python object for each.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stm.data.array_cache import cached_arrays, members
from stm.data.image_io import check_size, read_frame
from stm.video import VOID

FORM = "images (id, file_name, height, width) and annotations (image_id, segmentation, area)"


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
        self.name, self._images, self._json = name, str(images), str(annotations)
        try:
            arrays, self._mapped = cached_arrays(
                annotations, lambda: flat(Path(annotations).read_text("utf-8"))
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"{annotations}: must have {FORM} ({error!r})") from error
        self._names, self._shapes = arrays["names"], arrays["shapes"]
        self._annotations, self._crowd, self._parts = arrays["annotations"], arrays["crowd"], arrays["parts"]
        self._points, self._runs = arrays["points"], arrays["runs"]
        self._begin, self._end, self._is_polygon = arrays["begin"], arrays["end"], arrays["is_polygon"]
        if len(self) == 0:
            raise ValueError(f"{annotations}: must have {FORM}; no image has an annotation")

    def __reduce__(self) -> str | tuple[Any, ...]:
        """A loading process that is started anew maps the index, too, and is sent nothing."""
        return (CocoStills, (self._images, self._json, self.name)) if self._mapped else super().__reduce__()

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
        for part in range(*self._parts[annotation]):
            inside = slice(self._begin[part], self._end[part])
            if self._is_polygon[part]:
                fill_polygon(mask, self._points[inside].reshape(-1, 2), label)
            else:
                mask[decode_runs(self._runs[inside], mask.shape)] = label


def coco(images: str | Path, annotations: str | Path, name: str = "coco") -> CocoStills:
    """COCO's images with their instances, see `CocoStills`."""
    return CocoStills(images, annotations, name)


def flat(text: str) -> dict[str, np.ndarray]:
    """The arrays of a COCO json: those of images, then of annotations, then of polygons and run lengths.

    Image i has the annotations annotations[i] to annotations[i + 1] - 1 in the order of drawing: crowds
    first, then from large to small. Annotation a has the parts from parts[a, 0] to parts[a, 1] - 1; part p is
    points[begin[p]:end[p]] where it is a polygon, else runs[begin[p]:end[p]].
    """
    images: dict[int, tuple[str, int, int]] = {}
    points, runs = array("f"), array("I")
    begin, end, is_polygon = array("q"), array("q"), array("b")
    owner, area, crowd, parts = array("q"), array("d"), array("b"), array("q")
    for name, member in members(text):
        if name == "images":
            images[member["id"]] = (member["file_name"], member["height"], member["width"])
        elif name == "annotations":
            first = len(begin)
            segmentation = member["segmentation"]
            polygons = not isinstance(segmentation, dict)
            stored, into = (segmentation, points) if polygons else ([_counts(segmentation)], runs)
            for part in stored:
                if not polygons or len(part) >= 6:
                    begin.append(len(into))
                    into.extend(part)
                    end.append(len(into))
                    is_polygon.append(polygons)
            owner.append(member["image_id"])
            area.append(member.get("area", 0))
            crowd.append(bool(member.get("iscrowd", 0)))
            parts.extend((first, len(begin)))
    place = {identity: i for i, identity in enumerate(images)}
    owners = np.array([place[identity] for identity in owner], dtype=np.int64)
    order = np.lexsort((-np.array(area), ~np.array(crowd, dtype=bool), owners))
    used, begins = np.unique(owners[order], return_index=True)
    told = list(images.values())
    return {
        "names": np.array([told[i][0].encode() for i in used], dtype=np.bytes_),
        "shapes": np.array([told[i][1:] for i in used], dtype=np.int32).reshape(-1, 2),
        "annotations": np.append(begins, len(order)),
        "crowd": np.array(crowd, dtype=bool)[order],
        "parts": np.array(parts, dtype=np.int64).reshape(-1, 2)[order],
        "begin": np.array(begin, dtype=np.int64),
        "end": np.array(end, dtype=np.int64),
        "is_polygon": np.array(is_polygon, dtype=bool),
        "points": np.array(points, dtype=np.float32),
        "runs": np.array(runs, dtype=np.uint32),
    }


def fill_polygon(mask: np.ndarray, points: np.ndarray, label: int) -> None:
    """Give a label to the pixels whose center lies in the polygon, in place.

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
    # canvas four times as fine, looked up at the pixels' centers; shift=8 keeps eight digits of the fraction.
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


def _counts(segmentation: dict) -> list[int]:
    """Run lengths, as a list or in COCO's string."""
    counts = segmentation["counts"]
    return uncompress_runs(counts).tolist() if isinstance(counts, str) else counts
