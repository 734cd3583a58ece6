"""Measure the time and memory to build data sets of the size of COCO and YouTube-VOS.

    python benchmarks/index.py [--images 118287] [--annotations 860001] [--videos 3471] [--rounds 3]

The benchmark creates trees of that size in a temporary folder: an instances_train2017.json of polygons (and
a few crowds as run lengths) as long as the real one, and a meta.json with folders of empty frames and masks,
27 per video, since building a data set decodes none.

Each measurement runs in its own process (`two at once`: two that start together; the slower one counts).
Memory is what building adds to the process, without mapped and shared pages. Medians over the rounds are
printed. Other load on the machine affects the elapsed time more than the CPU time. Files are in the page
cache; a disk with 200 MB/s would add 2.5 s for COCO's json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

FRAMES = 27  # per video; YouTube-VOS 2018 has 94,588 annotated frames in 3,471 videos


def coco_tree(root: Path, images: int, annotations: int) -> tuple[Path, Path]:
    """Create an empty image folder, since building the set opens no image, and a json of annotations."""
    rng = np.random.default_rng(0)
    outlines = [_polygons(rng) for _ in range(4000)]
    crowd = json.dumps({"counts": [600] * 512, "size": [480, 640]}, separators=(",", ":"))
    image_ids = np.sort(rng.integers(0, images, annotations))
    (root / "train2017").mkdir(parents=True)
    path = root / "annotations" / "instances_train2017.json"
    path.parent.mkdir()
    with path.open("w") as file:
        file.write('{"info":{},"licenses":[],"images":[')
        for i in range(images):
            file.write("," * (i > 0))
            file.write(
                f'{{"license":3,"file_name":"{i:012d}.jpg","coco_url":"http://images/train2017/{i:012d}.jpg",'
                f'"height":480,"width":640,"date_captured":"2013-11-14 11:18:45","flickr_url":'
                f'"http://images/photo_8527173_{i:010d}_z.jpg","id":{i}}}'
            )
        file.write('],"annotations":[')
        for a, image_id in enumerate(image_ids):
            is_crowd = a % 82 == 0
            segmentation = crowd if is_crowd else outlines[a % len(outlines)]
            file.write("," * (a > 0))
            file.write(
                f'{{"segmentation":{segmentation},"area":{1000 + a % 977}.53,"iscrowd":{int(is_crowd)},'
                f'"image_id":{image_id},"bbox":[123.45,67.8,90.12,34.56],"category_id":{a % 90},"id":{a}}}'
            )
        file.write('],"categories":[]}')
    return root / "train2017", path


def _polygons(rng: np.random.Generator) -> str:
    """Return an object's outline in COCO's format: 25 points on average, one in ten objects in two parts."""
    parts = []
    for _ in range(1 + (rng.random() < 0.1)):
        points = int(np.clip(rng.lognormal(3.0, 0.7), 4, 300))
        angle = np.sort(rng.uniform(0, 2 * np.pi, points))
        outline = 240 + rng.uniform(20, 200) * np.stack([np.cos(angle), np.sin(angle)], 1)
        parts.append([round(float(value), 2) for value in outline.ravel()])
    return json.dumps(parts, separators=(",", ":"))


def youtube_tree(root: Path, videos: int) -> Path:
    """Create the split `train` with meta.json and empty files, since building the set opens none."""
    train, names = root / "train", [f"{5 * t:05d}" for t in range(FRAMES)]
    meta = {}
    for v in range(videos):
        video = f"{v:010x}"
        objects = {
            str(k + 1): {"category": f"c{(v + k) % 65}", "frames": names[k:]} for k in range(1 + v % 3)
        }
        meta[video] = {"objects": objects}
        for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".png")):
            (train / folder / video).mkdir(parents=True)
            for name in names:
                (train / folder / video / f"{name}{suffix}").touch()
    (train / "meta.json").write_text(json.dumps({"videos": meta}))
    return root


def build_coco(images: Path, annotations: Path) -> Any:
    """Build the COCO set."""
    from stm.data.coco import coco

    return coco(images, annotations)


def build_youtube(root: Path) -> Any:
    """Build the YouTube-VOS set."""
    from stm.data.videos import youtube_vos

    return youtube_vos(root)


def measure(build: Callable[..., Any], arguments: Sequence[Any], processes: int = 1) -> list[float]:
    """Return the elapsed seconds, CPU seconds, added MB and peak MB of the slowest or largest process."""
    context = mp.get_context("spawn")
    start, results = context.Barrier(processes), context.Queue()
    task = (build, tuple(arguments), start, results)
    running = [context.Process(target=_measure, args=task) for _ in range(processes)]
    for process in running:
        process.start()
    measurements = [results.get() for _ in running]
    for process in running:
        process.join()
    return [max(values) for values in zip(*measurements, strict=True)]


def _measure(build: Callable[..., Any], arguments: Sequence[Any], start: Barrier, results: Queue) -> None:
    import stm.data.coco
    import stm.data.videos  # noqa: F401  imports are not measured

    before, peak = _private_memory(), [0.0]
    Thread(target=_track_peak, args=(peak,), daemon=True).start()
    start.wait()
    elapsed, cpu = time.perf_counter(), time.process_time()
    dataset = build(*arguments)
    elapsed, cpu = time.perf_counter() - elapsed, time.process_time() - cpu
    after = _private_memory()
    assert len(dataset)
    results.put((elapsed, cpu, after - before, max(peak[0], after) - before))


def _track_peak(peak: list[float]) -> None:
    while True:
        peak[0] = max(peak[0], _private_memory())
        time.sleep(0.02)


def _private_memory() -> float:
    """Return the MB of this process without file pages, which all processes share."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--annotations", type=int, default=860_001)
    parser.add_argument("--videos", type=int, default=3471)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    table = Table("data set", "seconds", "CPU seconds", "MB added", "MB peak", "seconds, all rounds")
    with tempfile.TemporaryDirectory() as folder:
        images, annotations = coco_tree(Path(folder) / "coco", args.images, args.annotations)
        root = youtube_tree(Path(folder) / "youtube", args.videos)
        size = annotations.stat().st_size / 1e6
        index = annotations.with_name(f"{annotations.name}.index")
        without_index = f"COCO, {size:.0f} MB of json, without an index"
        cases: list[tuple[str, Callable[..., Any], Sequence[Any], int]] = [
            (without_index, build_coco, (images, annotations), 1),
            (f"{without_index}, two at once", build_coco, (images, annotations), 2),
            ("COCO, with the index", build_coco, (images, annotations), 1),
            ("COCO, with the index, two at once", build_coco, (images, annotations), 2),
            ("YouTube-VOS", build_youtube, (root,), 1),
            ("YouTube-VOS, two at once", build_youtube, (root,), 2),
        ]
        for name, build, arguments, processes in cases:
            rounds = []
            for _ in range(args.rounds):
                if name.startswith(without_index):
                    index.unlink(missing_ok=True)
                rounds.append(measure(build, arguments, processes))
            elapsed, cpu, added, peak = np.median(np.array(rounds), axis=0)
            all_rounds = ", ".join(f"{values[0]:.3g}" for values in rounds)
            table.add_row(name, f"{elapsed:.3g}", f"{cpu:.3g}", f"{added:.0f}", f"{peak:.0f}", all_rounds)
        table.caption = f"COCO's index: {index.stat().st_size / 1e6:.0f} MB"
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
