"""Every file of every group composes, fits the schema and builds what it tells."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_trees import boxes, picture, write_frame, write_video
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image
from scipy.io import savemat

from stm import runtime
from stm.clip import ClipBatch
from stm.config import CONF
from stm.masks import write_mask
from stm.memory import MemoryPolicy
from stm.network import STM

A, B = (5, 5, 25, 30), (22, 35, 38, 55)
QUICK = (
    "experiment=quickstart",
    "data.count=4",
    "data.pixels=48",
    "benchmark.count=2",
    "benchmark.pixels=48",
)


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


GROUPS = sorted(
    {str(path.parent.relative_to(CONF)) for path in CONF.rglob("*.yaml")}
    - {".", "hydra/help", "hydra/job_logging"}
)


@contextmanager
def composed(*overrides: str, name: str = "train", searchpath: Path | None = None) -> Iterator[DictConfig]:
    """The configuration as the program gets it, with Hydra's own at hand for the resolvers."""
    fixed = ["hydra.runtime.output_dir=run", "hydra.job.num=0"]
    if searchpath:
        fixed.append(f"hydra.searchpath=[file://{searchpath}]")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, [*fixed, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    try:
        with open_dict(config):
            config.pop("hydra")
        yield config
    finally:
        HydraConfig.instance().cfg = None


def plain(config: DictConfig) -> dict[str, Any]:
    """Everything resolved, nothing missing."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return values


def without_download(config: DictConfig) -> DictConfig:
    config.backbone.pretrained = False
    return config


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/...`: every set as it comes, tiny, where the files look for it."""
    root = tmp_path_factory.mktemp("trees")
    data, masks = root / "data", [boxes({1: A, 2: B})] * 6
    for below in ("480p", "240p"):
        write_video(data / "DAVIS", "bear", masks, below=below)
    for path in ("2016/train", "2016/val", "2017/train", "2017/val", "2017/train-240p", "2017/val-240p"):
        file = data / "DAVIS" / "ImageSets" / f"{path}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("bear\n")
    names = [f"{5 * t:05d}" for t in range(6)]
    objects = {"1": {"category": "cat", "frames": names}, "2": {"category": "dog", "frames": names}}
    for split in ("train", "valid"):
        write_video(
            data / "YouTubeVOS" / split, "0a", masks if split == "train" else masks[:1] + [None] * 5, step=5
        )
        described = {"videos": {"0a": {"objects": objects}}}
        (data / "YouTubeVOS" / split / "meta.json").write_text(json.dumps(described))
    write_video(root / "mine", "clip", masks)
    write_stills(data)
    return root


def write_stills(data: Path) -> None:
    mask, frame = boxes({1: A, 2: B}), picture(1)
    binary = Image.fromarray((mask > 0).astype(np.uint8) * 255)
    for images, masks in (
        ("stills/images", "stills/masks"),
        ("ECSSD/images", "ECSSD/ground_truth_mask"),
        ("MSRA10K/Imgs", "MSRA10K/Imgs"),
    ):
        write_frame(data / images / "x.jpg", frame)
        (data / masks).mkdir(exist_ok=True)
        binary.save(data / masks / "x.png")
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


def test_no_file_is_left_out() -> None:
    """Each group of choices is built by a test below; a new group needs one."""
    built = {"backbone", "network", "memory", "data", "benchmark", "optimizer", "scheduler", "trainer"}
    assert set(GROUPS) - {"launcher", "sweep"} == built | {"logger", "callbacks", "experiment", "debug"}


def test_what_builds_nothing_composes() -> None:
    for choice in choices("sweep"):
        name = "evaluate" if "evaluate.py" in (CONF / "sweep" / f"{choice}.yaml").read_text() else "train"
        with composed(f"sweep={choice}", name=name) as config:
            assert config


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize("choice", choices("launcher"))
def test_launcher(choice: str, name: str) -> None:
    """Hydra's plugin takes what the file tells, every value of it."""
    trained = ["trainer=slurm", "trainer.num_nodes=2", "trainer.devices=4"]
    fixed = ["hydra.job.num=3", *(trained if name == "train" else ["checkpoint=c.ckpt"])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, [f"launcher={choice}", *fixed], return_hydra_config=True)
    values = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert instantiate(config.hydra.launcher)
    if choice == "slurm":
        expected = (2, 4, 4) if name == "train" else (1, 1, 1)
        assert (values["nodes"], values["tasks_per_node"], values["gpus_per_node"]) == expected


PAIRS = {(backbone, "stm") for backbone in choices("backbone")} | {
    (backbone, network)
    for backbone in ("tiny", "resnet50", "mobilenet_v3_large")
    for network in choices("network")
}


@pytest.mark.parametrize(("backbone", "network"), sorted(PAIRS))
def test_every_backbone_and_every_network(backbone: str, network: str) -> None:
    with composed(f"backbone={backbone}", f"network={network}") as config:
        runtime.check(config)
        arguments = plain(config.network)
        assert arguments["backbone"] == backbone
        if arguments["tied"] and arguments["memory_backbone"] not in (None, backbone):
            pytest.skip("tied encoders are of one kind")
        counts = backbone.startswith("regnet")  # torchvision computes its widths with tensors
        with torch.device("cpu" if counts else "meta"):  # shapes alone: neither time nor memory
            assert isinstance(instantiate(without_download(config).network), STM)


@pytest.mark.parametrize("choice", choices("memory"))
def test_memory(choice: str) -> None:
    for name in ("train", "evaluate"):
        with composed(
            f"memory={choice}", *(["checkpoint=c.ckpt"] * (name == "evaluate")), name=name
        ) as config:
            assert isinstance(instantiate(config.memory), MemoryPolicy)


@pytest.mark.parametrize("scheduler", choices("scheduler"))
@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_every_optimizer_with_every_scheduler(optimizer: str, scheduler: str) -> None:
    with composed(f"optimizer={optimizer}", f"scheduler={scheduler}", "steps=1000") as config:
        built = instantiate(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        schedule = instantiate(config.scheduler)(built)
        rates = []
        for _ in range(1000):
            rates.append(built.param_groups[0]["lr"])
            built.step()
            schedule.step()
        assert max(rates) == pytest.approx(config.optimizer.lr, rel=1e-2)
        assert min(rates) > 0
        if scheduler == "constant":
            assert len(set(rates)) == 1


@pytest.mark.parametrize("choice", choices("trainer"))
def test_trainer(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if choice == "slurm":
        for name in ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
            monkeypatch.setenv(name, "1")
        for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
            monkeypatch.setenv(name, "0")
    processes = [] if choice in ("ddp_cpu", "slurm") else ["trainer.devices=1"]
    with composed(f"trainer={choice}", "trainer.accelerator=cpu", *processes) as config:
        trainer = instantiate(config.trainer, max_steps=1, logger=False)
        assert trainer.accumulate_grad_batches == 1
        assert trainer.world_size == (2 if choice == "ddp_cpu" else 1)


@pytest.mark.parametrize("choice", choices("logger"))
def test_logger(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with composed(f"logger={choice}") as config:
        for logger in plain(config)["logger"].values():
            assert instantiate(logger)


@pytest.mark.parametrize("choice", choices("callbacks"))
def test_callbacks(choice: str) -> None:
    with composed(f"callbacks={choice}") as config:
        assert all(instantiate(callback) for callback in plain(config)["callbacks"].values())


def test_loss() -> None:
    with composed() as config:
        assert isinstance(instantiate(config.loss), torch.nn.Module)


def assert_clips(config: DictConfig) -> None:
    """The data build, and each source gives clips of the size that is told."""
    dataset = runtime.build_data(config, []).dataset
    for source in dataset.sources:
        clip = source.clip(0, np.random.default_rng(0))
        ClipBatch.collate([clip])
        crop = config.data.crop
        size = [crop, crop] if isinstance(crop, int) else list(crop)
        assert list(clip.frames.shape) == [config.data.frames, 3, *size]
        assert clip.objects >= 1


@pytest.mark.parametrize("choice", choices("data"))
def test_data(at_trees: Path, choice: str) -> None:
    with composed(f"data={choice}") as config:
        runtime.check(config)
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
            assert video.given(min(video.entries.values())).any()


def test_youtube_holdout_has_truth(at_trees: Path) -> None:
    with composed(
        "benchmark=youtube_vos", "benchmark.split=holdout", "benchmark.holdout_categories=[cat]"
    ) as config:
        (video,) = instantiate(config.benchmark).videos
        assert video.annotated


@pytest.mark.parametrize("choice", choices("experiment"))
def test_experiment(at_trees: Path, choice: str) -> None:
    """The whole of it through the program's own builders."""
    with composed(f"experiment={choice}") as config:
        assert config.name == choice
        runtime.check(config)
        plain(config)
        with torch.device("meta"):
            assert runtime.build_network(without_download(config))
        assert_clips(config)
        assert instantiate(config.benchmark).videos
        if config.test is not None:
            assert instantiate(OmegaConf.merge(config.benchmark, config.test)).videos
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
        runtime.check(config)
        assert config.name.startswith(f"debug_{choice}_")
        assert config.steps <= 300
        assert_clips(config)


@contextmanager
def added(folder: Path, name: str, text: str) -> Iterator[Path]:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    yield folder


def test_an_unknown_key_at_the_top_is_named(tmp_path: Path) -> None:
    text = "# @package _global_\nstepps: 5\n"
    with (
        added(tmp_path, "experiment/mine.yaml", text) as path,
        pytest.raises(ConfigCompositionException) as error,
        composed("experiment=mine", searchpath=path),
    ):
        pass
    assert "stepps" in f"{error.value} {error.value.__cause__}"


@pytest.mark.parametrize(
    ("group", "base", "build"), [("optimizer", "adam", "optimizer"), ("network", "stm", "network")]
)
def test_an_unknown_argument_is_named(tmp_path: Path, group: str, base: str, build: str) -> None:
    text = f"defaults:\n  - {base}\nkye: 1\n"
    with (
        added(tmp_path, f"{group}/mine.yaml", text) as path,
        composed(f"{group}=mine", "backbone=tiny", searchpath=path) as config,
        pytest.raises((InstantiationException, TypeError), match="kye"),
    ):
        built = instantiate(config[build])
        built([torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "backbone:\n  pretraind: false\n",
            r"backbone\.pretraind: nothing uses this key; there are name, norm",
        ),
        ("data:\n  corp: 48\n", r"data\.corp: nothing uses this key; there are .*crop"),
        (
            "data:\n  sources:\n    davis:\n      wieght: 2\n",
            r"data\.sources\.davis\.wieght: .* clips, weight",
        ),
        ("steps: 0\n", "steps=0: must be at least 1"),
    ],
)
def test_a_key_that_nothing_uses_is_named(tmp_path: Path, text: str, told: str) -> None:
    with (
        added(tmp_path, "experiment/mine.yaml", f"# @package _global_\n{text}") as path,
        composed("experiment=mine", searchpath=path) as config,
        pytest.raises(ValueError, match=told),
    ):
        runtime.check(config)


def test_a_wrong_type_is_named() -> None:
    with pytest.raises(ConfigCompositionException) as error, composed("steps=many"):
        pass
    assert "steps" in str(error.value)


def test_the_paper_is_the_default() -> None:
    """Sections 3.5 and 4: what a bare `train.py` would do."""
    with composed() as config:
        values = plain(config)
    assert values["optimizer"]["lr"] == 1e-5
    assert values["backbone"] == {"name": "resnet50", "pretrained": True, "norm": "frozen"}
    assert values["network"]["similarity"] == "dot" and values["network"]["keys"] == "image_mask"
    assert (values["memory"]["first"], values["memory"]["previous"], values["memory"]["every"]) == (
        True,
        True,
        5,
    )
    assert values["data"]["crop"] == 384 and values["data"]["frames"] == 3
    curriculum = values["data"]["sources"]["davis"]["clips"]["curriculum"]
    assert (curriculum["first"], curriculum["largest"], curriculum["grow_by"]) == (0, 25, 5)
    assert curriculum["every_clips"] == 20 * 3771
    assert os.environ.get("WANDB_MODE") is None
