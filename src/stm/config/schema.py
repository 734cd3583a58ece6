"""The schema of the two entry points' configuration.

The groups under `conf/` hold the arguments of the objects they build; there, the objects' signatures are the
schema.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

_PACKAGED = Path(__file__).parents[1] / "conf"
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "conf"
"""The groups' files: inside the package in a wheel, at the top of a checkout."""
PLAN = "jobs.json"
"""The list of a sweep's jobs, in the sweep's folder."""
JOB = "job.json"
"""How a job ended, in the job's folder."""


@dataclass
class TrainConfig:
    """Configuration of a training.

    Attributes:
        name: Folder of the run below `output_root`; a fixed one is needed to resume.
        output_root: Folder of all runs.
        seed: Seed of the clips and of the network's first weights.
        steps: Optimizer steps of the whole run.
        batch_size: Clips in a batch, over all devices.
        validate_every: Optimizer steps between two validations on whole videos.
        save_every: Optimizer steps between two checkpoints `last.ckpt`.
        monitor: Validation metric that selects `best.ckpt`; null for the headline measure of `benchmark`.
        init: Checkpoint with the initial weights, such as the pre-training's.
        init_network: Take the network's arguments from `init`, too, instead of from `network` and `backbone`.
        resume: 'auto' continues from the last checkpoint in the run's folder, a path from that checkpoint.
        threads: CPU threads of torch; null keeps torch's default.
        trunk_lr: Learning rate of the trunks, relative to `optimizer.lr`; 0 freezes them.
        frozen_stages: Stages of the trunks that are frozen: 0 for none, 1 to 3 (the whole trunk).
        decay_norms: Apply `optimizer.weight_decay` to biases and norms, too.
        mask_disturbance: What is done to predicted masks before training memorizes them; null for nothing.
        checkpoint_activations: Recompute the encoders' activations for gradients: less memory, more time.
        compile: Fuse the network with torch.compile, which takes minutes at the start.
        channels_last: Train in channels-last layout: equal up to rounding, faster for small networks on CPUs.
        final_benchmark: Benchmark keys that differ in the final evaluation; null skips that evaluation.
        extra_benchmarks: Further benchmarks of the final evaluation, by name.
        final_policies: Memory policies of the final evaluation, by name; without any, `memory` alone.
    """

    name: str = MISSING
    output_root: str = "runs"
    seed: int = 1
    steps: int = MISSING
    batch_size: int = 4
    validate_every: int = 1000
    save_every: int = 500
    monitor: str | None = None
    init: str | None = None
    init_network: bool = False
    resume: str | None = None
    threads: int | None = None
    trunk_lr: float = 1.0
    frozen_stages: int = 0
    decay_norms: bool = False
    checkpoint_activations: bool = False
    compile: bool = False
    channels_last: bool = False
    final_benchmark: dict[str, Any] | None = field(default_factory=dict)
    extra_benchmarks: dict[str, Any] | None = field(default_factory=dict)
    final_policies: dict[str, Any] | None = field(default_factory=dict)
    backbone: Any = MISSING
    network: Any = MISSING
    memory: Any = MISSING
    loss: Any = MISSING
    mask_disturbance: Any = None
    data: Any = MISSING
    benchmark: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    trainer: Any = MISSING
    launcher: Any = None
    logger: Any = None
    callbacks: Any = None


@dataclass
class EvaluateConfig:
    """Configuration of an evaluation.

    Attributes:
        checkpoint: A checkpoint of this package, or a published one.
        name: Folder of the evaluation below `output_root`; the same name continues an interrupted evaluation.
        output_root: Folder of all evaluations.
        compile: Fuse the network with torch.compile, which takes about a minute at the start.
        threads: CPU threads of torch; null keeps torch's default.
        memory_plan: Print what the memory will hold for each video, and stop.
        reuse: keep finished videos of an earlier run with the same data and settings; false evaluates anew.
        tta: 'flip' averages the probabilities with those of the mirrored video.
        sizes: Short sides of the frames over which probabilities are averaged; null for `benchmark.size`.
        ensemble: Further checkpoints, with whose networks probabilities are averaged.
        overlays: Write an overlay image of each sequence.
        video: Write an mp4 of each sequence.
        submission: 'davis', 'mose', 'lvos' or 'youtube' to zip the masks in that server's layout.
    """

    checkpoint: str = MISSING
    name: str = MISSING
    output_root: str = "runs/evaluate"
    compile: bool = False
    threads: int | None = None
    memory_plan: bool = False
    reuse: bool = True
    tta: str | None = None
    sizes: list[int] | None = None
    ensemble: list[str] = field(default_factory=list)
    overlays: bool = True
    video: bool = False
    submission: str | None = None
    memory: Any = MISSING
    benchmark: Any = MISSING
    trainer: Any = MISSING
    launcher: Any = None
    logger: Any = None


_train_schema = OmegaConf.structured(TrainConfig)
# Hydra allows new keys without `+` only in a mapping that is open by itself; the benchmark validates them.
OmegaConf.set_struct(_train_schema.final_benchmark, False)
ConfigStore.instance().store(name="train_schema", node=_train_schema)
ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
