"""Which data set is it, and what does its layout ask of each video?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from stm.data.image_io import FRAME_SUFFIXES
from stm.data.videos import read_meta, video_names
from stm.dataset_check.dataset_files import MASK_SUFFIXES, DatasetFiles, StillFiles, VideoFiles, folders

LAYOUTS = ("davis", "youtube_vos", "folder", "stills")
FORMS = {
    "davis": "JPEGImages/<480p>/<video>/00000.jpg with Annotations/ and ImageSets/",
    "youtube_vos": "<train>/meta.json beside JPEGImages/<video>/ and Annotations/<video>/",
    "folder": "JPEGImages/<video>/*.jpg with Annotations/<video>/*.png",
    "stills": "X.jpg and X.png, in one folder or in two such as images/ and masks/",
}
_MASKS = re.compile(r"mask|annotation|label|ground|gt|segment", re.IGNORECASE)
_JPEG = (".jpg", ".jpeg", ".JPG", ".JPEG")


def open_dataset(root: Path, layout: str = "auto") -> DatasetFiles:
    """List a data set.

    Args:
        root: the folder that the loader of the layout takes.
        layout: of `LAYOUTS`, or `auto`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: nothing in it lies as the layout asks.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder")
    found = layout if layout != "auto" else _layout_of(root)
    tree = DatasetFiles(root, found or "")
    if found:
        {"davis": _davis, "youtube_vos": _youtube_vos, "folder": _folder, "stills": _stills}[found](tree)
    if not (tree.videos or tree.stills or tree.findings):
        expected = "; ".join(f"{name}: {FORMS[name]}" for name in LAYOUTS if layout in ("auto", name))
        below = [(path, _layout_of(path)) for path in folders(root)]
        hint = "".join(f"; {path} looks like {name}" for path, name in below if name)
        raise ValueError(f"{root}: no data set lies here. Expected {expected}{hint}")
    return tree


def _layout_of(root: Path) -> str | None:
    if _splits(root):
        return "youtube_vos"
    videos = folders(root / "JPEGImages")
    if videos:
        probe = DatasetFiles(root, "")  # its findings are thrown away
        plain = any(probe.pictures(path, FRAME_SUFFIXES) for path in videos)
        nested = any(folders(path) for path in videos)
        return "davis" if nested and ((root / "ImageSets").is_dir() or not plain) else "folder"
    return "stills" if _still_folders(root) else None


# --- DAVIS ---


def _davis(tree: DatasetFiles) -> None:
    resolutions = folders(tree.root / "JPEGImages")
    for resolution in resolutions:
        masks = tree.root / "Annotations" / resolution.name
        names = folders(resolution)
        found = [tree.video(path, masks / path.name) for path in names]
        tree.videos += [video for video in found if video]
        tree.masks_without_frames(masks, {path.name for path in names})
    there = {resolution.name: {p.name for p in folders(resolution)} for resolution in resolutions}
    lists = _davis_lists(tree, there) if any(there.values()) else {}
    for video in tree.videos:
        mine = [path for path, names in lists.items() if video.name in names]
        if lists and not mine:
            tree.find("unlisted", video.frames_folder, f"none of {len(lists)} lists names it")
        of_2016 = [path.parent.name in ("2016", *there) for path in mine]  # its lists may lie in 480p
        video.one_object = "as meant" if mine and all(of_2016) else "never"
        video.clips = not mine or not all(path.stem.startswith("test") for path in mine)
        video.wanted = list(video.frames) if video.clips else list(video.frames)[:1]


def _davis_lists(tree: DatasetFiles, there: Mapping[str, set[str]]) -> dict[Path, set[str]]:
    """The lists, each with its names. A list belongs to the resolution that has most of its videos.

    Args:
        there: resolution -> the videos that it has.
    """
    lists = {}
    tree.lists = sorted(tree.root.glob("ImageSets/*/*.txt"))
    for path in tree.lists:
        try:
            names = set(video_names(path))
        except (OSError, ValueError) as error:
            tree.find("list-broken", path, _reason(error, path))
            continue
        lists[path] = names
        best = max(sorted(there, reverse=True), key=lambda resolution: len(there[resolution] & names))
        for name in sorted(names - there[best]):
            tree.find("listed-absent", path, f"it names {name!r}, and JPEGImages/{best} has no such video")
    if not tree.lists:
        tree.find("no-lists", tree.root, "there is no list in ImageSets")
    return lists


