"""Every data set of the configuration as a tiny tree on disk."""

import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from helpers.data_trees import boxes, smooth_image, write_frame, write_sav_train, write_video
from stm.masks import write_mask

A, B = (5, 5, 25, 30), (22, 35, 38, 55)


def write_every_set(root: Path) -> Path:
    """Write `data/...`: every set as it comes, tiny, where the configuration looks for it."""
    data, masks = root / "data", [boxes({1: A, 2: B})] * 8
    for below in ("480p", "240p"):
        for name in ("bear", "camel"):  # composite videos take objects of one and the background of another
            write_video(data / "DAVIS", name, [boxes({1: A, 2: B})] * 10, below=below)
    for path in ("2016/train", "2016/val", "2017/train", "2017/val", "2017/train-240p", "2017/val-240p"):
        file = data / "DAVIS" / "ImageSets" / f"{path}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("bear\ncamel\n")
    names = [f"{5 * t:05d}" for t in range(8)]
    objects = {"1": {"category": "cat", "frames": names}, "2": {"category": "dog", "frames": names}}
    for split in ("train", "valid"):
        write_video(
            data / "YouTubeVOS" / split, "0a", masks if split == "train" else masks[:1] + [None] * 7, step=5
        )
        described = {"videos": {"0a": {"objects": objects}}}
        (data / "YouTubeVOS" / split / "meta.json").write_text(json.dumps(described))
    write_video(root / "mine", "clip", masks)
    write_stills(data)
    with tarfile.open(Path(__file__).parents[1] / "golden/metrics2026/layouts.tar.xz") as archive:
        archive.extractall(root, filter="data")
    for tree in (
        "mose/MOSE",
        "mosev2/MOSEv2",
        "lvos_v1/LVOS_V1",
        "lvos_v2/LVOS_V2",
        "vost/VOST",
        "sav/sav_val",
    ):
        (root / "layouts" / tree).rename(data / Path(tree).name)
    write_sav_train(data / "sav_train" / "sav_000", "sav_000001")
    return root


def write_stills(data: Path) -> None:
    mask, frame = boxes({1: A, 2: B}), smooth_image(1)
    binary = Image.fromarray((mask > 0).astype(np.uint8) * 255)
    for images, masks in (
        ("stills/images", "stills/masks"),
        ("ECSSD/images", "ECSSD/ground_truth_mask"),
        ("MSRA10K/Imgs", "MSRA10K/Imgs"),
    ):
        for name in ("x", "davis_x"):
            write_frame(data / images / f"{name}.jpg", frame)
            (data / masks).mkdir(exist_ok=True)
            binary.save(data / masks / f"{name}.png")
    voc, sbd, coco = data / "VOCdevkit/VOC2012", data / "benchmark_RELEASE/dataset", data / "coco"
    write_frame(voc / "JPEGImages" / "x.jpg", frame)
    write_mask(voc / "SegmentationObject" / "x.png", mask)
    write_frame(sbd / "img" / "x.jpg", frame)
    (sbd / "inst").mkdir()
    savemat(sbd / "inst" / "x.mat", {"GTinst": {"Segmentation": mask}}, do_compression=True)
    write_frame(coco / "train2017" / "x.jpg", frame)
    (coco / "annotations").mkdir()
    top, left, bottom, right = A
    polygon = [left, top, right, top, right, bottom, left, bottom]
    described = {
        "images": [{"id": 1, "file_name": "x.jpg", "height": 40, "width": 60}],
        "annotations": [{"image_id": 1, "segmentation": [polygon], "area": 500, "iscrowd": 0}],
    }
    (coco / "annotations" / "instances_train2017.json").write_text(json.dumps(described))
    for path in (voc / "ImageSets/Segmentation/train.txt", sbd / "train.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\n")
