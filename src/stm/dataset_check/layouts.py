"""Detection of a data set's layout, and the requirements of each layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from stm.data.dataset_lists import read_meta, video_names
from stm.data.image_io import FRAME_SUFFIXES, MASK_SUFFIXES
from stm.dataset_check.benchmark_layouts import detect_benchmark, list_lvos, list_mose, list_sav, list_vost
from stm.dataset_check.dataset_files import DatasetFiles, StillFiles, VideoFiles, error_reason, folders

LAYOUTS = {
    "davis": "JPEGImages/<480p>/<video>/00000.jpg with Annotations/ and ImageSets/",
    "youtube_vos": "<train>/meta.json next to JPEGImages/<video>/ and Annotations/<video>/",
    "mose": "meta_<split>.json next to <split>/JPEGImages/<video>/ and <split>/Annotations/<video>/",
    "lvos": "<split>/<split>_meta.json next to JPEGImages/<video>/ and Annotations/<video>/",
    "vost": "JPEGImages/<video>/frame00000.jpg with Annotations/ and ImageSets/<split>.txt",
    "sav": "JPEGImages_24fps/<video>/00000.jpg with Annotations_6fps/<video>/000/00000.png",
    "folder": "JPEGImages/<video>/*.jpg with Annotations/<video>/*.png",
    "stills": "X.jpg and X.png, in one folder or in two such as images/ and masks/",
}
"""Layout -> the files it consists of."""
_MASKS = re.compile(r"mask|annotation|label|ground|gt|segment", re.IGNORECASE)
_NOT_MASKS = tuple(set(FRAME_SUFFIXES) - set(MASK_SUFFIXES))


def open_dataset(root: Path, layout: str = "auto") -> DatasetFiles:
    """List the files of a data set.

    Args:
        root: Folder that the loader of the layout takes.
        layout: A key of `LAYOUTS`, or `auto` to detect it.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder holds nothing in the layout.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder")
    name = layout if layout != "auto" else _detect_layout(root)
    dataset = DatasetFiles(root, name or "")
    if name:
        list_layout = {
            "davis": _davis,
            "youtube_vos": _youtube_vos,
            "mose": list_mose,
            "lvos": list_lvos,
            "vost": list_vost,
            "sav": list_sav,
            "folder": _folder,
            "stills": _stills,
        }
        list_layout[name](dataset)
    if not (dataset.units or dataset.issues):
        expected = "; ".join(f"{name}: {LAYOUTS[name]}" for name in LAYOUTS if layout in ("auto", name))
        subfolders = [(path, _detect_layout(path)) for path in folders(root)]
        hint = "".join(f"; {path} looks like {name}" for path, name in subfolders if name)
        raise ValueError(f"{root}: must hold a data set; expected {expected}{hint}")
    return dataset


def _detect_layout(root: Path) -> str | None:
    if _youtube_splits(root):
        return "youtube_vos"
    if benchmark := detect_benchmark(root):
        return benchmark
    videos = folders(root / "JPEGImages")
    if videos:
        probe = DatasetFiles(root, "")  # its issues are discarded
        is_flat = any(probe.files_by_name(path, FRAME_SUFFIXES) for path in videos)
        is_nested = any(folders(path) for path in videos)
        if is_nested and ((root / "ImageSets").is_dir() or not is_flat):
            return "davis"
        return "vost" if any(path.is_file() for path in root.glob("ImageSets/*.txt")) else "folder"
    return "stills" if _still_folders(root) else None


# --- DAVIS ---


def _davis(dataset: DatasetFiles) -> None:
    resolutions = folders(dataset.root / "JPEGImages")
    for resolution in resolutions:
        masks = dataset.root / "Annotations" / resolution.name
        video_folders = folders(resolution)
        videos = [dataset.list_video(path, masks / path.name) for path in video_folders]
        dataset.videos += [video for video in videos if video]
        dataset.add_orphan_mask_folders(masks, {path.name for path in video_folders})
    videos_of = {resolution.name: {p.name for p in folders(resolution)} for resolution in resolutions}
    lists = _davis_lists(dataset, videos_of) if any(videos_of.values()) else {}
    for video in dataset.videos:
        listed_in = [path for path, names in lists.items() if video.name in names]
        if lists and not listed_in:
            dataset.add_issue("unlisted", video.frames_folder, f"none of {len(lists)} lists names it")
        # A list of DAVIS 2016, whose masks are binary, may lie in ImageSets/480p.
        is_2016 = [path.parent.name in ("2016", *videos_of) for path in listed_in]
        video.binary_masks = "expected" if listed_in and all(is_2016) else "invalid"
        video.for_training = not listed_in or not all(path.stem.startswith("test") for path in listed_in)
        video.for_davis_scores = any(not path.stem.startswith(("train", "test")) for path in listed_in)
        video.required_masks = list(video.frames) if video.for_training else list(video.frames)[:1]


