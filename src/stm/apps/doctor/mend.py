"""Which masks can be mended safely, and how: their values into object ids, their size into their frame's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from stm.apps.doctor.examine import Examination
from stm.apps.doctor.facts import FLAT_COLOURS, Facts, pack
from stm.apps.doctor.rules import VOID, Look, ids, is_binary, is_usable
from stm.apps.doctor.trees import StillFiles, Unit
from stm.masks import PALETTE, write_mask

VALUES = {"mask-binary", "mask-rgb", "mask-smooth"}
"""Findings about what a mask's values mean."""
_WHITE = 250
"""What a smoothed white reaches at least."""


@dataclass(frozen=True)
class Mend:
    """How a mask becomes what it should be.

    Attributes:
        source: the mask.
        done: what is done to it, in words.
        labels: stored value -> label; a value is a colour 0xRRGGBB where `coloured`.
        coloured: colours are read; otherwise labels, or the first channel of a grey mask stored as RGB.
        size: height and width that it is resized to, by nearest neighbour; None to leave it.
    """

    source: Path
    done: tuple[str, ...]
    labels: Mapping[int, int]
    coloured: bool = False
    size: tuple[int, int] | None = None

    def write(self, path: Path) -> None:
        """Write the mended mask."""
        with Image.open(self.source) as image:
            pixels = np.asarray(image)
        if self.coloured:
            values = pack(pixels[..., :3])
            mask = np.zeros(values.shape, np.uint8)
            for colour, label in self.labels.items():
                mask[values == colour] = label
        else:
            table = np.arange(256, dtype=np.uint8)
            table[list(self.labels)] = list(self.labels.values())
            mask = table[(pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.uint8)]
        if self.size:
            mask = np.asarray(Image.fromarray(mask).resize(self.size[::-1], Image.Resampling.NEAREST))
        write_mask(path, mask)


def plan(examination: Examination, threshold: int | None = None) -> list[Mend]:
    """The masks that can be mended, in order.

    Args:
        examination: with `keep`.
        threshold: also mend smooth grey masks of one object: values from here on, 1..255, are the object.
    """
    codes: dict[Path, set[str]] = {}
    for finding in examination.findings:
        codes.setdefault(examination.tree.root / finding.path, set()).add(finding.code)
    mends: list[Mend] = []
    for unit, look in examination.looks:
        mends += _of_unit(unit, look, codes, threshold)
    return mends


def _of_unit(unit: Unit, look: Look, codes: Mapping[Path, set[str]], threshold: int | None) -> Iterator[Mend]:
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
        if "mask-grey" in found and not (isinstance(unit, StillFiles) and VOID in facts.labels):
            done.append("palette")
        if "wrong-format" in found:
            done.append("PNG")
        size = look[frame].size if frame and "mask-size" in found else None
        if size and _same_aspect(size, facts.size):
            done.append(f"{facts.size[1]}x{facts.size[0]} -> {size[1]}x{size[0]}")
        else:
            size = None
        if done:
            yield Mend(path, tuple(done), reading.labels, reading.coloured, size)


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
    """How a mask's values become labels, see `Mend`; `done` says so where they change."""

    done: str = ""
    labels: Mapping[int, int] = field(default_factory=dict)
    coloured: bool = False


def _readings(
    masks: Mapping[Path, Facts], wrong: bool, meta: set[int] | None, threshold: int | None
) -> dict[Path, _Reading]:
    """How the masks of a video or still are read, all by one rule; those that cannot be are left out.

    Args:
        masks: what they hold.
        wrong: some of them have values that are no ids.
        meta: the ids that a meta.json has for the video, if there is one: then none is made up.
        threshold: see `plan`.
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
    coloured = {path: facts for path, facts in masks.items() if facts.mode in ("RGB", "RGBA")}
    ids_here = any(ids(masks[path]) for path in readings)
    if table := _colour_table(list(coloured.values()), meta is None and not ids_here):
        for path, facts in coloured.items():
            labels = sorted({table[colour] for colour in facts.colours} - {0})
            told = f"colours -> {', '.join(map(str, labels)) or 'background'}"
            readings[path] = _Reading(told, {colour: table[colour] for colour in facts.colours}, True)
    return readings


def _empty(facts: Facts) -> _Reading:
    return _Reading() if is_usable(facts) else _Reading("colours -> background")


def _is_one_object(masks: Iterable[Facts], threshold: int | None) -> bool:
    """Do all masks show one object in white, or nothing? Smooth ones only where a threshold is given."""
    shown = [facts for facts in masks if facts.labels.keys() != {0}]
    smooth = [facts for facts in shown if facts.smooth and facts.mode != "P" and threshold]
    white = [facts for facts in shown if is_binary(facts)]
    reaches_white = bool(white) or any(max(facts.labels) >= _WHITE for facts in smooth)
    return reaches_white and len(smooth) + len(white) == len(shown)


def _colour_table(masks: Sequence[Facts], fresh_ids: bool) -> dict[int, int]:
    """Colour -> label for all coloured masks of a video; empty where it is not sure.

    The DAVIS palette's own colours tell their labels; so do greys, except white, which may be void. Other
    colours are numbered as they come, but only beside black, which then is the background.
    """
    if not masks or not all(facts.colours for facts in masks):
        return {}
    every = list(dict.fromkeys(colour for facts in masks for colour in sorted(facts.colours)))
    palette = {int(colour): label for label, colour in enumerate(pack(PALETTE))}
    if set(every) <= palette.keys():
        return {colour: palette[colour] for colour in every}
    if all(facts.labels for facts in masks):
        greys = {colour: colour & 0xFF for colour in every}
        return {} if VOID in greys.values() else greys
    numbered = [colour for colour in every if colour]
    black = all(0 in facts.colours for facts in masks)
    if not (fresh_ids and black) or 0xFFFFFF in every or len(numbered) > FLAT_COLOURS:
        return {}
    return {0: 0} | {colour: number for number, colour in enumerate(numbered, 1)}
