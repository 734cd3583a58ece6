"""Videos of MOSE v1 and v2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stm.data.dataset_lists import parse_object_id, read_videos_json
from stm.data.image_io import list_folders
from stm.data.videos import FileVideo, is_held_out


def mose(
    root: str | Path, split: str = "train", truth: str | Path | None = None, holdout_share: float = 0.0
) -> list[FileVideo]:
    """List the videos of a MOSE split, in the order of its meta file, else by name.

    The objects that enter are those of the first mask. Those to score are listed in the meta file.

    Args:
        root: the folder that holds `meta_<split>.json` and `<split>/`. A folder with `meta.json` and
            `Annotations`, as the server has it, suffices to score masks.
        split: `train`, `valid`, or `holdout` for the part of `train` that `holdout_share` withholds.
        truth: a folder with `meta.json` and `Annotations`, the masks of all frames of a split that comes
            with the first ones only. By default `truth` in the root or beside it, if of the same videos.
        holdout_share: fraction of `train` to withhold, chosen by a hash of the videos' names.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: a meta file does not have the official form, or the length of a video differs from it.
    """
    root = Path(root)
    folder = root / ("train" if split == "holdout" else split)
    if (root / "meta.json").is_file() and not folder.is_dir():
        return _videos(_read_meta(root / "meta.json"), None, root / "Annotations")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; root must hold it and meta_{split}.json")
    paths = [root / f"meta_{folder.name}.json", folder / f"meta_{folder.name}.json", folder / "meta.json"]
    meta = next((_read_meta(path) for path in paths if path.is_file()), None)
    if meta is None:
        meta = {path.name: None for path in list_folders(folder / "JPEGImages")}
    masks = folder
    if truth is not None:
        masks = Path(truth)
        meta = _read_meta(masks / "meta.json")
    elif folder.name != "train":
        for candidate in (root / "truth", root.parent / "truth"):
            if (candidate / "meta.json").is_file():
                known = _read_meta(candidate / "meta.json")
                if known.keys() == meta.keys():
                    masks, meta = candidate, known
    if folder.name == "train":
        is_holdout = split == "holdout"
        meta = {name: entry for name, entry in meta.items() if is_held_out(name, holdout_share) == is_holdout}
    frames = folder / "JPEGImages"
    return _videos(meta, frames if frames.is_dir() else None, masks / "Annotations")


def _videos(
    meta: dict[str, tuple[list[int], int] | None], frames: Path | None, masks: Path
) -> list[FileVideo]:
    videos = []
    for name, listed in meta.items():
        objects, length = listed or (None, None)
        folder = None if frames is None else frames / name
        video = FileVideo(name, folder, masks / name, scored_objects=objects)
        if length not in (None, len(video)):
            raise ValueError(
                f"{name}: must have the {length} frames that its meta file lists; got {len(video)} in "
                f"{folder or masks / name}"
            )
        videos.append(video)
    return videos


def _read_meta(path: Path) -> dict[str, tuple[list[int], int] | None]:
    """Return name -> ids of the objects and number of frames."""

    def parse(video: Any) -> tuple[list[int], int]:
        objects = [parse_object_id(label) for label in video["objects"]]  # a list, or a dict by id
        return objects, int(video["length"])

    return read_videos_json(path, "{objects,length}", parse)
