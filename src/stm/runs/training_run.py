"""Training as a configuration describes it: build the objects, fit, evaluate the best checkpoint."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from stm.config.environment import cpus
from stm.data.datamodule import ClipDataModule
from stm.data.sampling import ClipBatches, ClipDataset
from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.scores import Scores
from stm.evaluation.shards import Shard
from stm.evaluation.tables import print_scores
from stm.memory import MemoryPolicy
from stm.network import STM, fingerprint, load
from stm.runs.process_setup import pick_device, selected_groups, setup_process
from stm.sweeps.job_records import finished_score, is_finished
from stm.training.checkpointing import SaveLastAndBest
from stm.training.distributed import all_gather_object, manage_ddp_processes, refuse_without_srun
from stm.training.lightning_module import STMModule
from stm.training.loggers import log_scores, logging_session
from stm.training.resume import CheckSameResumeStep, check_same_run, find_resume_checkpoint
from stm.video import Video

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float | None:
    """Train as the configuration says, then evaluate the best checkpoint.

    Returns:
        J&F of the final evaluation, or of the best validation where there is none, for sweepers.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN and is_finished(folder, config):
        log.info("%s: finished before", folder)
        return finished_score(folder)
    validate_config(config)
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    checkpoint, step = find_resume_checkpoint(config.resume, folder), 0
    if checkpoint is not None:
        step = check_same_run(checkpoint, plain)
        config = config.copy()
        config.init, config.network.pretrained = None, False  # the checkpoint has the weights
    setup_process(config.threads, config.seed)
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
    callbacks.append(CheckSameResumeStep(checkpoint, step))
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
    with logging_session(loggers, selected_groups(), plain), manage_ddp_processes(trainer) as trained:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        trained()
        result = next((one.best for one in callbacks if isinstance(one, SaveLastAndBest)), None)
        for name, scores in final_evaluations(config, trainer, folder, policy):
            log_scores(loggers, name, scores)
            if name == "test" or config.final_benchmark is None:
                result = scores.overall.get("J&F-Mean", result)
    return result


def validate_config(config: DictConfig) -> None:
    """Refuse what would go unnoticed: amounts below 1, and keys that build nothing.

    Elsewhere the objects refuse arguments they do not know.

    Raises:
        ValueError: the key, and those there are.
    """
    for key in ("steps", "batch_size", "validate_every", "save_every"):
        if config[key] < 1:
            raise ValueError(f"{key}={config[key]}: must be at least 1")
    written = OmegaConf.to_yaml(config.data, resolve=False)
    used = {"sources", "num_workers", "num_unique_clips", *re.findall(r"\$\{(?:data)?\.(\w+)\}", written)}
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
    for key in config.final_benchmark or ():
        if key not in there:
            raise ValueError(
                f"final_benchmark.{key}: the benchmark has no such key; there are {', '.join(there)}"
            )


def final_benchmarks(config: DictConfig) -> dict[str, DictConfig]:
    """What is scored at the end of a training: `test`, and what `also` names."""
    test = (
        {}
        if config.final_benchmark is None
        else {"test": OmegaConf.merge(config.benchmark, config.final_benchmark)}
    )
    return {**test, **(config.extra_benchmarks or {})}


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
    shard = (
        Shard(trainer.global_rank, trainer.world_size)
        if len(set(all_gather_object(content))) == 1
        else Shard()
    )
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
        num_unique_clips=config.data.num_unique_clips,
    )
    workers = min(config.data.num_workers, cpus())
    return ClipDataModule(dataset, config.batch_size, config.steps, workers, validation)
