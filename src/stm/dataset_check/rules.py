"""From what the files of a video or still hold to what is wrong with them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from stm.data.file_inspection import FileInfo
from stm.dataset_check.dataset_files import StillFiles, Unit, VideoFiles
from stm.dataset_check.issues import Issue

VOID = 255
LABELS = ("P", "L", "1")
"""Modes of a picture that holds labels."""
CLIP = 3
"""Frames of a training clip."""
Look = Mapping[Path, FileInfo]
"""File -> what it holds."""


def apply_rules(unit: Unit, look: Look, relative: Callable[[Path], str]) -> list[Issue]:
    """The findings of a video or still.

    Args:
        unit: what the files belong to.
        look: what they hold.
        relative: how findings tell a path.
    """
    rules = _video(unit, look) if isinstance(unit, VideoFiles) else _still(unit, look)
    return [Issue(code, relative(path), detail, severity) for code, path, detail, severity in rules]


Found = tuple[str, Path, str, str]


def found(code: str, path: Path, detail: str, severity: str = "") -> Found:
    """A finding before its path is made relative."""
    return code, path, detail, severity


def ids(facts: FileInfo) -> set[int]:
    """The object ids of a mask."""
    return set(facts.labels) - {0, VOID}


def is_usable(facts: FileInfo) -> bool:
    """Does a mask hold labels that can be taken for what they are?"""
    return facts.fault is None and facts.mode in LABELS and not facts.smooth


def is_binary(facts: FileInfo) -> bool:
    """Does a mask hold 0 and 255 alone?"""
    return VOID in facts.labels and not ids(facts)


# --- one file ---


def _frame(path: Path, facts: FileInfo) -> Iterator[Found]:
    if facts.fault:
        yield found(facts.fault[0], path, facts.fault[1])
        return
    if facts.format not in ("JPEG", "MPO", "PNG"):
        yield found("wrong-format", path, f"the content is {facts.format}")
    if facts.turned:
        yield found("frame-turned", path, "an EXIF tag asks viewers to turn the frame")
    if facts.mode != "RGB":
        yield found("frame-mode", path, f"the frame has mode {facts.mode}")


def _mask(path: Path, facts: FileInfo, frame: FileInfo | None) -> Iterator[Found]:
    """What is wrong with a mask, whatever its neighbors are."""
    if facts.fault:
        yield found(facts.fault[0], path, facts.fault[1])
        return
    if facts.format != "PNG":
        yield found("wrong-format", path, f"the content is {facts.format}")
    if frame and not frame.fault and frame.size != facts.size:
        one, other = (f"{width}x{height}" for height, width in (facts.size, frame.size))
        yield found("mask-size", path, f"the mask is {one}, its frame {other}")
    if facts.mode in ("RGB", "RGBA"):
        yield found("mask-rgb", path, f"mode {facts.mode}, {'flat' if facts.colors else 'many'} colors")
    elif facts.mode not in LABELS:
        yield found("mask-mode", path, f"mode {facts.mode}")


def _smooth(facts: FileInfo) -> str:
    return f"{len(ids(facts))} in-between values lie along edges"


# --- stills ---


def _still(still: StillFiles, look: Look) -> Iterator[Found]:
    frame, mask = look[still.frame], look[still.mask]
    yield from _frame(still.frame, frame)
    yield from _mask(still.mask, mask, frame)
    if mask.fault or mask.mode not in LABELS:
        return
    reads_255 = mask.mode != "P" and VOID in mask.labels  # one object, at 128 and above
    if mask.smooth:
        told = ", and 128 and above is read as the object" if reads_255 else ""
        yield found("mask-smooth", still.mask, _smooth(mask) + told, "note" if reads_255 else "")
    elif reads_255 and ids(mask):
        told = f"a gray mask with 255 is read as one object, and this one has the ids {_told(ids(mask))}, too"
        yield found("mask-gray", still.mask, told, "warning")
    elif mask.mode != "P" and ids(mask):
        yield found("mask-gray", still.mask, f"mode {mask.mode}")
    elif not mask.labels.keys() - {0}:
        yield found("no-objects", still.mask, "the mask is empty", "warning")
    if is_usable(mask) and not reads_255:
        yield from _gaps(still.mask, ids(mask))


# --- videos ---


def _video(video: VideoFiles, look: Look) -> Iterator[Found]:
    for path in video.frames.values():
        yield from _frame(path, look[path])
    yield from _sizes(video, look)
    yield from _numbers(video)
    if not video.masks:
        yield found("no-masks", video.masks_folder, f"none of {len(video.frames)} frames has a mask")
        return
    for name, path in video.masks.items():
        frame = video.frames.get(name)
        if frame is None:
            yield found("mask-alone", path, "there is no such frame")
        yield from _mask(path, look[path], look[frame] if frame else None)
    for name in video.wanted or ():
        if name not in video.masks:
            yield found("mask-missing", video.masks_folder / f"{name}.png", "the frame has no mask")
    annotated = len(video.masks.keys() & video.frames.keys())
    if video.clips and annotated < CLIP:
        yield found("few-masks", video.masks_folder, f"{annotated} of {len(video.frames)} frames have a mask")
    yield from _meaning(video, look)


def _sizes(video: VideoFiles, look: Look) -> Iterator[Found]:
    sizes = Counter(look[path].size for path in video.frames.values() if not look[path].fault)
    if len(sizes) > 1:
        told = ", ".join(f"{count} of {width}x{height}" for (height, width), count in sizes.most_common(5))
        yield found("frame-sizes", video.frames_folder, f"there are {told}")


def _numbers(video: VideoFiles) -> Iterator[Found]:
    """Gaps in the numbering, where all names end in a number: steps larger than the usual one."""
    matches = [re.fullmatch(r"(.*?)(\d{1,15})", name) for name in video.frames]
    prefixes = {match[1] for match in matches if match}
    if None in matches or len(prefixes) > 1:
        return
    numbers = sorted(int(match[2]) for match in matches if match)
    steps = [after - before for before, after in zip(numbers, numbers[1:], strict=False)]
    usual = Counter(steps).most_common(1)[0][0] if steps else 1
    for before, step in zip(numbers, steps, strict=False):
        if step > usual:
            told = f"after {before} comes {before + step}, elsewhere the numbers rise by {usual}"
            yield found("frame-gap", video.frames_folder, told)


def _meaning(video: VideoFiles, look: Look) -> Iterator[Found]:
    """What do a video's masks say together: which labels are objects, which come late, which are missing?"""
    labeled = {name: (path, look[path]) for name, path in video.masks.items() if look[path].mode in LABELS}
    for path, facts in labeled.values():
        if facts.smooth:
            yield found("mask-smooth", path, _smooth(facts))
    usable = {name: one for name, one in labeled.items() if is_usable(one[1])}
    shown = [facts for _, facts in usable.values() if facts.labels.keys() - {0}]
    whole = bool(shown) and all(is_binary(facts) for facts in shown)
    one_object = video.one_object != "never" and bool(shown) and is_binary(shown[0])  # as loaders decide
    yield from _binary(video, usable, whole, one_object)
    for path, facts in usable.values():
        if facts.mode != "P" and ids(facts):
            yield found("mask-gray", path, f"mode {facts.mode}")
    if len(usable) < len(video.masks) or (whole and not one_object):
        return  # what cannot be read may hold the objects that seem to be missing
    if one_object:
        objects = {name: {1} if VOID in facts.labels else set() for name, (_, facts) in usable.items()}
    else:
        objects = {name: ids(facts) for name, (_, facts) in usable.items()}
        yield from _void(video, [facts for _, facts in usable.values()])
    yield from _objects(video, objects)


