"""Every file of conf/ composes, fits the schema and builds its object; data: test_every_set.py."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.composing import choices, composed, plain, without_download
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from stm.config.schema import CONF
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.runs import training_run

GROUPS = sorted(
    {str(path.parent.relative_to(CONF)) for path in CONF.rglob("*.yaml")}
    - {".", "hydra/help", "hydra/job_logging"}
)


def test_every_group_has_a_test() -> None:
    """A test here or in test_every_set.py builds each group; a new group needs one."""
    built = {"backbone", "network", "memory", "data", "benchmark", "optimizer", "scheduler", "trainer"}
    assert set(GROUPS) - {"launcher", "sweep"} == built | {"logger", "callbacks", "experiment", "debug"}


def test_every_sweep_composes() -> None:
    for choice in choices("sweep"):
        name = "evaluate" if "evaluate.py" in (CONF / "sweep" / f"{choice}.yaml").read_text() else "train"
        with composed(f"sweep={choice}", name=name) as config:
            assert config


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize("choice", choices("launcher"))
def test_launcher(choice: str, name: str) -> None:
    """Hydra's plugin accepts every value of the file."""
    trainer = ["trainer=slurm", "trainer.num_nodes=2", "trainer.devices=4"]
    fixed = ["hydra.job.num=3", *(trainer if name == "train" else ["checkpoint=c.ckpt"])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, [f"launcher={choice}", *fixed], return_hydra_config=True)
    values = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert instantiate(config.hydra.launcher)
    if choice == "slurm":
        expected = (2, 4, 4) if name == "train" else (1, 1, 1)
        assert (values["nodes"], values["tasks_per_node"], values["gpus_per_node"]) == expected


PAIRS = {(backbone, "stm") for backbone in choices("backbone")} | {
    ("resnet50", network) for network in choices("network")
}
FURTHER_PAIRS = {
    (backbone, network) for backbone in ("tiny", "mobilenet_v3_large") for network in choices("network")
} - PAIRS


@pytest.mark.parametrize(
    ("backbone", "network"),
    [*sorted(PAIRS), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in sorted(FURTHER_PAIRS))],
)
def test_every_backbone_and_every_network(backbone: str, network: str) -> None:
    name = {"imagenet": "resnet50", "timm": "convnextv2_atto"}.get(backbone, backbone)
    given = ["backbone.name=convnextv2_atto"] * (backbone == "timm")
    with composed(f"backbone={backbone}", f"network={network}", *given) as config:
        training_run.validate_config(config)
        arguments = plain(config.network)
        assert arguments["backbone"] == name
        if arguments["tie_encoders"] and arguments["memory_backbone"] not in (None, backbone):
            pytest.skip("tied encoders are of one kind")
        needs_values = backbone.startswith(("regnet", "timm"))  # computed with tensors
        with torch.device("cpu" if needs_values else "meta"):  # only shapes, to save time and memory
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
    if choice in ("mlflow", "tensorboard"):
        pytest.importorskip(choice, reason=f"{choice} is not installed: pip install 'stm-vos[{choice}]'")
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


@contextmanager
def added(folder: Path, name: str, text: str) -> Iterator[Path]:
    """Add a configuration file to a folder."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    yield folder


def test_unknown_top_level_key_is_named(tmp_path: Path) -> None:
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
def test_unknown_argument_is_named(tmp_path: Path, group: str, base: str, build: str) -> None:
    text = f"defaults:\n  - {base}\nkye: 1\n"
    with (
        added(tmp_path, f"{group}/mine.yaml", text) as path,
        composed(f"{group}=mine", "backbone=tiny", searchpath=path) as config,
        pytest.raises((InstantiationException, TypeError), match="kye"),
    ):
        built = instantiate(config[build])
        built([torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "backbone:\n  pretraind: false\n",
            r"backbone\.pretraind=False: nothing reads this key; must be one of name, norm",
        ),
        (
            "data:\n  corp: 48\n",
            r"data\.corp=48: nothing reads this key; must be one of crop, .* \(~data\.corp removes it\)",
        ),
        ("data:\n  steps: 5\n", r"data\.steps=5: nothing reads this key"),  # an argument that the run passes
        ("steps: 0\n", "steps=0: must be at least 1"),
    ],
)
def test_unread_key_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    with (
        added(tmp_path, "experiment/mine.yaml", f"# @package _global_\n{text}") as path,
        composed("experiment=mine", searchpath=path) as config,
        pytest.raises(ValueError, match=message),
    ):
        training_run.validate_config(config)


@pytest.mark.parametrize(
    "overrides",
    [
        ["data=davis_youtube", "data.root=x"],
        ["data=davis2017", "data.root=x", "data.sources.davis.clips.videos.root=y"],
        ["data=stills", "data.root=x", "data.images=y", "data.masks=z"],
    ],
    ids=" ".join,
)
def test_value_that_all_sources_override_is_rejected(overrides: list[str]) -> None:
    with (
        composed(*overrides) as config,
        pytest.raises(ValueError, match=r"data\.root=x: nothing reads this key"),
    ):
        training_run.validate_config(config)


def test_a_default_that_nothing_reads_is_accepted() -> None:
    with composed("data=stills", "data.images=a", "data.masks=b") as config:
        training_run.validate_config(config)


@pytest.mark.parametrize(
    ("override", "key"),
    [("+data.sources.synthetic.wieght=2", "wieght"), ("+data.sources.synthetic.clips.corp=48", "corp")],
)
def test_unknown_key_of_a_source_is_rejected(override: str, key: str) -> None:
    with (
        composed("data=synthetic_videos", override) as config,
        pytest.raises(InstantiationException, match=key) as error,
    ):
        training_run.build_data(config, [])
    assert "synthetic" in str(error.value)


def test_wrong_type_is_named() -> None:
    with pytest.raises(ConfigCompositionException) as error, composed("steps=many"):
        pass
    assert "steps" in str(error.value)


def test_defaults_are_those_of_the_paper() -> None:
    """Sections 3.5 and 4: the settings of `train.py` without overrides."""
    with composed() as config:
        values = plain(config)
    assert values["optimizer"]["lr"] == 1e-5
    assert values["backbone"] == {"name": "resnet50", "pretrained": True, "norm": "frozen"}
    assert values["network"]["similarity"] == "dot" and values["network"]["key_input"] == "image_mask"
    assert (values["memory"]["first"], values["memory"]["previous"], values["memory"]["every"]) == (
        True,
        True,
        5,
    )
    assert values["data"]["crop"] == 384 and values["data"]["num_frames"] == 3
    curriculum = values["data"]["sources"]["davis"]["clips"]["curriculum"]
    assert (curriculum["first"], curriculum["largest"], curriculum["grow_by"]) == (0, 25, 5)
    assert curriculum["every_clips"] == 20 * 3771
    assert os.environ.get("WANDB_MODE") is None
