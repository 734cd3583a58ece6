"""COCO as stills: polygons and run lengths, decoded when an image is read.

The JSON file is parsed once into flat arrays, which are cached beside it. The annotations of an image are a
slice of the arrays, so reading an image touches no other annotation, and a loading process holds no Python
object for each annotation.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stm.data.array_cache import cached_arrays, iterate_list_members
from stm.data.image_io import check_size, read_frame
from stm.video import VOID

FORM = "images (id, file_name, height, width) and annotations (image_id, segmentation, area)"


class CocoStills:
    """The annotated images of a COCO JSON file; each instance is an object, crowds are void.

    Objects are numbered and drawn by decreasing area, so that a small object in front of a large one is
    visible. The smallest ones beyond 254 are dropped.

    Args:
        images: the folder of images, such as `train2017`.
        annotations: the JSON file, such as `instances_train2017.json`.
        name: see `stm.data.stills.Stills`.

    Raises:
        FileNotFoundError: the JSON file or the folder is missing.
        ValueError: the JSON file does not have COCO's form, or no image is annotated.
    """

    def __init__(self, images: str | Path, annotations: str | Path, name: str = "coco") -> None:
        for path in (Path(images), Path(annotations)):
            if not path.exists():
                raise FileNotFoundError(f"{path}: there is no such file or folder")
        self.name, self._images, self._json = name, str(images), str(annotations)
        try:
            arrays, self._mapped = cached_arrays(
                annotations, lambda: flatten_annotations(Path(annotations).read_text("utf-8"))
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"{annotations}: must have {FORM}; got {error!r}") from error
        self._names, self._shapes = arrays["names"], arrays["shapes"]
        self._annotations, self._crowd, self._parts = arrays["annotations"], arrays["crowd"], arrays["parts"]
        self._points, self._runs = arrays["points"], arrays["runs"]
        self._begin, self._end, self._is_polygon = arrays["begin"], arrays["end"], arrays["is_polygon"]
        if len(self) == 0:
            raise ValueError(f"{annotations}: must have {FORM}; no image has an annotation")

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle only the paths if the arrays are cached, so that a spawned process maps the cache itself."""
        return (CocoStills, (self._images, self._json, self.name)) if self._mapped else super().__reduce__()

    def __len__(self) -> int:
        return len(self._names)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Read still i, see `stm.data.stills.Stills`.

        Raises:
            FileNotFoundError: the image is missing.
            ValueError: the image or an annotation is broken, or the image has another size than in the file.
        """
        name = self._names[i].decode()
        path = f"{self._images}/{name}"
        try:
            mask = self.mask(i)
        except ValueError as error:
            raise ValueError(f"{self._json}: the annotations of {name} are broken: {error}") from error
        check_size(path, "its COCO annotation", mask.shape)
        return read_frame(path), mask

    def mask(self, i: int) -> np.ndarray:
        """Draw the index mask of image i from its annotations, uint8 (H, W)."""
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
    """List the images of COCO with their instances, see `CocoStills`."""
    return CocoStills(images, annotations, name)


def flatten_annotations(text: str) -> dict[str, np.ndarray]:
    """Convert a COCO JSON text to flat arrays of images, annotations, and polygons or run lengths (parts).

    Image i has the annotations annotations[i] to annotations[i + 1] - 1 in drawing order: crowds first, then
    by decreasing area. Annotation a has the parts parts[a, 0] to parts[a, 1] - 1. Part p is
    points[begin[p]:end[p]] if it is a polygon, else runs[begin[p]:end[p]].
    """
    images: dict[int, tuple[str, int, int]] = {}
    points, runs = array("f"), array("I")
    begin, end, is_polygon = array("q"), array("q"), array("b")
    owner, area, crowd, parts = array("q"), array("d"), array("b"), array("q")
    for name, member in iterate_list_members(text):
        if name == "images":
            images[member["id"]] = (member["file_name"], member["height"], member["width"])
        elif name == "annotations":
            first = len(begin)
            segmentation = member["segmentation"]
            polygons = not isinstance(segmentation, dict)
            stored, values = (segmentation, points) if polygons else ([_counts(segmentation)], runs)
            for part in stored:
                if not polygons or len(part) >= 6:
                    if polygons and len(part) % 2:
                        place = f"a polygon of image {member['image_id']}"
                        raise ValueError(f"{place} must have pairs of coordinates; got {len(part)} numbers")
                    begin.append(len(values))
                    values.extend(part)
                    end.append(len(values))
                    is_polygon.append(polygons)
            owner.append(member["image_id"])
            area.append(member.get("area", 0))
            crowd.append(bool(member.get("iscrowd", 0)))
            parts.extend((first, len(begin)))
    index = {image_id: i for i, image_id in enumerate(images)}
    owners = np.array([index[image_id] for image_id in owner], dtype=np.int64)
    order = np.lexsort((-np.array(area), ~np.array(crowd, dtype=bool), owners))
    used, begins = np.unique(owners[order], return_index=True)
    described = list(images.values())
    return {
        "names": np.array([described[i][0].encode() for i in used], dtype=np.bytes_),
        "shapes": np.array([described[i][1:] for i in used], dtype=np.int32).reshape(-1, 2),
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
    """Set the pixels whose center lies in a polygon to a label, in place.

    Args:
        mask: uint8 (H, W).
        points: (points, 2), x and y in pixels; pixel i extends from i to i + 1.
        label: 0..255.
    """
    left, top = np.maximum(np.floor(points.min(axis=0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)), mask.shape[::-1]).astype(int)
    if right <= left or bottom <= top:
        return
    # fillPoly also fills the border pixels, half a pixel on each side (9% of a 40-pixel object). So fill a
    # canvas of four times the resolution and sample it at pixel centers; shift=8 keeps eight fractional bits.
    canvas = np.zeros((4 * (bottom - top), 4 * (right - left)), dtype=np.uint8)
    cv2.fillPoly(canvas, [np.rint((points - (left, top)) * 4 * 256).astype(np.int32)], 1, shift=8)
    mask[top:bottom, left:right][canvas[2::4, 2::4] > 0] = label


def decode_runs(runs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Decode lengths of alternating runs, background first, in column-major order: bool (H, W).

    Raises:
        ValueError: the runs do not add up to the image.
    """
    height, width = shape
    if int(runs.sum()) != height * width:
        raise ValueError(f"run lengths must add up to {height}x{width} pixels; got {int(runs.sum())}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def uncompress_runs(text: str | bytes) -> np.ndarray:
    """Decode COCO's compressed run lengths, uint32 (runs,).

    A number is a group of characters, each with 48 added, that hold five bits each, lowest first. Bit 6 is
    set if another character follows, and bit 5 of the last one is the sign. From the fourth number on, the
    difference to the number two positions before is stored.
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
    """Return run lengths that are stored as a list or as COCO's compressed string."""
    counts = segmentation["counts"]
    return uncompress_runs(counts).tolist() if isinstance(counts, str) else counts
