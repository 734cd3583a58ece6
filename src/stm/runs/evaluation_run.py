"""Evaluation as a configuration describes it: load a checkpoint, score it, write the results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch.utils.data import DataLoader

from stm.config.memory_policies import parse_policy
from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.memory_plan import plan_memory, print_memory_plan
from stm.evaluation.scores import Scores
from stm.evaluation.submission import LAYOUTS, write_submission
from stm.evaluation.tables import print_scores
from stm.inference.ensemble import Augmentation
from stm.memory import MemoryPolicy
from stm.network import STM, compiled, fingerprint, for_inference, load
from stm.runs.argument_types import check_argument_types
from stm.runs.process_setup import build_trainer, selected_groups, setup_process
from stm.sweeps.finished_jobs import Score, headline_score
from stm.training.distributed import manage_ddp_processes
from stm.training.loggers import log_scores, logging_session
from stm.training.preemption import exit_on_signals

log = logging.getLogger(__name__)


class EvaluationModule(L.LightningModule):
    """Runs an evaluation as one prediction step, so that Lightning places processes, device and precision.

    Args:
        network: the network to evaluate.
        run: network on its device -> scores.
    """

    def __init__(self, network: STM, run: Callable[[STM], Scores]) -> None:
        super().__init__()
        self.network, self.run = network.requires_grad_(False), run
        self.scores: Scores | None = None

    def on_predict_start(self) -> None:
        """Replace Lightning's handler of SIGTERM, which only takes effect in training."""
        exit_on_signals()

    def predict_step(self, batch: Any, batch_idx: int = 0) -> Scores:
        """Evaluate this process's videos and return the scores of all videos."""
        self.scores = self.run(self.network)
        return self.scores


def test_time_augmentation(config: DictConfig, network: STM) -> Augmentation | None:
    """Return what the configuration averages at test time; None for the network alone.

    Raises:
        ValueError: an unknown value of `tta`, or a size below 1.
    """
    if config.tta not in (None, "flip"):
        raise ValueError(f"tta={config.tta}: must be flip or null")
    if config.sizes is not None and (not config.sizes or min(config.sizes) < 1):
        raise ValueError(f"sizes={list(config.sizes)}: must be short sides of at least 1 pixel, or null")
    if not (config.tta or config.sizes or config.ensemble):
        return None
    further = tuple(for_inference(load(path).to(network.mean.device)) for path in config.ensemble)
    names = tuple(fingerprint(path) for path in config.ensemble)
    return Augmentation(config.tta == "flip", tuple(config.sizes) if config.sizes else None, further, names)


def log_authors_policy(network: STM, policy: MemoryPolicy) -> None:
    """Log the memory policy that the authors of published weights evaluate with, if this run has another."""
    if network.policy in (None, policy):
        return
    names = ("every_5", "mask_propagation", "stcn", "xmem")
    name = next((name for name in names if parse_policy(name) == network.policy), None)
    if name:
        log.info("the authors of these weights evaluate with memory=%s, which is not this run's policy", name)


def evaluate_run(config: DictConfig) -> Score | None:
    """Evaluate a checkpoint as the configuration says.

    Returns:
        The benchmark's headline measure, 0..1; None where there is no ground truth.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.submission not in (None, *LAYOUTS):
        raise ValueError(f"submission={config.submission}: must be {' or '.join(LAYOUTS)}")
    check_argument_types(config)
    setup_process(config.threads)
    network = load(config.checkpoint)
    policy: MemoryPolicy = instantiate(config.memory)
    log_authors_policy(network, policy)
    benchmark: Benchmark = instantiate(config.benchmark)
    trainer = build_trainer(
        config.trainer,
        timeout_hours=24,  # ranks with short videos wait for those with long ones
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    if config.memory_plan:
        if trainer.is_global_zero:
            itemsize = 2 if "16" in trainer.precision else 8 if "64" in trainer.precision else 4
            plan = plan_memory(network, policy, benchmark, itemsize)
            print_memory_plan(plan, policy, trainer.strategy.root_device)
        return None

    def run(network: STM) -> Scores:
        return evaluate(
            compiled(network) if config.compile else for_inference(network),  # once for all videos
            policy,
            benchmark,
            folder,
            checkpoint=fingerprint(config.checkpoint),
            overlays=config.overlays,
            video=config.video,
            distributed=True,
            reuse=config.reuse,
            augmentation=test_time_augmentation(config, network),
        )

    module = EvaluationModule(network, run)
    loggers = [instantiate(logger) for logger in (config.logger or {}).values() if trainer.is_global_zero]
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    with logging_session(loggers, selected_groups(), plain), manage_ddp_processes(trainer) as done:
        once: Any = [0]  # one step: the videos are dealt out inside
        try:
            trainer.predict(module, DataLoader(once, batch_size=None), return_predictions=False)
        except SystemExit:  # a signal
            log.warning("finished videos are kept, and the same command resumes")
            raise
        done()
        assert module.scores is not None
        log_scores(loggers, "test", module.scores)
    if trainer.is_global_zero:
        print_scores(module.scores)
        if config.submission:
            archive = folder / f"{config.submission}.zip"
            write_submission(folder / "masks", benchmark.videos, archive, config.submission)
            Console().print(f"submission: {archive}")
    return headline_score(module.scores)