def _davis_lists(dataset: DatasetFiles, videos_of: Mapping[str, set[str]]) -> dict[Path, set[str]]:
    """Return the names in each list. A list belongs to the resolution that has most of its videos.

    Args:
        dataset: Data set, which receives the list files and their issues.
        videos_of: Resolution -> its videos.
    """
    lists = {}
    dataset.list_files = sorted(dataset.root.glob("ImageSets/*/*.txt"))
    for path in dataset.list_files:
        try:
            names = set(video_names(path))
        except (OSError, ValueError) as error:
            dataset.add_issue("list-broken", path, error_reason(error, path))
            continue
        lists[path] = names
        best = max(sorted(videos_of, reverse=True), key=lambda resolution: len(videos_of[resolution] & names))
        for name in sorted(names - videos_of[best]):
            detail = f"it names {name!r}, which JPEGImages/{best} does not hold"
            dataset.add_issue("listed-missing", path, detail)
    if not dataset.list_files:
        dataset.add_issue("no-lists", dataset.root, "ImageSets holds no list")
    return lists


# --- YouTube-VOS ---


def _youtube_splits(root: Path) -> list[Path]:
    return [path for path in [root, *folders(root)] if (path / "meta.json").is_file()]


def _youtube_vos(dataset: DatasetFiles) -> None:
    for split in _youtube_splits(dataset.root):
        meta_file = split / "meta.json"
        dataset.list_files.append(meta_file)
        try:
            meta = read_meta(meta_file)
        except (OSError, ValueError, RecursionError) as error:
            dataset.add_issue("meta-broken", meta_file, error_reason(error, meta_file))
            meta = None
        is_train = split.resolve().name == "train"
        all_frames = dataset.root / f"{split.name}_all_frames" / "JPEGImages"
        frames = all_frames if not is_train and all_frames.is_dir() else split / "JPEGImages"
        video_folders = folders(frames)
        for path in video_folders:
            video = dataset.list_video(path, split / "Annotations" / path.name)
            if video is None:
                continue
            video.allows_late_objects, video.for_training = True, is_train
            dataset.videos.append(video)
            if meta is not None and path.name in meta:
                _apply_meta(dataset, meta_file, video, meta[path.name]["objects"])
            elif meta is not None:
                dataset.add_issue("unlisted", path, "meta.json does not name it")
        names = {path.name for path in video_folders}
        dataset.add_orphan_mask_folders(split / "Annotations", names)
        for name in sorted(set(meta or ()) - names):
            detail = f"video {name!r} is not in {dataset.relative(frames)}"
            dataset.add_issue("meta-missing", meta_file, detail)


def _apply_meta(dataset: DatasetFiles, meta_file: Path, video: VideoFiles, objects: dict) -> None:
    """Set the objects and required masks of a video from its entry in meta.json."""
    video.meta_objects = {int(label): [str(frame) for frame in o["frames"]] for label, o in objects.items()}
    listed = {frame for frames in video.meta_objects.values() for frame in frames}
    for frame in sorted(listed - video.frames.keys()):
        detail = f"frame {frame!r} of video {video.name!r} is missing"
        dataset.add_issue("meta-missing", meta_file, detail)
    first_frames = {min(frames) for frames in video.meta_objects.values()}
    video.required_masks = sorted((listed if video.for_training else first_frames) & video.frames.keys())


# --- plain folders and stills ---


def _folder(dataset: DatasetFiles) -> None:
    video_folders = folders(dataset.root / "JPEGImages")
    for path in video_folders:
        video = dataset.list_video(path, dataset.root / "Annotations" / path.name)
        if video:
            video.binary_masks, video.allows_late_objects = "allowed", True
            dataset.videos.append(video)
    dataset.add_orphan_mask_folders(dataset.root / "Annotations", {path.name for path in video_folders})


def _stills(dataset: DatasetFiles) -> None:
    for images_folder, masks_folder in _still_folders(dataset.root):
        frames = dataset.files_by_name(
            images_folder, _NOT_MASKS if images_folder == masks_folder else FRAME_SUFFIXES
        )
        masks = dataset.files_by_name(masks_folder, MASK_SUFFIXES)
        for name, frame in frames.items():
            if name in masks:
                dataset.stills.append(StillFiles(frame, masks[name]))
            else:
                dataset.add_issue("mask-missing", masks_folder / f"{name}.png", "the frame has no mask")
        for name in masks.keys() - frames.keys():
            dataset.add_issue("mask-without-frame", masks[name], "no frame has this name", "warning")
    dataset.issues.sort(key=lambda issue: issue.path)


def _still_folders(root: Path) -> list[tuple[Path, Path]]:
    """Return the folders of frames and of masks, or an empty list if they are ambiguous.

    Masks lie next to frames with another suffix, or in the only subfolder with a name such as `masks`.
    """
    probe = DatasetFiles(root, "")  # its issues are discarded
    if probe.files_by_name(root, MASK_SUFFIXES).keys() & probe.files_by_name(root, _NOT_MASKS).keys():
        return [(root, root)]
    names = {path: probe.files_by_name(path, FRAME_SUFFIXES).keys() for path in folders(root)}
    masks = [path for path in names if _MASKS.search(path.name) and probe.files_by_name(path, MASK_SUFFIXES)]
    pairs = [(len(names[a] & names[b]), a, b) for b in masks for a in names if a not in masks]
    pairs = [pair for pair in pairs if pair[0]]
    return [max(pairs)[1:]] if len({pair[2] for pair in pairs}) == 1 else []
