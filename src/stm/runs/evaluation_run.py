"""Evaluation as a configuration describes it: load a checkpoint, score it on a benchmark, write the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.memory_plan import plan_memory, print_memory_plan
from stm.evaluation.submission import LAYOUTS, write_submission
from stm.evaluation.tables import print_scores
from stm.memory import MemoryPolicy
from stm.network import compiled, fingerprint, for_inference, load
from stm.runs.process_setup import pick_device, selected_groups, setup_process
from stm.training.distributed import launched
from stm.training.loggers import log_scores, logging_session

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def evaluate_run(config: DictConfig) -> float | None:
    """Evaluate a checkpoint as the configuration says; returns J&F, None where there is no truth."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.submission not in (None, *LAYOUTS):
        raise ValueError(f"submission={config.submission}: must be {' or '.join(LAYOUTS)}")
    if config.precision not in PRECISIONS:
        raise ValueError(f"precision={config.precision}: must be {', '.join(PRECISIONS)}")
    setup_process(config.threads)
    shard = launched(config.patience)
    device, number = pick_device(config.device), PRECISIONS[config.precision]
    network = load(config.checkpoint).to(device)
    policy: MemoryPolicy = instantiate(config.memory)
    benchmark: Benchmark = instantiate(config.benchmark)
    if config.memory_plan:
        if shard.rank == 0:
            print_memory_plan(plan_memory(network, policy, benchmark, number.itemsize), policy, device)
        return None
    network = compiled(network) if config.compile else for_inference(network)  # once for all videos
    loggers = [instantiate(one) for one in (config.logger or {}).values() if shard.rank == 0]
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    with (
        logging_session(loggers, selected_groups(), plain),
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
        log_scores(loggers, "test", scores)
    if shard.rank > 0:
        return scores.overall.get("J&F-Mean")
    print_scores(scores)
    if config.submission:
        archive = write_submission(
            folder / "masks", benchmark.videos, folder / f"{config.submission}.zip", config.submission
        )
        Console().print(f"submission: {archive}")
    return scores.overall.get("J&F-Mean")
