"""From a configuration to objects and through a run: the only caller of Hydra's `instantiate`."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from stm import tracking
from stm.clip import Video
from stm.config import cpus
from stm.data.datamodule import ClipDataModule
from stm.data.sampling import ClipBatches, ClipDataset
from stm.evaluation.benchmark import Benchmark, evaluate
from stm.evaluation.plan import plan, print_plan
from stm.evaluation.scores import Scores
from stm.evaluation.shards import Shard
from stm.evaluation.submission import LAYOUTS, write_submission
from stm.evaluation.tables import print_scores
from stm.memory import MemoryPolicy
from stm.network import STM, compiled, fingerprint, for_inference, load
from stm.sweeps import finished_before, score_before
from stm.training.checkpoints import Checkpoints
from stm.training.module import STMModule
from stm.training.preemption import requeue_when_told_to_end
from stm.training.processes import everyones, launched, refuse_without_srun, together
from stm.training.resume import SameStart, refuse_other_run, resume_from

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float | None:
    """Train as the configuration says, then evaluate the best checkpoint.

    Returns:
        J&F of the final evaluation, or of the best validation where there is none, for sweepers.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN and finished_before(folder, config):
        log.info("%s: finished before", folder)
        return score_before(folder)
    check(config)
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    checkpoint, step = resume_from(config.resume, folder), 0
    if checkpoint is not None:
        step = refuse_other_run(checkpoint, plain)
        config = config.copy()
        config.init, config.network.pretrained = None, False  # the checkpoint has the weights
    settle(config.threads, config.seed)
    benchmark: Benchmark = instantiate(config.benchmark)
    for benchmark_config in final_benchmarks(config).values():
        instantiate(benchmark_config)  # what it lacks would show at the end of the training
    policy: MemoryPolicy = instantiate(config.memory)
    module = STMModule(
        build_network(config),
        instantiate(config.loss),
        instantiate(config.optimizer),
        instantiate(config.scheduler),
        benchmark,
        policy,
        plain,
    )
    data = build_data(config, benchmark.videos)
    loggers = [instantiate(logger) for logger in (config.logger or {}).values()]
    callbacks = [instantiate(callback) for callback in (config.callbacks or {}).values() if callback]
    callbacks.append(SameStart(checkpoint, step))
    trainer: L.Trainer = instantiate(
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
    with tracking.logged(loggers, choices(), plain), together(trainer) as trained:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        trained()
        result = next((one.best for one in callbacks if isinstance(one, Checkpoints)), None)
        for name, scores in final_evaluations(config, trainer, folder, policy):
            tracking.log_scores(loggers, name, scores)
            if name == "test" or config.test is None:
                result = scores.overall.get("J&F-Mean", result)
    return result


def check(config: DictConfig) -> None:
    """Refuse what would go unnoticed: amounts below 1, and keys that build nothing.

    Elsewhere the objects refuse arguments they do not know.

    Raises:
        ValueError: the key, and those there are.
    """
    for key in ("steps", "batch_size", "validate_every", "save_every"):
        if config[key] < 1:
            raise ValueError(f"{key}={config[key]}: must be at least 1")
    written = OmegaConf.to_yaml(config.data, resolve=False)
    used = {"sources", "workers", "distinct", *re.findall(r"\$\{(?:data)?\.(\w+)\}", written)}
    known = {"backbone": {"name", "pretrained", "norm"}, "data": used}
    known |= {f"data.sources.{name}": {"weight", "clips"} for name in config.data.sources}
    for place, names in known.items():
        for key, value in OmegaConf.select(config, place).items():
            if key not in names and value is not None:
                raise ValueError(
                    f"{place}.{key}: nothing uses this key; there are {', '.join(sorted(names))}"
                )
    refuse_without_srun(config.trainer)
    there = sorted(key for key in config.benchmark if key != "_target_")
    for key in config.test or ():
        if key not in there:
            raise ValueError(f"test.{key}: the benchmark has no such key; there are {', '.join(there)}")


def final_benchmarks(config: DictConfig) -> dict[str, DictConfig]:
    """What is scored at the end of a training: `test`, and what `also` names."""
    test = {} if config.test is None else {"test": OmegaConf.merge(config.benchmark, config.test)}
    return {**test, **(config.also or {})}


def final_evaluations(
    config: DictConfig, trainer: L.Trainer, folder: Path, policy: MemoryPolicy
) -> Iterator[tuple[str, Scores]]:
    """Evaluate a run's best checkpoint (its last where no validation picked one) and print the tables.

    All processes take their shares where all see the checkpoint; else the first one does it alone, and the
    others have no scores. They ask each other once, so that nobody waits for one that evaluates alone.

    Yields:
        The name of each benchmark, and the scores.
    """
    benchmarks = final_benchmarks(config)
    if not benchmarks:
        return
    checkpoints = folder / "checkpoints"
    there = [path for path in (checkpoints / "best.ckpt", checkpoints / "last.ckpt") if path.exists()]
    content = fingerprint(there[0]) if there else ""
    shard = Shard(trainer.global_rank, trainer.world_size) if len(set(everyones(content))) == 1 else Shard()
    if trainer.global_rank != shard.rank:
        return
    network = load(there[0]).to(pick_device("cpu" if config.trainer.accelerator == "cpu" else "auto"))
    for name, benchmark_config in benchmarks.items():
        benchmark: Benchmark = instantiate(benchmark_config)
        output = folder / f"{name}_{content[-8:]}"  # a run that trained on gets another one
        scores = evaluate(network, policy, benchmark, output, checkpoint=content, shard=shard)
        if shard.rank == 0:
            print_scores(scores)
        yield name, scores


def evaluate_checkpoint(config: DictConfig) -> float | None:
    """Evaluate a checkpoint as the configuration says; returns J&F, None where there is no truth."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.submission not in (None, *LAYOUTS):
        raise ValueError(f"submission={config.submission}: must be {' or '.join(LAYOUTS)}")
    if config.precision not in PRECISIONS:
        raise ValueError(f"precision={config.precision}: must be {', '.join(PRECISIONS)}")
    settle(config.threads)
    shard = launched(config.patience)
    device, number = pick_device(config.device), PRECISIONS[config.precision]
    network = load(config.checkpoint).to(device)
    policy: MemoryPolicy = instantiate(config.memory)
    benchmark: Benchmark = instantiate(config.benchmark)
    if config.plan:
        if shard.rank == 0:
            print_plan(plan(network, policy, benchmark, number.itemsize), policy, device)
        return None
    network = compiled(network) if config.compile else for_inference(network)  # once for all videos
    loggers = [instantiate(one) for one in (config.logger or {}).values() if shard.rank == 0]
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    with (
        tracking.logged(loggers, choices(), plain),
        torch.autocast(device.type, number, enabled=number != torch.float32),
    ):
        scores = evaluate(
            network,
            policy,
            benchmark,
            folder,
            checkpoint=fingerprint(config.checkpoint),
            overlays=config.overlays,
            video=config.video,
            shard=shard,
        )
        tracking.log_scores(loggers, "test", scores)
    if shard.rank > 0:
        return scores.overall.get("J&F-Mean")
    print_scores(scores)
    if config.submission:
        archive = write_submission(
            folder / "masks", benchmark.videos, folder / f"{config.submission}.zip", config.submission
        )
        Console().print(f"submission: {archive}")
    return scores.overall.get("J&F-Mean")


def build_network(config: DictConfig) -> STM:
    """The configured network, with the weights of `config.init` where that is given.

    Raises:
        ValueError: the checkpoint holds another network.
    """
    if config.init is None:
        return instantiate(config.network)
    network: STM = instantiate(config.network, pretrained=False)
    try:
        network.load_state_dict(load(config.init).state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"init={config.init}: it holds another network than backbone and network tell: {error}"
        ) from error
    return network


def build_data(config: DictConfig, validation: Sequence[Video]) -> ClipDataModule:
    """The configured clips, in the order of the seed."""
    sources = {name: instantiate(source.clips) for name, source in config.data.sources.items()}
    weights = {name: source.weight for name, source in config.data.sources.items()}
    dataset = ClipDataset(
        list(sources.values()),
        list(weights.values()),
        seed=config.seed,
        length=config.steps * config.trainer.accumulate_grad_batches * config.batch_size,
        distinct=config.data.distinct,
    )
    workers = min(config.data.workers, cpus())
    return ClipDataModule(dataset, config.batch_size, config.steps, workers, validation)


def settle(threads: int | None, seed: int | None = None) -> None:
    """Set what holds for the process: threads, signals, no denormal numbers, the first weights' seed."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):  # or they would say everything twice
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for affair in (
        "`isinstance\\(treespec, LeafSpec\\)`",  # Lightning's with torch
        "It is recommended to use .*sync_dist=True",  # scores that are gathered already
        "The `srun` command is available",  # on a cluster's login node
    ):
        warnings.filterwarnings("ignore", affair)
    requeue_when_told_to_end()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # a trained network's small activations are 3 times as slow without it
    if seed is not None:
        L.seed_everything(seed, workers=False, verbose=False)


def pick_device(name: str) -> torch.device:
    """'auto' is the GPU where there is one.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={name!r} is not to be had here ({error}); allowed: auto, cpu, cuda, cuda:1, ..."
        ) from error
    return device


def choices() -> dict[str, str | None]:
    """Which file of each group was chosen: what a table of runs is sorted by."""
    return {name: choice for name, choice in HydraConfig.get().runtime.choices.items() if "hydra" not in name}
