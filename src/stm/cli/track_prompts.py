"""Masks given to `stm track`: single files and folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stm.data.file_inspection import read_mask_prompt
from stm.data.image_io import MASK_SUFFIXES, list_images
from stm.data.video_files import Frames
from stm.masks import object_ids, read_mask


def read_prompts(arguments: Sequence[str], frames: Frames) -> dict[int, np.ndarray]:
    """Return frame -> mask of object ids (H, W), by frame.

    Args:
        arguments: such as `M.png`, `37:M.png`, or a folder of masks with the names of their frames.
        frames: the video.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a mask belongs to no frame, two belong to one, or a file is not a mask of the video.
    """
    files = _find_files(arguments, frames)
    prompts = {t: read_mask_prompt(path, frames.size, frames.path) for t, path in sorted(files.items())}
    has_ids = {t: bool(object_ids(read_mask(files[t]))) for t in prompts}
    if len(set(has_ids.values())) > 1:  # 255 would be the object in some masks and void in others
        t = min(t for t in has_ids if not has_ids[t])
        raise ValueError(
            f"--mask {files[t]}: holds only 0 and 255, but other masks hold object ids; "
            "write the id of the object in place of 255"
        )
    return prompts


def _find_files(arguments: Sequence[str], frames: Frames) -> dict[int, Path]:
    """Return frame -> mask file."""
    files: dict[int, Path] = {}
    for argument in arguments:
        match = re.fullmatch(r"(-?\d+):(.+)", argument)
        path = Path(match[2] if match else argument)
        if path.is_dir():
            if match:
                raise ValueError(f"--mask {argument}: must be a file; a folder's names are those of frames")
            found: Mapping[int, Path] = _files_of_folder(path, frames)
        else:
            found = {int(match[1]) if match else 0: path}
        for t, file in found.items():
            if not 0 <= t < len(frames):
                raise ValueError(f"--mask {argument}: the frame must be in 0..{len(frames) - 1}; got {t}")
            if t in files:
                raise ValueError(f"--mask {argument}: frame {t} has the mask {files[t]} already")
            files[t] = file
    return files


def _files_of_folder(folder: Path, frames: Frames) -> dict[int, Path]:
    """Return frame -> mask file; masks are named like frames or, for a video file, by the frame's number."""
    names, suffix = list_images(folder, MASK_SUFFIXES)
    index = {name: t for t, name in enumerate(frames.names)}
    if frames.path.is_file():
        index |= {name: int(name) for name in names if re.fullmatch(r"[0-9]+", name)}
    if unknown := [name for name in names if name not in index]:
        raise ValueError(
            f"--mask {folder / (unknown[0] + suffix)}: must have the name of a frame of {frames.path}, "
            f"such as {frames.names[0]}{suffix}"
        )
    return {index[name]: folder / f"{name}{suffix}" for name in names}
