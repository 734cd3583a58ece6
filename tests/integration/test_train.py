"""From a configuration to objects: checkpoints read back, resuming, devices, and what is refused."""

import importlib.util
import inspect
import os
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_networks as small
from helpers.commands import succeed
from helpers.data_trees import boxes, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

import stm
from stm.config.schema import CONF
from stm.network import STM, fingerprint, strip
from stm.runs import process_setup, training_run
from stm.training.resume import find_resume_checkpoint

CONFIG: dict[str, Any] = {"network": {"_target_": "stm.network.STM", **small.NETWORK, "pretrained": False}}


def save(path: Path, config: Any = CONFIG, seed: int = 0) -> Path:
    """A checkpoint as a run writes it, for what loading it needs."""
    weights = {f"network.{name}": tensor for name, tensor in small.network(seed).state_dict().items()}
    torch.save({"config": config, "state_dict": weights, "global_step": 3}, path)
    return path


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_alone_gives_the_network(tmp_path: Path) -> None:
    network = stm.load(save(tmp_path / "last.ckpt", seed=5))
    assert_same_weights(network, small.network(5))
    assert not network.training
    assert not any(module.training for module in network.modules())


def test_pretrained_weights_are_not_fetched_to_be_overwritten(tmp_path: Path) -> None:
    config = {"network": {**CONFIG["network"], "pretrained": True}}
    assert_same_weights(stm.load(save(tmp_path / "last.ckpt", config)), small.network())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_published_checkpoint_loads_the_same_way(tmp_path: Path, golden: Path, prefix: str) -> None:
    spec = importlib.util.spec_from_file_location("golden_weights", golden / "weights.py")
    assert spec is not None and spec.loader is not None
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    state = {f"{prefix}{name}": tensor for name, tensor in weights.state_dict().items()}
    torch.save(state, tmp_path / "STM_weights.pth")
    network = stm.load(str(tmp_path / "STM_weights.pth"))
    assert torch.equal(network.query_encoder.trunk.stem.weight, state[f"{prefix}Encoder_Q.conv1.weight"])
    assert not network.training


class Malicious:
    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.sign),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch", "old torch", "pickle"])
def test_code_in_a_checkpoint_is_refused(tmp_path: Path, form: str) -> None:
    path, content = (
        tmp_path / "evil.ckpt",
        {"config": CONFIG, "state_dict": {}, "x": Malicious(tmp_path / "ran")},
    )
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ValueError, match=r"evil\.ckpt"):
        stm.load(path)
    assert not (tmp_path / "ran").exists()


def test_a_cut_off_checkpoint_is_named(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.ckpt").read_bytes()
    for length in (0, 1, 10, 5000, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "cut.ckpt"
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.ckpt"):
            stm.load(path)


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=200))
def test_whatever_is_in_the_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"any\.ckpt"):
        stm.load(path)


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], {"state_dict": {}}, torch.zeros(2)])
def test_a_file_of_something_else_is_named(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="neither of this project nor a published one that is known"):
        stm.load(tmp_path / "other.pt")


@pytest.mark.parametrize(
    "config",
    [{}, {"network": {**CONFIG["network"], "key_channels": 9}}, {"network": {**CONFIG["network"], "new": 1}}],
    ids=["none", "another size", "an unknown argument"],
)
def test_weights_that_do_not_fit_their_configuration(tmp_path: Path, config: Any) -> None:
    with pytest.raises(ValueError, match=r"odd\.ckpt: its weights do not fit its configuration"):
        stm.load(save(tmp_path / "odd.ckpt", config))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.ckpt does not exist"):
        stm.load(tmp_path / "nope.ckpt")
    with pytest.raises(FileNotFoundError):
        stm.load(tmp_path)


def test_a_fingerprint_tells_contents_apart(tmp_path: Path) -> None:
    one, other = save(tmp_path / "a.ckpt"), save(tmp_path / "b.ckpt", seed=1)
    assert fingerprint(one) == fingerprint(str(one))
    assert fingerprint(one).startswith("a.ckpt sha256:")
    assert fingerprint(one).split(":")[1] != fingerprint(other).split(":")[1]
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(one.read_bytes())
    assert fingerprint(copy).split(":")[1] == fingerprint(one).split(":")[1]


def test_where_a_run_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert find_resume_checkpoint(None, run) is None
    assert find_resume_checkpoint("auto", run) is None
    (run / "checkpoints").mkdir(parents=True)
    last = save(run / "checkpoints" / "last.ckpt")
    assert find_resume_checkpoint("auto", run) == last
    with pytest.raises(ValueError, match=r"run already holds a run: .*resume=auto.* name=NEW_NAME"):
        find_resume_checkpoint(None, run)
    other = save(tmp_path / "other.ckpt")
    assert find_resume_checkpoint(str(other), tmp_path / "new") == other
    with pytest.raises(
        FileNotFoundError, match=r"resume=nope\.ckpt: must be auto or the path .* no such file"
    ):
        find_resume_checkpoint("nope.ckpt", run)
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"resume=auto: must be a complete .*last\.ckpt is truncated"):
        find_resume_checkpoint("auto", run)


