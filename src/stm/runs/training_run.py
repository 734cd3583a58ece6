"""Training as a configuration describes it: build the objects, fit, evaluate the best checkpoint."""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import DictConfig, OmegaConf, open_dict

from stm.config.environment import cpus
from stm.data.datamodule import ClipDataModule
from stm.data.sampling import ClipBatches
from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.scores import Scores
from stm.evaluation.sharding import all_gather_object
from stm.evaluation.tables import print_scores
from stm.memory import MemoryPolicy
from stm.network import STM, fingerprint, for_inference, load
from stm.network.arguments import CALIBRATION
from stm.runs.argument_types import check_argument_types
from stm.runs.process_setup import build_trainer, selected_groups, setup_process
from stm.runs.unread_keys import refuse_unread_keys
from stm.sweeps.finished_jobs import Score, finished_score, headline_score, is_finished
from stm.training.checkpointing import SaveLastAndBest
from stm.training.distributed import manage_ddp_processes, require_srun
from stm.training.lightning_module import STMModule
from stm.training.loggers import log_scores, logging_session
from stm.training.resume import CheckSameResumeStep, check_same_run, find_resume_checkpoint
from stm.video import Video

log = logging.getLogger(__name__)

LOWEST = {
    **dict.fromkeys(("steps", "batch_size", "validate_every", "save_every"), 1),
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": 0,
    "data.num_workers": 0,
    "trunk_lr": 0,
}
"""Key -> its lowest value, of numbers that nothing else checks."""


