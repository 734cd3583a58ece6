"""Compare the clips per second of each kind of data set with a plain PIL pipeline.

    python benchmarks/data.py [--data data] [--crop 384] [--rounds 9] [--clips 16]

Both pipelines run in one process with one thread and alternate, round by round, so that other load on the
machine slows both. Ratios are computed within a round; medians and quartiles over the rounds are printed.

The plain pipeline does what training code for this task usually does. PIL decodes frames and masks at full
size. Each frame is transformed by a random affine map; the clip is cropped at random, resized and flipped;
brightness, contrast and saturation are jittered. The column `no affine` omits the transform, which ours
always computes.
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

from stm.data.coco import coco
from stm.data.sampling import ClipDataset
from stm.data.still_clips import StillClips
from stm.data.stills import pairs, video_frames
from stm.data.video_clips import SkipCurriculum, VideoClips
from stm.data.videos import FileVideo, davis, youtube_vos

PathSampler = Callable[[np.random.Generator], list[tuple[str, str]]]
"""Draws the paths (frame, mask) of a clip."""


def plain_clip(
    rng: np.random.Generator, sample_paths: PathSampler, crop: int, affine: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the frames (3, 3, crop, crop) and masks (3, crop, crop) of a plain pipeline, uint8."""
    images: list[tuple[Image.Image, Image.Image]] = [
        (Image.open(frame).convert("RGB"), Image.open(mask)) for frame, mask in sample_paths(rng)
    ]
    width, height = images[0][0].size
    side = min(width, height) / np.exp(rng.uniform(0, np.log(1.7)))
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    box, flip = (left, top, left + side, top + side), rng.random() < 0.5
    frames, masks = [], []
    for frame, mask in images:
        if affine:
            angle, shear, zoom = rng.uniform(-0.35, 0.35), rng.uniform(-0.17, 0.17), rng.uniform(0.85, 1.15)
            a, b = np.cos(angle) / zoom, (np.sin(angle) + shear) / zoom
            c, d = -np.sin(angle) / zoom, np.cos(angle) / zoom
            x, y = width / 2, height / 2
            matrix = (a, b, x - a * x - b * y, c, d, y - c * x - d * y)
            frame = frame.transform(frame.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            mask = mask.transform(mask.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)
        frame = frame.resize((crop, crop), Image.Resampling.BILINEAR, box=box)
        mask = mask.resize((crop, crop), Image.Resampling.NEAREST, box=box)
        if flip:
            frame, mask = (i.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for i in (frame, mask))
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            frame = enhancer(frame).enhance(rng.uniform(0.9, 1.1))
        frames.append(torch.from_numpy(np.asarray(frame).transpose(2, 0, 1).copy()))
        masks.append(torch.from_numpy(np.asarray(mask).copy()))
    return torch.stack(frames), torch.stack(masks)


def sample_video_paths(videos: list[FileVideo], max_skip: int) -> PathSampler:
    """Return a sampler of three frames of a random video."""

    def draw(rng: np.random.Generator) -> list[tuple[str, str]]:
        video = videos[rng.integers(len(videos))]
        steps = np.concatenate([[0], np.cumsum(rng.integers(1, max_skip + 2, 2))])
        steps = np.minimum(steps, len(video) - 1)
        start = rng.integers(0, len(video) - steps[-1])
        return [(video.frame_path(t), video.mask_path(t)) for t in start + steps]

    return draw


def sample_still_paths(files: list[tuple[str, str]]) -> PathSampler:
    """Return a sampler of a random still for all three frames."""

    def draw(rng: np.random.Generator) -> list[tuple[str, str]]:
        return [files[rng.integers(len(files))]] * 3

    return draw


def write_coco(folder: Path, stills: list[tuple[str, str]]) -> Path:
    """Write COCO annotations of stills, with the outlines of their masks as polygons."""
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


def build_datasets(data: Path, crop: int, scratch: Path) -> dict[str, tuple[ClipDataset, PathSampler]]:
    """Return name -> our clips and the paths for the plain pipeline."""
    skips = SkipCurriculum(first=10)
    datasets: dict[str, tuple[ClipDataset, PathSampler]] = {}
    videos = {
        "DAVIS 480p": davis(data / "DAVIS", split="train") + davis(data / "DAVIS", split="val"),
        "DAVIS 240p": davis(data / "DAVIS", split="train-240p", resolution="240p"),
        "YouTube-VOS 180p (PNG frames)": youtube_vos(data / "YouTubeVOS"),
    }
    # A few videos of the 480p list have only 240 rows.
    videos["DAVIS 480p"] = [v for v in videos["DAVIS 480p"] if Image.open(v.mask_path(0)).height == 480]
    for name, videos_of_set in videos.items():
        # Rotation, stretch and shake correspond to the affine maps of the plain pipeline.
        clips = VideoClips(videos_of_set, crop, curriculum=skips, rotate=20, stretch=1.2, shake=0.1)
        datasets[name] = ClipDataset([clips]), sample_video_paths(videos_of_set, 10)
    folder = data / "stills"
    files = [
        (str(f), str(folder / "masks" / f"{f.stem}.png")) for f in sorted((folder / "images").glob("*.jpg"))
    ]
    datasets["stills, pairs"] = (
        ClipDataset([StillClips(pairs(folder / "images", folder / "masks"), crop)]),
        sample_still_paths(files),
    )
    coco_stills = coco(folder / "images", write_coco(scratch, files))
    datasets["stills, COCO json"] = ClipDataset([StillClips(coco_stills, crop)]), sample_still_paths(files)
    datasets["stills, pasted objects"] = (
        ClipDataset([StillClips(pairs(folder / "images", folder / "masks"), crop, paste=1.0)]),
        sample_still_paths(files),
    )
    frames = videos["DAVIS 240p"]
    files = [(v.frame_path(t), v.mask_path(t)) for v in frames for t in v.annotated]
    datasets["stills, frames of DAVIS 240p"] = (
        ClipDataset([StillClips(video_frames(frames), crop)]),
        sample_still_paths(files),
    )
    return datasets


def clips_per_second(pipeline: Callable[[int], object], clips: int, first: int) -> float:
    """Measure the clips per second of one round."""
    start = time.perf_counter()
    for k in range(first, first + clips):
        pipeline(k)
    return clips / (time.perf_counter() - start)


def format_quartiles(values: list[float], digits: int = 1) -> str:
    """Format the median and the quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--crop", type=int, default=384, help="side of the clips in pixels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clips", type=int, default=16, help="clips per pipeline and round")
    args = parser.parse_args()
    if not (args.data / "DAVIS").is_dir():
        parser.error(f"--data {args.data}: must be a folder that contains DAVIS, YouTubeVOS and stills")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    table = Table("data set", "ours", "plain", "plain, no affine", "ours / plain", "ours / no affine")
    with tempfile.TemporaryDirectory() as scratch:
        for name, (dataset, sample_paths) in build_datasets(args.data, args.crop, Path(scratch)).items():
            pipelines: list[Callable[[int], object]] = [
                dataset.__getitem__,
                lambda k, sample_paths=sample_paths: plain_clip(
                    np.random.default_rng(k), sample_paths, args.crop, affine=True
                ),
                lambda k, sample_paths=sample_paths: plain_clip(
                    np.random.default_rng(k), sample_paths, args.crop, affine=False
                ),
            ]
            for pipeline in pipelines:  # warm up the page cache and lazily loaded code
                clips_per_second(pipeline, 2 * args.clips, 0)
            rounds = np.array(
                [
                    [clips_per_second(p, args.clips, r * args.clips) for p in pipelines]
                    for r in range(args.rounds)
                ]
            )
            ratios = rounds[:, :1] / rounds[:, 1:]
            columns = [format_quartiles(column) for column in rounds.T] + [
                format_quartiles(column, 2) for column in ratios.T
            ]
            table.add_row(name, *columns)
    console = Console(width=140)
    console.print(
        f"Clips per second, one thread, crop {args.crop}: median (quartiles) of {args.rounds} rounds"
    )
    console.print(table)


if __name__ == "__main__":
    main()
