"""Repairs of masks that are certain: their values become object ids, their size that of the frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from stm.data.file_inspection import FLAT_COLORS, FileInfo, pack_rgb
from stm.dataset_check.dataset_files import StillFiles, Unit
from stm.dataset_check.rules import FileInfos, is_binary, is_usable, object_labels
from stm.dataset_check.run import DatasetReport
from stm.masks import PALETTE, narrow, write_mask
from stm.video import VOID

VALUE_CODES = {"mask-binary", "mask-rgb", "mask-antialiased"}
"""Issues about the meaning of a mask's values."""
_TRANSPOSITIONS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation that exchanges height and width -> how Pillow applies it."""
_WHITE = 250
"""Lowest maximum of an anti-aliased white object."""


@dataclass(frozen=True)
class Repair:
    """The repair of a mask.

    Attributes:
        source: Mask.
        changes: Changes in words.
        labels: Stored value -> label; a value is a color 0xRRGGBB if `is_colored`.
        is_colored: Whether colors are read; otherwise labels, or the first channel of a gray mask stored as
            RGB.
        size: Height and width to resize to, by nearest neighbor; None keeps the size.
        orientation: EXIF orientation of the frame, on whose stored pixels the mask was drawn; 1 keeps them.
    """

    source: Path
    changes: tuple[str, ...]
    labels: Mapping[int, int]
    is_colored: bool = False
    size: tuple[int, int] | None = None
    orientation: int = 1

    def write(self, path: Path) -> None:
        """Write the repaired mask."""
        with Image.open(self.source) as image:
            pixels = np.asarray(image)
        if self.is_colored:
            values = pack_rgb(pixels[..., :3])
            mask = np.zeros(values.shape, np.uint8)
            for color, label in self.labels.items():
                mask[values == color] = label
        else:
            mask = narrow(pixels) if pixels.itemsize > 1 else pixels.astype(np.uint8)
            mask = mask if mask.ndim == 2 else mask[..., 0]
            table = np.arange(1 + np.iinfo(mask.dtype).max, dtype=mask.dtype)
            table[list(self.labels)] = list(self.labels.values())
            mask = table[mask]
        if self.orientation in _TRANSPOSITIONS:
            mask = np.asarray(Image.fromarray(mask).transpose(_TRANSPOSITIONS[self.orientation]))
        if self.size:
            mask = np.asarray(Image.fromarray(mask).resize(self.size[::-1], Image.Resampling.NEAREST))
        write_mask(path, mask)


def plan_repairs(report: DatasetReport, threshold: int | None = None) -> list[Repair]:
    """Return the repairs that are certain, in the order of the files.

    Args:
        report: Report of a check with `keep_infos`.
        threshold: Lowest value, 1..255, of the object in anti-aliased gray masks of one object; None leaves
            those masks as they are.
    """
    codes: dict[Path, set[str]] = {}
    for issue in report.issues:
        codes.setdefault(report.dataset.root / issue.path, set()).add(issue.code)
    repairs: list[Repair] = []
    for unit, infos in report.infos:
        repairs += _plan_unit(unit, infos, codes, threshold)
    return repairs


def _plan_unit(
    unit: Unit, infos: FileInfos, codes: Mapping[Path, set[str]], threshold: int | None
) -> Iterator[Repair]:
    is_still = isinstance(unit, StillFiles)
    if isinstance(unit, StillFiles):
        frames: dict[Path, Path | None] = {unit.mask: unit.frame}
        meta_labels = None
    else:
        frames = {path: unit.frames.get(name) for name, path in unit.masks.items()}
        meta_labels = None if unit.meta_objects is None else set(unit.meta_objects)
    masks = {path: infos[path] for path in frames if not infos[path].fault}
    has_bad_values = any(codes.get(path, set()) & VALUE_CODES for path in masks)
    for path, reading in _plan_readings(masks, has_bad_values, meta_labels, threshold).items():
        info, mask_codes, frame = masks[path], codes.get(path, set()), frames[path]
        changes = [reading.change] if reading.change else []
        if "mask-gray" in mask_codes and not (is_still and info.void in info.labels):
            changes.append("palette")
        if "wrong-format" in mask_codes:
            changes.append("PNG")
        size = infos[frame].size if frame and "mask-size" in mask_codes else None
        turn = infos[frame].orientation if frame and size == info.size[::-1] else 1
        if turn in _TRANSPOSITIONS:
            changes.append("rotated like its frame")
            size = None
        elif size and _have_same_aspect(size, info.size):
            changes.append(f"{info.size[1]}x{info.size[0]} -> {size[1]}x{size[0]}")
        else:
            size = None
        if changes:
            yield Repair(path, tuple(changes), reading.labels, reading.is_colored, size, turn)


def _have_same_aspect(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Return whether one size is the other one scaled, up to the rounding of the smaller sides."""
    (height, width), (small_height, small_width) = max(first, second), min(first, second)
    return (
        abs(width * small_height / height - small_width) < 1
        or abs(height * small_width / width - small_height) < 1
    )


