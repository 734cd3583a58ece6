"""Listing of the videos of MOSE, LVOS, VOST and SA-V, and the requirements of these layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stm.data.dataset_lists import parse_object_id, read_videos_json, video_names
from stm.data.image_io import FRAME_SUFFIXES
from stm.data.lvos_videos import frame_ranges
from stm.dataset_check.dataset_files import DatasetFiles, VideoFiles, error_reason, folders


def detect_benchmark(root: Path) -> str | None:
    """Return `sav`, `mose` or `lvos`; None if the folder is none of these."""
    if (root / "Annotations_6fps").is_dir():
        return "sav"
    if any(_mose_splits(root)):
        return "mose"
    if any(_lvos_metas(root)):
        return "lvos"
    return None


def _read_meta(
    dataset: DatasetFiles, path: Path, form: str, parse: Callable[[Any], Any]
) -> dict[str, Any] | None:
    dataset.list_files.append(path)
    try:
        return read_videos_json(path, form, parse)
    except (OSError, ValueError, RecursionError) as error:
        dataset.add_issue("meta-broken", path, error_reason(error, path))
        return None


def _list_split(
    dataset: DatasetFiles, meta_file: Path, meta: dict[str, Any] | None, split: Path, is_train: bool
) -> list[VideoFiles]:
    """Return the videos of a folder that the meta file names, and record the differences of both."""
    names, videos = [path.name for path in folders(split / "JPEGImages")], []
    for name in names:
        video = dataset.list_video(split / "JPEGImages" / name, split / "Annotations" / name)
        if video is None:
            continue
        video.for_training, video.allows_late_objects = is_train, True
        dataset.videos.append(video)
        if meta is None or name in meta:
            videos.append(video)
        else:
            dataset.add_issue("unlisted", video.frames_folder, f"{meta_file.name} does not name it")
    dataset.add_orphan_mask_folders(split / "Annotations", names)
    for name in sorted(set(meta or ()) - set(names)):
        detail = f"video {name!r} is not in {dataset.relative(split / 'JPEGImages')}"
        dataset.add_issue("meta-missing", meta_file, detail)
    return videos


# --- MOSE ---


def _mose_splits(root: Path) -> list[tuple[Path, Path]]:
    """Return the meta file and the folder of each split."""
    pairs = [(path, root / path.stem.removeprefix("meta_")) for path in sorted(root.glob("meta_*.json"))]
    return [(meta, split) for meta, split in pairs if split.is_dir()]


def list_mose(dataset: DatasetFiles) -> None:
    """List the splits of MOSE; those other than `train` have the first masks only."""

    def parse(video: Any) -> tuple[list[int], int]:
        return [parse_object_id(label) for label in video["objects"]], int(video["length"])

    for meta_file, split in _mose_splits(dataset.root):
        meta, is_train = _read_meta(dataset, meta_file, "{objects,length}", parse), split.name == "train"
        for video in _list_split(dataset, meta_file, meta, split, is_train):
            video.required_masks = list(video.frames)[: None if is_train else 1]
            if meta is None:
                continue
            objects, length = meta[video.name]
            if is_train:
                video.meta_objects = {label: [""] for label in objects}  # it does not list where they enter
            if length != len(video.frames):
                detail = f"video {video.name!r} has {length} frames, but the folder {len(video.frames)}"
                dataset.add_issue("meta-missing", meta_file, detail)


# --- LVOS ---


def _lvos_metas(root: Path) -> list[Path]:
    """Return the meta file of each split."""
    names = [f"{stem}_meta{end}.json" for stem in ("train", "valid", "test") for end in ("", "_attribute")]
    metas = []
    for folder in [root, *folders(root)]:
        metas += [folder / name for name in names if (folder / name).is_file()][:1]
    return metas


def list_lvos(dataset: DatasetFiles) -> None:
    """List the splits of LVOS; `test` has masks only where objects enter."""

    def parse(video: Any) -> dict[int, range]:
        return {
            label: range(start, start + 5 * count, 5)
            for label, (start, _, count) in frame_ranges(video).items()
        }

    for meta_file in _lvos_metas(dataset.root):
        split, kind = meta_file.parent, meta_file.name.partition("_")[0]
        meta = _read_meta(dataset, meta_file, "{objects.<id>.frame_range}", parse)
        for video in _list_split(dataset, meta_file, meta, split, kind == "train"):
            if meta is None:
                continue
            video.meta_objects = {
                label: [f"{file:08d}" for file in files] for label, files in meta[video.name].items()
            }
            listed = {frame for frames in video.meta_objects.values() for frame in frames}
            for frame in sorted(listed - video.frames.keys()):
                detail = f"frame {frame!r} of video {video.name!r} is missing"
                dataset.add_issue("meta-missing", meta_file, detail)
            entries = {min(frames) for frames in video.meta_objects.values()}
            required = entries if kind == "test" else set(video.frames)
            video.required_masks = sorted(required & video.frames.keys())


# --- VOST ---


def list_vost(dataset: DatasetFiles) -> None:
    """List the videos of VOST, whose frames at 5 per second all have masks, except in `test`."""
    root = dataset.root
    names = {path.name for path in folders(root / "JPEGImages")}
    listed_in: dict[str, str] = {}
    dataset.list_files = sorted(root.glob("ImageSets/*.txt"))
    for path in dataset.list_files:
        try:
            listed = video_names(path)
        except (OSError, ValueError) as error:
            dataset.add_issue("list-broken", path, error_reason(error, path))
            continue
        for name in listed:
            listed_in[name] = path.stem
            if name not in names:
                severity = "note" if path.stem == "test" else ""
                dataset.add_issue("listed-missing", path, f"it names {name!r}, which is missing", severity)
    for name in sorted(names):
        video = dataset.list_video(root / "JPEGImages" / name, root / "Annotations" / name)
        split = listed_in.get(name)
        if split is None:
            detail = f"none of {len(dataset.list_files)} lists names it"
            dataset.add_issue("unlisted", root / "JPEGImages" / name, detail)
        if video:
            video.required_masks = list(video.frames)[: 1 if split == "test" else None]
            video.for_training, video.allows_late_objects = split == "train", True
            dataset.videos.append(video)
    dataset.add_orphan_mask_folders(root / "Annotations", names)


# --- SA-V ---


def list_sav(dataset: DatasetFiles) -> None:
    """List each object of SA-V val or test as a video, with a folder of masks of its own."""
    root = dataset.root
    frames, masks = root / "JPEGImages_24fps", root / "Annotations_6fps"
    names = [path.name for path in folders(frames)]
    dataset.list_files = sorted(root.glob("sav_*.txt"))
    for path in dataset.list_files:
        try:
            listed = set(video_names(path))
        except (OSError, ValueError) as error:
            dataset.add_issue("list-broken", path, error_reason(error, path))
            continue
        for name in sorted(listed - set(names)):
            dataset.add_issue("listed-missing", path, f"it names {name!r}, which is missing")
    for name in names:
        every_frame = dataset.files_by_name(frames / name, FRAME_SUFFIXES)
        objects = folders(masks / name)
        if not objects:
            dataset.add_issue("no-masks", masks / name, "the video has no folder of an object")
        for number, folder in enumerate(objects):
            video = dataset.list_video(frames / name, folder)
            if video is None:
                break
            video.name = f"{name}/{folder.name}"
            if number:  # the first object's entry has all frames, which are checked once
                video.frames = {frame: path for frame, path in every_frame.items() if frame in video.masks}
            video.binary_masks, video.allows_late_objects, video.for_training = "expected", True, False
            dataset.videos.append(video)
    dataset.add_orphan_mask_folders(masks, names)
