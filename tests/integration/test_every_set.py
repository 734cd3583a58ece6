"""Every file of data, benchmarks, experiments and debugging builds what it tells, from tiny trees on disk."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.composing import choices, composed, plain, without_download
from helpers.every_set import write_every_set
from hydra.utils import instantiate
from omegaconf import DictConfig

from stm.config.schema import CONF
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
    return write_every_set(tmp_path_factory.mktemp("trees"))


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