def _reason(error: Exception, path: Path) -> str:
    """What is wrong, without the path that the finding has anyway."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).removeprefix(f"{path}: ")


# --- YouTube-VOS ---


def _splits(root: Path) -> list[Path]:
    return [path for path in [root, *folders(root)] if (path / "meta.json").is_file()]


def _youtube_vos(tree: DatasetFiles) -> None:
    for split in _splits(tree.root):
        tree.lists.append(split / "meta.json")
        try:
            described = read_meta(split / "meta.json")
        except (OSError, ValueError, RecursionError) as error:
            tree.find("meta-broken", split / "meta.json", _reason(error, split / "meta.json"))
            described = None
        is_train = split.resolve().name == "train"
        every_frame = tree.root / f"{split.name}_all_frames" / "JPEGImages"
        frames = every_frame if not is_train and every_frame.is_dir() else split / "JPEGImages"
        names = folders(frames)
        for path in names:
            video = tree.video(path, split / "Annotations" / path.name)
            if video is None:
                continue
            video.late, video.clips = True, is_train
            tree.videos.append(video)
            if described is not None and path.name in described:
                _describe(tree, split / "meta.json", video, described[path.name]["objects"])
            elif described is not None:
                tree.find("unlisted", path, "meta.json does not name it")
        here = {path.name for path in names}
        tree.masks_without_frames(split / "Annotations", here)
        for name in sorted(set(described or ()) - here):
            tree.find("meta-absent", split / "meta.json", f"video {name!r} is not in {tree.relative(frames)}")


def _describe(tree: DatasetFiles, meta: Path, video: VideoFiles, objects: dict) -> None:
    """Lay a video's part of meta.json beside its files."""
    video.objects = {int(label): [str(frame) for frame in o["frames"]] for label, o in objects.items()}
    listed = {frame for frames in video.objects.values() for frame in frames}
    for frame in sorted(listed - video.frames.keys()):
        tree.find("meta-absent", meta, f"frame {frame!r} of video {video.name!r} is not there")
    entries = {min(frames) for frames in video.objects.values()}
    video.wanted = sorted((listed if video.clips else entries) & video.frames.keys())


# --- plain folders and stills ---


def _folder(tree: DatasetFiles) -> None:
    names = folders(tree.root / "JPEGImages")
    for path in names:
        video = tree.video(path, tree.root / "Annotations" / path.name)
        if video:
            video.one_object, video.late = "may", True
            tree.videos.append(video)
    tree.masks_without_frames(tree.root / "Annotations", {path.name for path in names})


def _stills(tree: DatasetFiles) -> None:
    for images, masks in _still_folders(tree.root):
        suffixes = _JPEG if images == masks else FRAME_SUFFIXES
        frames = tree.pictures(images, suffixes)
        listed = tree.pictures(masks, MASK_SUFFIXES)
        for name, frame in frames.items():
            if name in listed:
                tree.stills.append(StillFiles(frame, listed[name]))
            else:
                tree.find("mask-missing", masks / f"{name}.png", "the frame has no mask")
        for name in listed.keys() - frames.keys():
            tree.find("mask-alone", listed[name], "no frame has this name", "warning")
    tree.findings.sort(key=lambda finding: finding.path)


def _still_folders(root: Path) -> list[tuple[Path, Path]]:
    """The folder of frames and the folder of masks; nothing where they cannot be told.

    Masks lie beside JPEG frames, or in the one subfolder whose name tells so.
    """
    probe = DatasetFiles(root, "")  # its findings are thrown away
    beside = probe.pictures(root, MASK_SUFFIXES).keys() & probe.pictures(root, _JPEG).keys()
    if beside:
        return [(root, root)]
    names = {path: probe.pictures(path, FRAME_SUFFIXES).keys() for path in folders(root)}
    masks = [path for path in names if _MASKS.search(path.name) and probe.pictures(path, MASK_SUFFIXES)]
    pairs = [(len(names[a] & names[b]), a, b) for b in masks for a in names if a not in masks]
    pairs = [pair for pair in pairs if pair[0]]
    return [max(pairs)[1:]] if len(pairs) == 1 or len({pair[2] for pair in pairs}) == 1 else []
