"""How long do sets of COCO's and YouTube-VOS's size take until they can be read, and how much memory?

    python benchmarks/index.py [--images 118287] [--annotations 860001] [--videos 3471] [--rounds 3]

Makes trees of that size below a temporary folder: an instances_train2017.json of polygons (and a few crowds
as run lengths), as long as the real one; a meta.json with the videos' folders of empty frames and masks, 27
each, since building a set decodes none. Each measurement is a process of its own (`two at once`: two that
begin together; the slower one counts); memory is what building adds to it, without what it maps and shares
with others. Printed are medians over the rounds; other work on the machine lengthens the seconds that pass,
less those of computing. Files are in the system's cache: a disk of 200 MB a second adds 2.5 s to COCO's json.
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

FRAMES = 27  # of a video; YouTube-VOS 2018 has 94,588 annotated frames in 3,471 videos


def coco_tree(root: Path, images: int, annotations: int) -> tuple[Path, Path]:
    """A folder of images (empty: building the set opens none) and the json of their annotations."""
    rng = np.random.default_rng(0)
    shapes = [_polygons(rng) for _ in range(4000)]
    crowd = json.dumps({"counts": [600] * 512, "size": [480, 640]}, separators=(",", ":"))
    owners = np.sort(rng.integers(0, images, annotations))
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
        for a, owner in enumerate(owners):
            is_crowd = a % 82 == 0
            segmentation = crowd if is_crowd else shapes[a % len(shapes)]
            file.write("," * (a > 0))
            file.write(
                f'{{"segmentation":{segmentation},"area":{1000 + a % 977}.53,"iscrowd":{int(is_crowd)},'
                f'"image_id":{owner},"bbox":[123.45,67.8,90.12,34.56],"category_id":{a % 90},"id":{a}}}'
            )
        file.write('],"categories":[]}')
    return root / "train2017", path


def _polygons(rng: np.random.Generator) -> str:
    """One object's outline as COCO writes it: 25 points in the mean, one in ten in two parts."""
    parts = []
    for _ in range(1 + (rng.random() < 0.1)):
        points = int(np.clip(rng.lognormal(3.0, 0.7), 4, 300))
        angle = np.sort(rng.uniform(0, 2 * np.pi, points))
        outline = 240 + rng.uniform(20, 200) * np.stack([np.cos(angle), np.sin(angle)], 1)
        parts.append([round(float(value), 2) for value in outline.ravel()])
    return json.dumps(parts, separators=(",", ":"))


def youtube_tree(root: Path, videos: int) -> Path:
    """The split `train`: meta.json, and folders of empty files, for building the set opens none."""
    train, names = root / "train", [f"{5 * t:05d}" for t in range(FRAMES)]
    described = {}
    for v in range(videos):
        video = f"{v:010x}"
        objects = {
            str(k + 1): {"category": f"c{(v + k) % 65}", "frames": names[k:]} for k in range(1 + v % 3)
        }
        described[video] = {"objects": objects}
        for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".png")):
            (train / folder / video).mkdir(parents=True)
            for name in names:
                (train / folder / video / f"{name}{suffix}").touch()
    (train / "meta.json").write_text(json.dumps({"videos": described}))
    return root


def build_coco(images: Path, annotations: Path) -> Any:
    from stm.data.stills import coco

    return coco(images, annotations)


def build_youtube(root: Path) -> Any:
    from stm.data.videos import youtube_vos

    return youtube_vos(root)


def measured(build: Callable[..., Any], arguments: Sequence[Any], processes: int = 1) -> list[float]:
    """Seconds until all have built it, and of computing; MB that it adds in the end, and at most."""
    context = mp.get_context("spawn")
    start, told = context.Barrier(processes), context.Queue()
    task = (build, tuple(arguments), start, told)
    running = [context.Process(target=_measure, args=task) for _ in range(processes)]
    for process in running:
        process.start()
    answers = [told.get() for _ in running]
    for process in running:
        process.join()
    return [max(values) for values in zip(*answers, strict=True)]


def _measure(build: Callable[..., Any], arguments: Sequence[Any], start: Barrier, told: Queue) -> None:
    import stm.data.stills
    import stm.data.videos  # noqa: F401  imports are not what is measured

    before, most = _own_memory(), [0.0]
    Thread(target=_watch, args=(most,), daemon=True).start()
    start.wait()
    began, worked = time.perf_counter(), time.process_time()
    built = build(*arguments)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    after = _own_memory()
    assert len(built)
    told.put((seconds, worked, after - before, max(most[0], after) - before))


def _watch(most: list[float]) -> None:
    while True:
        most[0] = max(most[0], _own_memory())
        time.sleep(0.02)


def _own_memory() -> float:
    """MB of this process alone: pages of files, which all processes share, are left out."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--images", type=int, default=118_287)
    arguments.add_argument("--annotations", type=int, default=860_001)
    arguments.add_argument("--videos", type=int, default=3471)
    arguments.add_argument("--rounds", type=int, default=3)
    told = arguments.parse_args()
    table = Table("set", "seconds", "of computing", "MB in the end", "MB at most", "seconds, all rounds")
    with tempfile.TemporaryDirectory() as folder:
        images, annotations = coco_tree(Path(folder) / "coco", told.images, told.annotations)
        root = youtube_tree(Path(folder) / "youtube", told.videos)
        size = annotations.stat().st_size / 1e6
        index = annotations.with_name(f"{annotations.name}.index")
        coco_cold = f"COCO, {size:.0f} MB of json, without an index"
        lines: list[tuple[str, Callable[..., Any], Sequence[Any], int]] = [
            (coco_cold, build_coco, (images, annotations), 1),
            (f"{coco_cold}, two at once", build_coco, (images, annotations), 2),
            ("COCO, with it", build_coco, (images, annotations), 1),
            ("COCO, with it, two at once", build_coco, (images, annotations), 2),
            ("YouTube-VOS", build_youtube, (root,), 1),
            ("YouTube-VOS, two at once", build_youtube, (root,), 2),
        ]
        for name, build, given, processes in lines:
            rounds = []
            for _ in range(told.rounds):
                if name.startswith(coco_cold):
                    index.unlink(missing_ok=True)
                rounds.append(measured(build, given, processes))
            seconds, worked, kept, most = np.median(np.array(rounds), axis=0)
            every = ", ".join(f"{one[0]:.3g}" for one in rounds)
            table.add_row(name, f"{seconds:.3g}", f"{worked:.3g}", f"{kept:.0f}", f"{most:.0f}", every)
        table.caption = f"COCO's index: {index.stat().st_size / 1e6:.0f} MB"
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
