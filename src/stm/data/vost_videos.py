"""Videos of VOST."""

from __future__ import annotations

from pathlib import Path

from stm.data.dataset_lists import video_names
from stm.data.videos import FileVideo

FOLDERS = {5: "JPEGImages", 10: "JPEGImages_10fps"}


def vost(root: str | Path, split: str = "train", fps: int = 5) -> list[FileVideo]:
    """List the videos of a VOST split, in the order of its list; masks are known at 5 frames per second.

    Args:
        root: the folder that holds ImageSets, JPEGImages and Annotations.
        split: `train`, `val` or `test`, a list in ImageSets.
        fps: 5, or 10 for frames twice as dense; only the annotated ones are written.

    Raises:
        FileNotFoundError: the list or a video is missing.
        ValueError: another number of frames per second, or a mask is missing.
    """
    if fps not in FOLDERS:
        raise ValueError(f"fps={fps}: must be 5 or 10")
    root = Path(root)
    path, frames = root / "ImageSets" / f"{split}.txt", root / FOLDERS[fps]
    if not path.is_file():
        available = sorted(p.stem for p in root.glob("ImageSets/*.txt"))
        raise FileNotFoundError(
            f"{path}: there is no such list; available are {', '.join(available) or 'none'}"
        )
    videos = []
    for name in video_names(path):
        video = FileVideo(name, frames / name if frames.is_dir() else None, root / "Annotations" / name)
        if video.annotated:
            video.output_frames = video.annotated
        missing = sorted(set(range(len(video))) - set(video.annotated))
        if fps == 5 and missing and len(video.annotated) > 1:
            raise ValueError(
                f"{video.mask_path(missing[0])}: there is no such mask; all or one of {len(video)} frames "
                f"must have one; got {len(video.annotated)}"
            )
        videos.append(video)
    return videos
