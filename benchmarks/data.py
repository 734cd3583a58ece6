"""How many clips a second does each kind of set give, beside a plain PIL pipeline?

    python benchmarks/data.py [--data ../shared/data] [--crop 384] [--rounds 9] [--clips 16]

One process, one thread. Ours and the plain pipeline take turns, round by round, so that a busy machine slows
both; the ratio is taken within a round. Medians and quartiles over the rounds are printed.

The plain pipeline does what training code for this task usually does: PIL decodes frames and masks at full
size; then come a random affine transform a frame, a random cut resized to the crop and a flip for the clip,
brightness, contrast and saturation. `no affine` leaves the transform out; ours never does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance
from rich.console import Console
from rich.table import Table

from stm.data.sampling import ClipDataset, SkipCurriculum, StillClips, VideoClips
from stm.data.stills import coco, pairs, video_frames
from stm.data.videos import FileVideo, davis, youtube_vos

Paths = Callable[[np.random.Generator], list[tuple[str, str]]]


def plain_clip(
    rng: np.random.Generator, paths: Paths, crop: int, affine: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Three frames and masks as a plain pipeline makes them: uint8 (3, 3, crop, crop) and (3, crop, crop)."""
    files = paths(rng)
    opened: list[tuple[Image.Image, Image.Image]] = [
        (Image.open(frame).convert("RGB"), Image.open(mask)) for frame, mask in files
    ]
    width, height = opened[0][0].size
    side = min(width, height) / np.exp(rng.uniform(0, np.log(1.7)))
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    box, flip = (left, top, left + side, top + side), rng.random() < 0.5
    frames, masks = [], []
    for frame, mask in opened:
        if affine:
            turn, shear, zoom = rng.uniform(-0.35, 0.35), rng.uniform(-0.17, 0.17), rng.uniform(0.85, 1.15)
            a, b = np.cos(turn) / zoom, (np.sin(turn) + shear) / zoom
            c, d = -np.sin(turn) / zoom, np.cos(turn) / zoom
            x, y = width / 2, height / 2
            matrix = (a, b, x - a * x - b * y, c, d, y - c * x - d * y)
            frame = frame.transform(frame.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            mask = mask.transform(mask.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)
        frame = frame.resize((crop, crop), Image.Resampling.BILINEAR, box=box)
        mask = mask.resize((crop, crop), Image.Resampling.NEAREST, box=box)
        if flip:
            frame, mask = (i.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for i in (frame, mask))
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            frame = change(frame).enhance(rng.uniform(0.9, 1.1))
        frames.append(torch.from_numpy(np.asarray(frame).transpose(2, 0, 1).copy()))
        masks.append(torch.from_numpy(np.asarray(mask).copy()))
    return torch.stack(frames), torch.stack(masks)


def neighbors(videos: list[FileVideo], max_skip: int) -> Paths:
    """Files of three frames of a random video."""

    def draw(rng: np.random.Generator) -> list[tuple[str, str]]:
        video = videos[rng.integers(len(videos))]
        steps = np.concatenate([[0], np.cumsum(rng.integers(1, max_skip + 2, 2))])
        steps = np.minimum(steps, len(video) - 1)
        start = rng.integers(0, len(video) - steps[-1])
        return [(video.frame_path(t), video.mask_path(t)) for t in start + steps]

    return draw


def thrice(files: list[tuple[str, str]]) -> Paths:
    """The files of a random still, for each of three frames."""

    def draw(rng: np.random.Generator) -> list[tuple[str, str]]:
        return [files[rng.integers(len(files))]] * 3

    return draw


def coco_of(folder: Path, stills: list[tuple[str, str]]) -> Path:
    """Describe stills as COCO does: the outlines of their masks as polygons."""
    images, annotations = [], []
    for number, (frame, mask) in enumerate(stills):
        labels = np.asarray(Image.open(mask))
        height, width = labels.shape
        images.append({"id": number, "file_name": Path(frame).name, "height": height, "width": width})
        for label in set(np.unique(labels)) - {0, 255}:
            outlines, _ = cv2.findContours(
                (labels == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_KCOS
            )
            polygons = [outline.ravel().tolist() for outline in outlines if len(outline) > 2]
            area = float((labels == label).sum())
            annotations.append({"image_id": number, "segmentation": polygons, "area": area, "iscrowd": 0})
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def sets(data: Path, crop: int, scratch: Path) -> dict[str, tuple[ClipDataset, Paths]]:
    """Name -> our clips, and the files that the plain pipeline reads."""
    skips = SkipCurriculum(first=10)
    sets: dict[str, tuple[ClipDataset, Paths]] = {}
    videos = {
        "DAVIS 480p": davis(data / "DAVIS", split="train") + davis(data / "DAVIS", split="val"),
        "DAVIS 240p": davis(data / "DAVIS", split="train-240p", resolution="240p"),
        "YouTube-VOS 180p (PNG frames)": youtube_vos(data / "YouTubeVOS"),
    }
    # A few of the 480p list are shrunk to 240 rows.
    videos["DAVIS 480p"] = [v for v in videos["DAVIS 480p"] if Image.open(v.mask_path(0)).height == 480]
    for name, found in videos.items():
        # Rotated, stretched and shaken, so that ours does the plain pipeline's affine work.
        clips = VideoClips(found, crop, curriculum=skips, rotate=20, stretch=1.2, shake=0.1)
        sets[name] = ClipDataset([clips]), neighbors(found, 10)
    folder = data / "stills"
    files = [
        (str(f), str(folder / "masks" / f"{f.stem}.png")) for f in sorted((folder / "images").glob("*.jpg"))
    ]
    sets["stills, pairs"] = (
        ClipDataset([StillClips(pairs(folder / "images", folder / "masks"), crop)]),
        thrice(files),
    )
    described = coco(folder / "images", coco_of(scratch, files))
    sets["stills, COCO json"] = ClipDataset([StillClips(described, crop)]), thrice(files)
    sets["stills, pasted objects"] = (
        ClipDataset([StillClips(pairs(folder / "images", folder / "masks"), crop, paste=1.0)]),
        thrice(files),
    )
    frames = videos["DAVIS 240p"]
    files = [(v.frame_path(t), v.mask_path(t)) for v in frames for t in v.annotated]
    sets["stills, frames of DAVIS 240p"] = (
        ClipDataset([StillClips(video_frames(frames), crop)]),
        thrice(files),
    )
    return sets


def per_second(clip: Callable[[int], object], clips: int, first: int) -> float:
    """Clips a second over one round."""
    begin = time.perf_counter()
    for k in range(first, first + clips):
        clip(k)
    return clips / (time.perf_counter() - begin)


def spread(values: list[float], digits: int = 1) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--crop", type=int, default=384, help="side of the clips in pixels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clips", type=int, default=16, help="clips of each pipeline in a round")
    told = parser.parse_args()
    if not (told.data / "DAVIS").is_dir():
        parser.error(
            f"--data {told.data}: has no folder DAVIS; give a folder that holds DAVIS, YouTubeVOS and stills"
        )
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    table = Table("set", "ours", "plain", "plain, no affine", "ours / plain", "ours / no affine")
    with tempfile.TemporaryDirectory() as scratch:
        for name, (dataset, paths) in sets(told.data, told.crop, Path(scratch)).items():
            pipelines: list[Callable[[int], object]] = [
                dataset.__getitem__,
                lambda k, paths=paths: plain_clip(np.random.default_rng(k), paths, told.crop, affine=True),
                lambda k, paths=paths: plain_clip(np.random.default_rng(k), paths, told.crop, affine=False),
            ]
            for pipeline in pipelines:  # files into the page cache, code into memory
                per_second(pipeline, 2 * told.clips, 0)
            rounds = np.array(
                [[per_second(p, told.clips, r * told.clips) for p in pipelines] for r in range(told.rounds)]
            )
            ratios = rounds[:, :1] / rounds[:, 1:]
            columns = [spread(column) for column in rounds.T] + [spread(column, 2) for column in ratios.T]
            table.add_row(name, *columns)
    console = Console(width=140)
    console.print(f"Clips a second, one thread, crop {told.crop}: median (quartiles) of {told.rounds} rounds")
    console.print(table)


if __name__ == "__main__":
    main()