# --- values ---


@dataclass(frozen=True)
class _Reading:
    """Conversion of a mask's values into labels, see `Repair`; `change` describes it if values change."""

    change: str = ""
    labels: Mapping[int, int] = field(default_factory=dict)
    is_colored: bool = False


def _plan_readings(
    masks: Mapping[Path, FileInfo], has_bad_values: bool, meta_labels: set[int] | None, threshold: int | None
) -> dict[Path, _Reading]:
    """Return one consistent conversion for the masks of a video or still, in order, without uncertain ones.

    Args:
        masks: Contents of the masks.
        has_bad_values: Whether some values are not object ids.
        meta_labels: Object ids that meta.json lists for the video, in which case no new id is invented.
        threshold: See `plan_repairs`.
    """
    if has_bad_values and meta_labels in (None, {1}) and _show_one_object(masks.values(), threshold):
        is_smooth = any(info.smooth for info in masks.values())
        lowest = threshold if is_smooth and threshold else VOID
        to_object = _Reading(
            f"{lowest} and above -> 1" if is_smooth else "255 -> 1",
            {value: int(value >= lowest) for value in range(256)},
        )
        no_object = _Reading("colors -> background")
        return {
            path: to_object if info.labels.keys() - {0} else _Reading() if is_usable(info) else no_object
            for path, info in masks.items()
        }
    readings = {path: _Reading() for path, info in masks.items() if is_usable(info)}
    colored = {path: info for path, info in masks.items() if info.mode in ("RGB", "RGBA")}
    has_ids = any(object_labels(masks[path]) for path in readings)
    if table := _color_table(list(colored.values()), meta_labels is None and not has_ids):
        for path, info in colored.items():
            labels = sorted({table[color] for color in info.colors} - {0})
            change = f"colors -> {', '.join(map(str, labels)) or 'background'}"
            readings[path] = _Reading(change, {color: table[color] for color in info.colors}, True)
    return {path: readings[path] for path in masks if path in readings}


def _show_one_object(masks: Iterable[FileInfo], threshold: int | None) -> bool:
    """Return whether all masks show one white object or nothing; anti-aliased ones only with a threshold."""
    nonempty = [info for info in masks if info.labels.keys() != {0}]
    smooth = [info for info in nonempty if info.smooth and info.mode != "P" and threshold]
    white = [info for info in nonempty if is_binary(info)]
    reaches_white = bool(white) or any(max(info.labels) >= _WHITE for info in smooth)
    return reaches_white and len(smooth) + len(white) == len(nonempty)


def _color_table(masks: Sequence[FileInfo], allow_new_ids: bool) -> dict[int, int]:
    """Return color -> label for all colored masks of a video, or an empty table if it is uncertain.

    Colors of the DAVIS palette have their labels; so do grays, except white, which may be void. Other
    colors are numbered in the order of their appearance, but only next to black, which is the background.
    """
    if not masks or not all(info.colors for info in masks):
        return {}
    colors = list(dict.fromkeys(color for info in masks for color in sorted(info.colors)))
    palette = {int(color): label for label, color in enumerate(pack_rgb(PALETTE))}
    if set(colors) <= palette.keys():
        return {color: palette[color] for color in colors}
    if all(info.labels for info in masks):
        grays = {color: color & 0xFF for color in colors}
        return {} if VOID in grays.values() else grays
    foreground = [color for color in colors if color]
    has_black = all(0 in info.colors for info in masks)
    if not (allow_new_ids and has_black) or 0xFFFFFF in colors or len(foreground) > FLAT_COLORS:
        return {}
    return {0: 0} | {color: label for label, color in enumerate(foreground, 1)}
