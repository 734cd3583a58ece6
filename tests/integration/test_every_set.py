"""Every file of data, benchmarks, experiments and debugging builds what it tells, from tiny trees on disk."""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.composing import choices, composed, plain, without_download
from helpers.data_trees import boxes, smooth_image, write_frame, write_sav_train, write_video
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from scipy.io import savemat

from stm.config.schema import CONF
from stm.masks import write_mask
from stm.runs import training_run
from stm.video import ClipBatch

A, B = (5, 5, 25, 30), (22, 35, 38, 55)
QUICK = (
    "experiment=quickstart",
    "data.count=4",
    "data.pixels=48",
    "benchmark.count=2",
    "benchmark.pixels=48",
)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/...`: every set as it comes, tiny, where the files look for it."""
    root = tmp_path_factory.mktemp("trees")
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


@pytest.fixture
def at_trees(trees: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trees)
    return trees


def assert_clips(config: DictConfig) -> None:
    """The data build, and each source gives clips of the size that is told."""
    dataset = training_run.build_data(config, []).dataset
    for source in dataset.sources:
        clip = source.clip(0, np.random.default_rng(0))
        ClipBatch.collate([clip])
        crop = config.data.crop
        size = [crop, crop] if isinstance(crop, int) else list(crop)
        assert list(clip.frames.shape) == [config.data.num_frames, 3, *size]
        assert clip.objects >= 1


@pytest.mark.parametrize("choice", choices("data"))
def test_data(at_trees: Path, choice: str) -> None:
    root = ["data.root=mine"] if choice == "folder" else []
    with composed(f"data={choice}", *root) as config:
        training_run.validate_config(config)
        plain(config)
        assert_clips(config)


@pytest.mark.parametrize("choice", choices("benchmark"))
def test_benchmark(at_trees: Path, choice: str) -> None:
    root = ["benchmark.root=mine"] if choice == "folder" else []
    for name in ("train", "evaluate"):
        needed = ["checkpoint=c.ckpt"] if name == "evaluate" else []
        with composed(f"benchmark={choice}", *root, *needed, name=name) as config:
            plain(config)
            video = instantiate(config.benchmark).videos[0]
            assert video.prompt_mask(min(video.first_frames.values())).any()


def test_youtube_holdout_has_truth(at_trees: Path) -> None:
    with composed(
        "benchmark=youtube_vos", "benchmark.split=holdout", "benchmark.holdout_categories=[cat]"
    ) as config:
        (video,) = instantiate(config.benchmark).videos
        assert video.annotated


@pytest.mark.parametrize("choice", choices("experiment"))
def test_experiment(at_trees: Path, choice: str) -> None:
    """The whole of it through the program's own builders."""
    roots = ["data.root=mine", "benchmark.root=mine"] if choice == "finetune" else []
    with composed(f"experiment={choice}", *roots) as config:
        assert config.name == choice
        training_run.validate_config(config)
        plain(config)
        with torch.device("meta"):
            assert training_run.build_network(without_download(config))
        assert_clips(config)
        assert instantiate(config.benchmark).videos
        for benchmark in training_run.final_benchmarks(config).values():
            assert instantiate(benchmark).videos
        optimizer = instantiate(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        assert instantiate(config.scheduler)(optimizer)
        assert instantiate(config.loss)


@pytest.mark.parametrize("choice", choices("experiment"))
def test_an_experiment_begins_with_its_command(choice: str) -> None:
    lines = (CONF / "experiment" / f"{choice}.yaml").read_text().splitlines()
    comments = [line for line in lines if line.startswith("#") and "@package" not in line]
    assert re.match(rf"# python train\.py experiment={choice}( |$)", comments[0])
    assert len(comments) > 1, "and tells what it should give"


@pytest.mark.parametrize("choice", choices("debug"))
def test_debug(choice: str) -> None:
    with composed(*QUICK, f"debug={choice}") as config:
        training_run.validate_config(config)
        assert config.name.startswith(f"debug_{choice}_")
        assert config.steps <= 300
        assert_clips(config)