def train(config: DictConfig) -> Score | None:
    """Train as the configuration says, then evaluate the best checkpoint.

    Returns:
        The headline measure for sweepers: of the first final evaluation (the first of `final_policies` on
        `final_benchmark`, else on the first extra benchmark), or of the best validation where there is none.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN and is_finished(folder, config):
        log.info("%s: finished before", folder)
        return finished_score(folder)
    validate_config(config)
    checkpoint, step = find_resume_checkpoint(config.resume, folder), 0
    if config.init_network:
        config = with_network_of(checkpoint or config.init, config)
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    if checkpoint is not None:
        step = check_same_run(checkpoint, plain, folder)
        config = config.copy()
        config.init, config.network.pretrained = None, False  # the checkpoint has the weights
    setup_process(config.threads, config.seed)
    benchmark: Benchmark = instantiate(config.benchmark)
    for benchmark_config in final_benchmarks(config).values():
        instantiate(benchmark_config)  # what it lacks would show at the end of the training
    policy: MemoryPolicy = instantiate(config.memory)
    network = build_network(config)
    prepare_for_training(network, config)
    module = STMModule(
        network,
        instantiate(config.loss),
        instantiate(config.optimizer),
        instantiate(config.scheduler),
        benchmark,
        policy,
        plain,
        config.trunk_lr,
        config.frozen_stages,
        config.decay_norms,
        instantiate(config.mask_disturbance),
    )
    data = build_data(config, benchmark.videos)
    loggers = [instantiate(logger) for logger in (config.logger or {}).values()]
    callbacks = [instantiate(callback) for callback in (config.callbacks or {}).values() if callback]
    if not loggers:
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    callbacks.append(CheckSameResumeStep(checkpoint, step))
    trainer = build_trainer(
        config.trainer,
        max_steps=config.steps,
        max_epochs=1,  # the whole run is one epoch
        val_check_interval=config.validate_every * config.trainer.accumulate_grad_batches,
        check_val_every_n_epoch=None,
        logger=loggers,
        callbacks=callbacks,
        default_root_dir=folder,
    )
    ClipBatches(config.batch_size, config.steps, world_size=trainer.world_size)  # refuses a wrong size
    with logging_session(loggers, selected_groups(), plain), manage_ddp_processes(trainer) as trained:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        trained()
        result = next((best_score(saver) for saver in callbacks if isinstance(saver, SaveLastAndBest)), None)
        for number, (name, scores) in enumerate(final_evaluations(config, trainer, folder, policy)):
            log_scores(loggers, name, scores)
            if number == 0 and scores.headline is not None:
                result = headline_score(scores)
    return result


def best_score(checkpoints: SaveLastAndBest) -> Score | None:
    """Return the score of the best validation; None without one."""
    best, monitor = checkpoints.best, checkpoints.monitor
    return None if best is None else Score(best, str(monitor).removeprefix("val/"))


def validate_config(config: DictConfig) -> None:
    """Validate settings that would otherwise be ignored silently: amounts below 1, keys that nothing reads.

    Unknown arguments of an object are refused by the object itself.

    Raises:
        ValueError: an amount is below 1, or a key is unknown; the error lists the known keys.
    """
    for key, lowest in LOWEST.items():
        value = OmegaConf.select(config, key)
        if isinstance(value, int | float) and not value >= lowest:
            raise ValueError(f"{key}={value}: must be at least {lowest}")
    if config.loss is None:
        raise ValueError("loss=null: must have a value")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed={config.seed}: must be 0 or more, and less than 2**32")
    check_argument_types(config)
    refuse_unread_keys(config, "backbone")
    refuse_unread_keys(config, "data", data_arguments(config))
    require_srun(config.trainer)
    known = sorted(key for key in config.benchmark if key != "_target_")
    for key in config.final_benchmark or ():
        if key not in known:
            raise ValueError(
                f"final_benchmark.{key}: the benchmark has no such key; there are {', '.join(known)}"
            )


def final_benchmarks(config: DictConfig) -> dict[str, DictConfig]:
    """Return what is scored at the end of a training: `final_benchmark` as "test", and the extra ones."""
    extra = config.extra_benchmarks or {}
    if config.final_benchmark is None:
        return {**extra}
    return {"test": OmegaConf.merge(config.benchmark, config.final_benchmark), **extra}


def final_evaluations(
    config: DictConfig, trainer: L.Trainer, folder: Path, policy: MemoryPolicy
) -> Iterator[tuple[str, Scores]]:
    """Evaluate a run's best checkpoint, or its last if no validation picked one, and print the tables.

    All processes take part if all of them see the checkpoint; else the first one evaluates alone.

    Yields:
        The name of each benchmark, followed by `@` and the name of the policy if there are `final_policies`,
        and the scores.
    """
    benchmarks = final_benchmarks(config)
    if not benchmarks:
        return
    paths = (folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    checkpoint = next((path for path in paths if path.exists()), None)
    content = "" if checkpoint is None else fingerprint(checkpoint)
    is_shared = len(set(all_gather_object(content))) == 1
    if checkpoint is None or not (is_shared or trainer.is_global_zero):
        return
    network = for_inference(load(checkpoint).to(trainer.strategy.root_device))
    policies = {key: instantiate(keys) for key, keys in (config.final_policies or {}).items()} or {"": policy}
    for (name, benchmark_config), (label, policy) in itertools.product(benchmarks.items(), policies.items()):
        benchmark: Benchmark = instantiate(benchmark_config)
        if label:
            name, benchmark = f"{name}@{label}", replace(benchmark, name=f"{benchmark.name} {label}")
        output = folder / f"{name}_{content[-8:]}"  # a run that is trained further gets another folder
        scores = evaluate(network, policy, benchmark, output, checkpoint=content, distributed=is_shared)
        if trainer.is_global_zero:
            print_scores(scores)
        yield name, scores


def with_network_of(checkpoint: str | Path | None, config: DictConfig) -> DictConfig:
    """Return the configuration with the arguments of a checkpoint's network.

    Raises:
        ValueError: there is no checkpoint.
    """
    if checkpoint is None:
        raise ValueError(
            "init=null: must be a checkpoint with init_network=true, whose network is trained further"
        )
    config, arguments = config.copy(), load(checkpoint).arguments
    kept = {key: value for key, value in arguments.items() if key not in CALIBRATION}  # of other weights
    config.network = {"_target_": config.network._target_, "pretrained": False, **kept}
    return config


def build_network(config: DictConfig) -> STM:
    """Build the configured network, with the weights of `config.init` where that is given.

    Raises:
        ValueError: the checkpoint holds a network with other arguments; the message names them.
    """
    if config.init is None:
        return instantiate(config.network)
    network: STM = instantiate(config.network, pretrained=False)
    source = load(config.init)
    compared = network.arguments.keys() - set(CALIBRATION)
    differing = [key for key in sorted(compared) if source.arguments[key] != network.arguments[key]]
    if differing:
        theirs, ours = (
            ", ".join(f"{key}={side.arguments[key]}" for key in differing) for side in (source, network)
        )
        raise ValueError(
            f"init={config.init}: must hold a network with this run's arguments; it has {theirs}; got {ours}"
        )
    network.load_state_dict(source.state_dict())
    return network


def prepare_for_training(network: STM, config: DictConfig) -> None:
    """Set what changes speed and memory of a training step, but no result except for rounding."""
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    for encoder in (network.query_encoder, network.memory_encoder):
        encoder.trunk.recompute = config.checkpoint_activations
    for part in (network.query_encoder, network.memory_encoder, network.decoder) if config.compile else ():
        part.compile()


def build_data(config: DictConfig, validation: Sequence[Video]) -> ClipDataModule:
    """Build the configured data module, without the values that its sources share by interpolation.

    Sources of weight 0 are left out, and their files are not read.
    """
    data = config.copy().data
    OmegaConf.resolve(data)
    with open_dict(data):
        for name in [*data.get("sources", {})]:
            if OmegaConf.select(data.sources, f"{name}.weight") == 0:
                del data.sources[name]
        for key in data.keys() - data_arguments(config):
            del data[key]
    return instantiate(
        data,
        batch_size=config.batch_size,
        steps=config.steps,
        seed=config.seed,
        num_workers=min(data.num_workers, cpus()),
        validation=validation,
        _convert_="all",
    )


def data_arguments(config: DictConfig) -> set[str]:
    """Return the keys of `config.data` that configure the data module, without those that the run passes."""
    parameters = inspect.signature(get_class(config.data._target_)).parameters
    return {"_target_", *parameters} - {"batch_size", "steps", "seed", "validation"}
