"""Which masks can be mended safely, and how: their values into object ids, their size into their frame's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from stm.data.file_inspection import FLAT_COLORS, FileInfo, pack
from stm.dataset_check.dataset_files import StillFiles, Unit
from stm.dataset_check.rules import VOID, Look, ids, is_binary, is_usable
from stm.dataset_check.run import DatasetReport
from stm.masks import PALETTE, write_mask

VALUES = {"mask-binary", "mask-rgb", "mask-smooth"}
"""Findings about what a mask's values mean."""
_WHITE = 250
"""What a smoothed white reaches at least."""


@dataclass(frozen=True)
class Repair:
    """How a mask becomes what it should be.

    Attributes:
        source: the mask.
        done: what is done to it, in words.
        labels: stored value -> label; a value is a color 0xRRGGBB where `colored`.
        colored: colors are read; otherwise labels, or the first channel of a gray mask stored as RGB.
        size: height and width that it is resized to, by nearest neighbor; None to leave it.
    """

    source: Path
    done: tuple[str, ...]
    labels: Mapping[int, int]
    colored: bool = False
    size: tuple[int, int] | None = None

    def write(self, path: Path) -> None:
        """Write the mended mask."""
        with Image.open(self.source) as image:
            pixels = np.asarray(image)
        if self.colored:
            values = pack(pixels[..., :3])
            mask = np.zeros(values.shape, np.uint8)
            for color, label in self.labels.items():
                mask[values == color] = label
        else:
            table = np.arange(256, dtype=np.uint8)
            table[list(self.labels)] = list(self.labels.values())
            mask = table[(pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.uint8)]
        if self.size:
            mask = np.asarray(Image.fromarray(mask).resize(self.size[::-1], Image.Resampling.NEAREST))
        write_mask(path, mask)


def plan_repairs(examination: DatasetReport, threshold: int | None = None) -> list[Repair]:
    """The masks that can be mended, in order.

    Args:
        examination: with `keep`.
        threshold: also mend smooth gray masks of one object: values from here on, 1..255, are the object.
    """
    codes: dict[Path, set[str]] = {}
    for finding in examination.findings:
        codes.setdefault(examination.tree.root / finding.path, set()).add(finding.code)
    mends: list[Repair] = []
    for unit, look in examination.looks:
        mends += _of_unit(unit, look, codes, threshold)
    return mends


def _of_unit(
    unit: Unit, look: Look, codes: Mapping[Path, set[str]], threshold: int | None
) -> Iterator[Repair]:
    if isinstance(unit, StillFiles):
        frames: dict[Path, Path | None] = {unit.mask: unit.frame}
        meta = None
    else:
        frames = {path: unit.frames.get(name) for name, path in unit.masks.items()}
        meta = None if unit.objects is None else set(unit.objects)
    masks = {path: look[path] for path in frames if not look[path].fault}
    wrong = any(codes.get(path, set()) & VALUES for path in masks)
    readings = _readings(masks, wrong, meta, threshold)
    for path in (path for path in masks if path in readings):
        reading, facts, found, frame = readings[path], masks[path], codes.get(path, set()), frames[path]
        done = [reading.done] if reading.done else []
        if "mask-gray" in found and not (isinstance(unit, StillFiles) and VOID in facts.labels):
            done.append("palette")
        if "wrong-format" in found:
            done.append("PNG")
        size = look[frame].size if frame and "mask-size" in found else None
        if size and _same_aspect(size, facts.size):
            done.append(f"{facts.size[1]}x{facts.size[0]} -> {size[1]}x{size[0]}")
        else:
            size = None
        if done:
            yield Repair(path, tuple(done), reading.labels, reading.colored, size)


def _same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Is one size the other one scaled, up to the rounding of the smaller one's sides?"""
    (height, width), (small_height, small_width) = max(one, other), min(one, other)
    return (
        abs(width * small_height / height - small_width) < 1
        or abs(height * small_width / width - small_height) < 1
    )


# --- values ---


@dataclass(frozen=True)
class _Reading:
    """How a mask's values become labels, see `Repair`; `done` says so where they change."""

    done: str = ""
    labels: Mapping[int, int] = field(default_factory=dict)
    colored: bool = False


def _readings(
    masks: Mapping[Path, FileInfo], wrong: bool, meta: set[int] | None, threshold: int | None
) -> dict[Path, _Reading]:
    """How the masks of a video or still are read, all by one rule; those that cannot be are left out.

    Args:
        masks: what they hold.
        wrong: some of them have values that are no ids.
        meta: the ids that a meta.json has for the video, if there is one: then none is made up.
        threshold: see `plan_repairs`.
    """
    if wrong and meta in (None, {1}) and _is_one_object(masks.values(), threshold):
        smooth = any(facts.smooth for facts in masks.values())
        from_here = threshold if smooth and threshold else VOID
        reading = _Reading(
            f"{from_here} and above -> 1" if smooth else "255 -> 1",
            {value: int(value >= from_here) for value in range(256)},
        )
        shown = {path for path, facts in masks.items() if facts.labels.keys() - {0}}
        return {path: reading if path in shown else _empty(facts) for path, facts in masks.items()}
    readings = {path: _Reading() for path, facts in masks.items() if is_usable(facts)}
    colored = {path: facts for path, facts in masks.items() if facts.mode in ("RGB", "RGBA")}
    ids_here = any(ids(masks[path]) for path in readings)
    if table := _color_table(list(colored.values()), meta is None and not ids_here):
        for path, facts in colored.items():
            labels = sorted({table[color] for color in facts.colors} - {0})
            told = f"colors -> {', '.join(map(str, labels)) or 'background'}"
            readings[path] = _Reading(told, {color: table[color] for color in facts.colors}, True)
    return readings


def _empty(facts: FileInfo) -> _Reading:
    return _Reading() if is_usable(facts) else _Reading("colors -> background")


def _is_one_object(masks: Iterable[FileInfo], threshold: int | None) -> bool:
    """Do all masks show one object in white, or nothing? Smooth ones only where a threshold is given."""
    shown = [facts for facts in masks if facts.labels.keys() != {0}]
    smooth = [facts for facts in shown if facts.smooth and facts.mode != "P" and threshold]
    white = [facts for facts in shown if is_binary(facts)]
    reaches_white = bool(white) or any(max(facts.labels) >= _WHITE for facts in smooth)
    return reaches_white and len(smooth) + len(white) == len(shown)


def _color_table(masks: Sequence[FileInfo], fresh_ids: bool) -> dict[int, int]:
    """Color -> label for all colored masks of a video; empty where it is not sure.

    The DAVIS palette's own colors tell their labels; so do grays, except white, which may be void. Other
    colors are numbered as they come, but only beside black, which then is the background.
    """
    if not masks or not all(facts.colors for facts in masks):
        return {}
    every = list(dict.fromkeys(color for facts in masks for color in sorted(facts.colors)))
    palette = {int(color): label for label, color in enumerate(pack(PALETTE))}
    if set(every) <= palette.keys():
        return {color: palette[color] for color in every}
    if all(facts.labels for facts in masks):
        grays = {color: color & 0xFF for color in every}
        return {} if VOID in grays.values() else grays
    numbered = [color for color in every if color]
    black = all(0 in facts.colors for facts in masks)
    if not (fresh_ids and black) or 0xFFFFFF in every or len(numbered) > FLAT_COLORS:
        return {}
    return {0: 0} | {color: number for number, color in enumerate(numbered, 1)}
