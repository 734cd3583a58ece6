"""Rules that turn the contents of a video's or still's files into issues."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from stm.data.file_inspection import FileInfo
from stm.dataset_check.dataset_files import StillFiles, Unit, VideoFiles
from stm.dataset_check.issues import Issue
from stm.masks import LABEL_MODES, WIDE_MODES
from stm.video import VOID, WIDE_VOID

_COMMON = ("JPEG", "MPO", "PNG")
FORMATS_OF_SUFFIX = {
    **dict.fromkeys((".jpg", ".jpeg", ".png"), _COMMON),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    ".bmp": ("BMP",),
    ".webp": ("WEBP",),
}
"""Suffix of a frame -> formats of its content that need no remark."""
CLIP_LENGTH = 3
"""Frames of a training clip."""
FileInfos = Mapping[Path, FileInfo]
"""File -> its contents."""
_RawIssue = tuple[str, Path, str, str]
"""Code, absolute path, detail and severity of an issue."""


def apply_rules(unit: Unit, infos: FileInfos, relative: Callable[[Path], str]) -> list[Issue]:
    """Return the issues of a video or still.

    Args:
        unit: Video or still.
        infos: Contents of its files.
        relative: Function that turns a path into the one that issues show.
    """
    rules = _check_video(unit, infos) if isinstance(unit, VideoFiles) else _check_still(unit, infos)
    return [Issue(code, relative(path), detail, severity) for code, path, detail, severity in rules]


def object_labels(info: FileInfo) -> set[int]:
    """Return the object ids of a mask."""
    return set(info.labels) - {0, info.void}


def is_usable(info: FileInfo) -> bool:
    """Return whether the values of a mask can be read as object ids."""
    return info.fault is None and info.mode in LABEL_MODES and not info.smooth


def is_binary(info: FileInfo) -> bool:
    """Return whether a mask holds only background and void."""
    return info.void in info.labels and not object_labels(info)


def _issue(code: str, path: Path, detail: str, severity: str = "") -> _RawIssue:
    return code, path, detail, severity


# --- one file ---


def _check_frame(path: Path, info: FileInfo) -> Iterator[_RawIssue]:
    if info.fault:
        yield _issue(info.fault[0], path, info.fault[1])
        return
    if info.format not in FORMATS_OF_SUFFIX.get(path.suffix.lower(), ()):
        yield _issue("wrong-format", path, f"the content is {info.format}")
    if info.orientation != 1:
        yield _issue("frame-rotated", path, "an EXIF tag asks viewers to rotate the frame")
    if info.mode != "RGB":
        yield _issue("frame-mode", path, f"the frame has mode {info.mode}")


def _check_mask(path: Path, info: FileInfo, frame: FileInfo | None) -> Iterator[_RawIssue]:
    """Yield the issues of a mask that do not depend on the other masks of the video."""
    if info.fault:
        yield _issue(info.fault[0], path, info.fault[1])
        return
    if info.format != "PNG":
        yield _issue("wrong-format", path, f"the content is {info.format}")
    if frame and not frame.fault and frame.size != info.size:
        mask_size, frame_size = (f"{width}x{height}" for height, width in (info.size, frame.size))
        is_unturned = frame.orientation >= 5 and info.size == frame.size[::-1]
        turned = " after its EXIF rotation, which --fix applies to the mask" if is_unturned else ""
        yield _issue("mask-size", path, f"the mask is {mask_size}, its frame {frame_size}{turned}")
    if info.mode in ("RGB", "RGBA"):
        yield _issue("mask-rgb", path, f"mode {info.mode}, {'flat' if info.colors else 'many'} colors")
    elif info.mode not in LABEL_MODES:
        yield _issue("mask-mode", path, f"mode {info.mode}")


def _antialiasing_detail(info: FileInfo) -> str:
    return f"{len(object_labels(info))} in-between values lie along edges"


# --- stills ---


def _check_still(still: StillFiles, infos: FileInfos) -> Iterator[_RawIssue]:
    frame, mask = infos[still.frame], infos[still.mask]
    labels = object_labels(mask)
    yield from _check_frame(still.frame, frame)
    yield from _check_mask(still.mask, mask, frame)
    if mask.fault or mask.mode not in LABEL_MODES:
        return
    is_thresholded = mask.mode != "P" and mask.void in mask.labels  # loaders read 128 and above as one object
    if mask.smooth:
        suffix = ", and 128 and above is read as the object" if is_thresholded else ""
        severity = "note" if is_thresholded else ""
        yield _issue("mask-antialiased", still.mask, _antialiasing_detail(mask) + suffix, severity)
    elif is_thresholded and labels:
        detail = f"a gray mask with 255 is read as one object, but it also holds the ids {_join(labels)}"
        yield _issue("mask-gray", still.mask, detail, "warning")
    elif mask.mode != "P" and mask.void == VOID and labels:
        yield _issue("mask-gray", still.mask, f"mode {mask.mode}")
    elif not mask.labels.keys() - {0}:
        yield _issue("no-objects", still.mask, "the mask is empty", "warning")
    if is_usable(mask) and not is_thresholded:
        yield from _check_id_gaps(still.mask, labels)


# --- videos ---


def _check_video(video: VideoFiles, infos: FileInfos) -> Iterator[_RawIssue]:
    for path in video.frames.values():
        yield from _check_frame(path, infos[path])
    yield from _check_frame_sizes(video, infos)
    yield from _check_frame_numbers(video)
    if not video.masks:
        yield _issue("no-masks", video.masks_folder, f"none of {len(video.frames)} frames has a mask")
        return
    for name, path in video.masks.items():
        frame = video.frames.get(name)
        if frame is None:
            yield _issue("mask-without-frame", path, "the frame does not exist")
        yield from _check_mask(path, infos[path], infos[frame] if frame else None)
    for name in video.required_masks or ():
        if name not in video.masks:
            yield _issue("mask-missing", video.masks_folder / f"{name}.png", "the frame has no mask")
    num_annotated = len(video.masks.keys() & video.frames.keys())
    if (video.for_training or video.for_davis_scores) and num_annotated < CLIP_LENGTH:
        detail = f"{num_annotated} of {len(video.frames)} frames have a mask"
        if video.for_davis_scores:
            detail += "; DAVIS does not score the first and the last one"
        yield _issue("few-masks", video.masks_folder, detail, "error" if video.for_davis_scores else "")
    yield from _check_labels(video, infos)


def _check_frame_sizes(video: VideoFiles, infos: FileInfos) -> Iterator[_RawIssue]:
    sizes = Counter(infos[path].size for path in video.frames.values() if not infos[path].fault)
    if len(sizes) > 1:
        counts = ", ".join(f"{count} of {width}x{height}" for (height, width), count in sizes.most_common(5))
        yield _issue("frame-sizes", video.frames_folder, f"the frames have several sizes, {counts}")


def _check_frame_numbers(video: VideoFiles) -> Iterator[_RawIssue]:
    """Yield the steps in the frame numbers that are larger than the most frequent one."""
    matches = [re.fullmatch(r"(.*?)(\d{1,15})", name) for name in video.frames]
    prefixes = {match[1] for match in matches if match}
    if None in matches or len(prefixes) > 1:
        return
    numbers = sorted(int(match[2]) for match in matches if match)
    steps = [after - before for before, after in zip(numbers, numbers[1:], strict=False)]
    usual = Counter(steps).most_common(1)[0][0] if steps else 1
    for before, step in zip(numbers, steps, strict=False):
        if step > usual:
            detail = f"{before} is followed by {before + step}, but the usual step is {usual}"
            yield _issue("frame-gap", video.frames_folder, detail)


def _check_labels(video: VideoFiles, infos: FileInfos) -> Iterator[_RawIssue]:
    """Yield the issues of the labels in all masks of a video taken together."""
    labeled = {
        name: (path, infos[path]) for name, path in video.masks.items() if infos[path].mode in LABEL_MODES
    }
    for path, info in labeled.values():
        if info.smooth:
            yield _issue("mask-antialiased", path, _antialiasing_detail(info))
    usable = {name: (path, info) for name, (path, info) in labeled.items() if is_usable(info)}
    nonempty = [info for _, info in usable.values() if info.labels.keys() - {0}]
    all_binary = bool(nonempty) and all(is_binary(info) for info in nonempty)
    # Loaders decide by the first mask that is not empty.
    is_one_object = video.binary_masks != "invalid" and bool(nonempty) and is_binary(nonempty[0])
    yield from _check_binary_masks(video, usable, all_binary, is_one_object)
    for path, info in usable.values():
        if info.mode != "P" and info.void == VOID and object_labels(info):
            yield _issue("mask-gray", path, f"mode {info.mode}")
    if len(usable) < len(video.masks) or (all_binary and not is_one_object):
        return  # an unreadable mask may hold the objects that seem to be missing
    if is_one_object:
        objects = {name: {1} if info.void in info.labels else set() for name, (_, info) in usable.items()}
    else:
        objects = {name: object_labels(info) for name, (_, info) in usable.items()}
        yield from _check_void(video, [info for _, info in usable.values()])
        yield from _check_wide_masks(usable)
    yield from _check_objects(video, objects)


def _check_binary_masks(
    video: VideoFiles, usable: Mapping[str, tuple[Path, FileInfo]], all_binary: bool, is_one_object: bool
) -> Iterator[_RawIssue]:
    """Yield the masks of 0 and 255. One among masks of ids may be a frame whose objects are hidden."""
    if all_binary and is_one_object:
        if video.binary_masks == "expected":
            return
        severity, suffix = "note", ", and is read as one object"
    elif all_binary:
        severity, suffix = "error", ""
    else:
        severity, suffix = "error" if is_one_object else "warning", ", but other masks of the video hold ids"
    for path, info in usable.values():
        if is_binary(info):
            yield _issue("mask-binary", path, f"it holds only 0 and 255{suffix}", severity)


def _check_void(video: VideoFiles, masks: list[FileInfo]) -> Iterator[_RawIssue]:
    num_pixels = sum(info.size[0] * info.size[1] for info in masks)
    num_void = sum(info.labels.get(info.void, 0) for info in masks if not is_binary(info))
    if num_void:
        voids = {WIDE_VOID if info.mode in WIDE_MODES else VOID for info in masks if info.void in info.labels}
        detail = f"{num_void / num_pixels:.2%} of the mask pixels are void ({_join(voids)})"
        yield _issue("void", video.masks_folder, detail)


def _check_wide_masks(masks: Mapping[str, tuple[Path, FileInfo]]) -> Iterator[_RawIssue]:
    """Yield the 16-bit masks whose 255 is probably void: no other id is above 253."""
    ids = set().union(*(object_labels(info) for _, info in masks.values()))
    if max(ids, default=0) == VOID and VOID - 1 not in ids:
        for path, info in masks.values():
            if VOID in object_labels(info):
                yield _issue("wide-void", path, "it is a 16-bit mask, in which 255 is an object")


def _check_objects(video: VideoFiles, objects: Mapping[str, set[int]]) -> Iterator[_RawIssue]:
    """Yield the objects that are missing, late or not in meta.json.

    Args:
        video: Video.
        objects: Frame name -> object ids of its mask.
    """
    all_labels = set().union(*objects.values())
    first, *later = objects
    if video.meta_objects is not None:
        yield from _check_meta(video, video.meta_objects, objects, all_labels)
    elif not all_labels:
        yield _issue("no-objects", video.masks_folder, f"none of its {len(objects)} masks shows an object")
    elif not objects[first]:
        severity = "note" if video.allows_late_objects else ""
        yield _issue("first-mask-empty", video.masks[first], "the first mask shows no object", severity)
    else:
        known = set(objects[first])
        for name in later:
            if new := objects[name] - known:
                severity = "note" if video.allows_late_objects else ""
                yield _issue(
                    "late-object", video.masks[name], f"object {_join(new)} first appears here", severity
                )
                known |= new
    yield from _check_id_gaps(video.masks_folder, all_labels)


def _check_meta(
    video: VideoFiles,
    meta_objects: Mapping[int, list[str]],
    objects: Mapping[str, set[int]],
    all_labels: set[int],
) -> Iterator[_RawIssue]:
    for label, frames in sorted(meta_objects.items()):
        first = min(frames)
        if label not in all_labels:
            detail = f"meta.json lists object {label}, but none of {len(objects)} masks shows it"
            yield _issue("meta-no-mask", video.masks_folder, detail)
        elif first in objects and label not in objects[first]:
            detail = f"object {label} first appears here by meta.json, but the mask does not show it"
            yield _issue("meta-no-mask", video.masks[first], detail, "warning")
    if unknown := all_labels - meta_objects.keys():
        detail = f"object {_join(unknown)} is in the masks, but not in meta.json"
        yield _issue("id-not-in-meta", video.masks_folder, detail)


def _check_id_gaps(path: Path, labels: set[int]) -> Iterator[_RawIssue]:
    if missing := set(range(1, max(labels, default=0))) - labels:
        yield _issue("id-gap", path, f"the ids are {_join(labels)}, without {_join(missing)}")


def _join(numbers: set[int]) -> str:
    first_ten = sorted(numbers)[:10]
    return ", ".join(map(str, first_ten)) + (", ..." if len(numbers) > 10 else "")