def _binary(
    video: VideoFiles, usable: Mapping[str, tuple[Path, FileInfo]], whole: bool, one_object: bool
) -> Iterator[Found]:
    """Masks of 0 and 255 alone. A single one among masks of ids may be a frame whose objects are hidden."""
    if whole and one_object:
        if video.one_object == "as meant":
            return
        severity, told = "note", ", and is read as one object"
    elif whole:
        severity, told = "error", ""
    else:
        severity, told = "error" if one_object else "warning", ", other masks of the video hold ids"
    for path, facts in usable.values():
        if is_binary(facts):
            yield found("mask-binary", path, f"it holds 0 and 255 alone{told}", severity)


def _void(video: VideoFiles, masks: list[FileInfo]) -> Iterator[Found]:
    pixels = sum(facts.size[0] * facts.size[1] for facts in masks)
    void = sum(facts.labels.get(VOID, 0) for facts in masks if not is_binary(facts))
    if void:
        yield found("void", video.masks_folder, f"{void / pixels:.2%} of its masks' pixels are void (255)")


def _objects(video: VideoFiles, objects: Mapping[str, set[int]]) -> Iterator[Found]:
    """Which objects are where?

    Args:
        objects: frame name -> ids of its mask.
    """
    every = set().union(*objects.values())
    if video.objects is not None:
        yield from _against_meta(video, objects, every)
    elif not every:
        yield found("no-objects", video.masks_folder, f"none of its {len(objects)} masks shows an object")
    else:
        first, *later = objects
        if not objects[first]:
            severity = "note" if video.late else ""
            yield found("first-mask-empty", video.masks[first], "the first mask shows no object", severity)
        seen = set(objects[first])
        for name in later if objects[first] else ():
            if new := objects[name] - seen:
                told = f"object {_told(new)} first shows here"
                yield found("late-object", video.masks[name], told, "note" if video.late else "")
                seen |= new
    yield from _gaps(video.masks_folder, every)


def _against_meta(video: VideoFiles, objects: Mapping[str, set[int]], every: set[int]) -> Iterator[Found]:
    assert video.objects is not None
    for label, frames in sorted(video.objects.items()):
        entry = min(frames)
        if label not in every:
            told = f"meta.json lists object {label}, and none of {len(objects)} masks shows it"
            yield found("meta-no-mask", video.masks_folder, told)
        elif entry in objects and label not in objects[entry]:
            told = f"meta.json says that object {label} enters here, and the mask does not show it"
            yield found("meta-no-mask", video.masks[entry], told, "warning")
    if unknown := every - video.objects.keys():
        told = f"object {_told(unknown)} is in the masks, not in meta.json"
        yield found("id-not-in-meta", video.masks_folder, told)


def _gaps(path: Path, labels: set[int]) -> Iterator[Found]:
    if missing := set(range(1, max(labels, default=0))) - labels:
        yield found("id-gap", path, f"there are the ids {_told(labels)}, not {_told(missing)}")


def _told(numbers: set[int]) -> str:
    shown = sorted(numbers)
    return ", ".join(map(str, shown[:10])) + (", ..." if shown[10:] else "")