def test_the_trainer_takes_the_processes_that_a_launcher_started(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OmegaConf.load(CONF / "trainer" / "auto.yaml")
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # Lightning sets it for the whole process
    assert process_setup.build_trainer(config).world_size == 1
    torchrun = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    address = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "x",
    }
    for name, value in {**torchrun, **address}.items():
        monkeypatch.setenv(name, value)
    trainer = process_setup.build_trainer(config, timeout_hours=24)
    assert (trainer.world_size, trainer.num_nodes, trainer.global_rank) == (4, 2, 1)
    assert vars(trainer.strategy)["_timeout"] == timedelta(hours=24)


@pytest.mark.parametrize("per_node", [None, "2"])
def test_srun_must_start_equally_many_tasks_on_each_node(
    monkeypatch: pytest.MonkeyPatch, per_node: str | None
) -> None:
    """Three tasks on two nodes, for which Lightning has no setting."""
    monkeypatch.delenv("RANK", raising=False)
    for name, value in {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "3"}.items():
        monkeypatch.setenv(name, value)
    if per_node:
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", per_node)
    config = OmegaConf.load(CONF / "trainer" / "auto.yaml")
    with pytest.raises(ValueError, match="srun started 3 tasks: must be the same number on each node"):
        process_setup.build_trainer(config)


def test_a_run_begins_with_anothers_weights(tmp_path: Path) -> None:
    path = save(tmp_path / "stills.ckpt", seed=7)
    config = OmegaConf.create({"init": str(path), "network": {**CONFIG["network"], "pretrained": True}})
    network = training_run.build_network(config)
    assert_same_weights(network, small.network(7))
    config.network.key_channels = 12
    with pytest.raises(ValueError, match=r"must hold .* has key_channels=8; got key_channels=12$"):
        training_run.build_network(config)


OTHER_MEANING = {
    "similarity": "l2",
    "key_input": "image",
    "read_stride": 8,
    "norm": "frozen",
    "other_objects_channel": True,
    "memory_backbone": "tiny",
    "value_fusion": "cbam",
    "decoder": "stcn",
    "sensory_channels": 4,
    "border": "mean",
    "mask_merging": "aggregate",
}


@pytest.mark.parametrize("key", OTHER_MEANING)
def test_weights_of_a_network_with_other_arguments_are_refused(tmp_path: Path, key: str) -> None:
    path = small.save(tmp_path / "stills.ckpt", **{key: OTHER_MEANING[key]})
    config = OmegaConf.create({"init": str(path), "network": CONFIG["network"]})
    with pytest.raises(ValueError, match=rf"has {key}={OTHER_MEANING[key]}; got {key}=\w+$") as error:
        training_run.build_network(config)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)
    config.network[key] = OTHER_MEANING[key]
    training_run.build_network(config)


def test_every_argument_of_a_network_is_compared_but_those_of_the_initialization() -> None:
    initial = {"pretrained", "tie_encoders", "mask_gain"}
    assert small.network().arguments.keys() == inspect.signature(STM).parameters.keys() - initial


def test_the_process_settles() -> None:
    threads = torch.get_num_threads()
    try:
        process_setup.setup_process(1, seed=3)
        one = torch.rand(3)
        assert torch.get_num_threads() == 1
        assert torch.tensor([1e-40]).mul(1.0).item() == 0, "denormal numbers are flushed"
        process_setup.setup_process(None, seed=3)
        assert torch.equal(one, torch.rand(3))
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def test_fine_tuning_takes_the_network_of_its_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.ckpt", seed=7)
    strip(path, tmp_path / "calibrated.pth", score_exponent=2.0)
    config = OmegaConf.create(
        {
            "init": str(tmp_path / "calibrated.pth"),
            "network": {"_target_": "stm.network.STM", "backbone": "resnet50"},
        }
    )
    adopted = training_run.build_network(training_run.with_network_of(config.init, config))
    assert_same_weights(adopted, small.network(7))
    assert adopted.score_exponent == 1, "it was fitted for the weights before"
    assert config.network.backbone == "resnet50"
    with pytest.raises(ValueError, match="init=null: must be a checkpoint with init_network=true"):
        training_run.with_network_of(None, config)


@pytest.mark.slow
def test_fine_tuning_on_a_folder_with_sparse_masks(tmp_path: Path) -> None:
    masks = [boxes({1: (8, 8, 24, 24)}) if t % 3 == 0 else None for t in range(12)]
    write_video(tmp_path / "mine", "clip", masks)
    path = save(tmp_path / "init.ckpt")
    folders = (f"data.root={tmp_path / 'mine'}", f"benchmark.root={tmp_path / 'mine'}")
    small_run = (
        "steps=2",
        "data.crop=48",
        "data.num_workers=0",
        "threads=1",
        "name=tuned",
    )
    settings = ("experiment=finetune", f"init={path}", *folders, *small_run)
    succeed("train.py", *settings, folder=tmp_path)
    stored = torch.load(tmp_path / "runs" / "tuned" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["config"]["network"]["backbone"] == "micro"
    name = "network.decoder.predict.weight"
    before = torch.load(path, weights_only=True)["state_dict"][name]
    assert not torch.equal(stored["state_dict"][name], before)
    path.unlink()  # the run's own checkpoint has the network
    succeed("train.py", *settings, "resume=auto", "steps=3", folder=tmp_path)
