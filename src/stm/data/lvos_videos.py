"""Videos of LVOS v1 and v2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stm.data.dataset_lists import parse_object_id, read_text, read_videos_json
from stm.data.videos import FileVideo, is_held_out

UNSEEN = "unseen_videos.txt"


def lvos(
    root: str | Path,
    split: str = "train",
    unseen_videos: str | Path | None = None,
    holdout_share: float = 0.0,
) -> list[FileVideo]:
    """List the videos of an LVOS split, in the order of its meta file.

    An object enters at the first frame of its range. Its category is `seen` or `unseen`, like its video.

    Args:
        root: the folder that holds the splits, or the folder of the split.
        split: `train`, `val`, `test`, or `holdout` for the part of `train` that `holdout_share` withholds.
        unseen_videos: the list of unseen videos of the evaluator's repository, a name per line. By default
            `unseen_videos.txt` in the split's folder, the root, the working folder, beside the root, or in a
            folder beside it; all videos are seen if there is none.
        holdout_share: fraction of `train` to withhold, chosen by a hash of the videos' names.

    Raises:
        FileNotFoundError: a folder, file or frame is missing.
        ValueError: the meta file does not have the official form.
    """
    root, is_holdout = Path(root), split == "holdout"
    name = "train" if is_holdout else {"valid": "val"}.get(split, split)
    stem = "valid" if name == "val" else name
    folders = [root / name, root / stem, root]
    candidates = [f / f"{stem}_meta{end}.json" for f in folders for end in ("", "_attribute")]
    meta = next((path for path in candidates if path.is_file()), candidates[0])
    unseen = _unseen(root, meta.parent, unseen_videos)
    frames, masks = meta.parent / "JPEGImages", meta.parent / "Annotations"
    return [
        FileVideo(
            video,
            frames / video if frames.is_dir() else None,
            masks / video,
            first_frames={label: f"{start:08d}" for label, (start, _, _) in ranges.items()},
            categories=dict.fromkeys(ranges, "unseen" if video in unseen else "seen"),
            frame_ranges=ranges,
        )
        for video, ranges in read_videos_json(meta, "{objects.<id>.frame_range}", frame_ranges).items()
        if name != "train" or is_held_out(video, holdout_share) == is_holdout
    ]


def frame_ranges(video: Any) -> dict[int, tuple[int, int, int]]:
    """Return object id -> (start, end, frame_nums) of a video's entry in a meta file.

    Raises:
        KeyError: the entry does not have the official form.
        ValueError: an object has no frame.
    """
    ranges = {}
    for label, entry in video["objects"].items():
        start, end, count = (int(entry["frame_range"][key]) for key in ("start", "end", "frame_nums"))
        if count < 1:
            raise ValueError(f"frame_nums={count} of object {label}: must be at least 1")
        ranges[parse_object_id(label)] = start, end, count
    return ranges


def _unseen(root: Path, folder: Path, path: str | Path | None) -> set[str]:
    if path is None:
        beside = [root.parent, *sorted(p for p in root.resolve().parent.iterdir() if p.is_dir())]
        lists = [place / UNSEEN for place in (folder, root, Path(), *beside) if (place / UNSEEN).is_file()]
        if not lists:
            return set()
        path = lists[0]
    return set(read_text(Path(path)).split())
