"""The schema of the two entry points' configuration.

The groups under `conf/` hold the arguments of the objects they build; there, the objects' signatures are the
schema.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

_PACKAGED = Path(__file__).parents[1] / "conf"
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "conf"
"""The groups' files: a wheel carries them in the package, a checkout has them at its top."""
PLAN, JOB = "jobs.json", "job.json"
"""What tells a sweep's jobs, in the sweep's folder; and how a job ended, in the job's."""


@dataclass
class TrainConfig:
    """What `train.py` needs.

    Attributes:
        name: the run's folder below `output_root`; give one to be able to resume.
        output_root: where runs are written.
        seed: of the clips and of the network's first weights.
        steps: optimizer steps of the whole run.
        batch_size: clips of a batch over all devices together.
        validate_every: optimizer steps between two validations on whole videos.
        save_every: optimizer steps between two checkpoints `last.ckpt`.
        monitor: the metric that picks `best.ckpt`.
        init: checkpoint whose weights the run begins with, such as the pre-training's.
        resume: 'auto' goes on with the run folder's last checkpoint, a path with that one.
        threads: CPU threads of torch; null leaves torch's choice.
        final_benchmark: benchmark keys that differ for the evaluation at the end; null leaves that evaluation out.
        extra_benchmarks: name -> a further benchmark that is scored at the end.
    """

    name: str = MISSING
    output_root: str = "runs"
    seed: int = 1
    steps: int = MISSING
    batch_size: int = 4
    validate_every: int = 1000
    save_every: int = 500
    monitor: str = "val/J&F"
    init: str | None = None
    resume: str | None = None
    threads: int | None = None
    final_benchmark: dict[str, Any] | None = field(default_factory=dict)
    extra_benchmarks: dict[str, Any] | None = None
    backbone: Any = MISSING
    network: Any = MISSING
    memory: Any = MISSING
    loss: Any = MISSING
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
    """What `evaluate.py` needs.

    Attributes:
        checkpoint: of ours, or the authors' published one.
        name: the evaluation's folder below `output_root`; the same name goes on where it was interrupted.
        output_root: where evaluations are written.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...
        precision: '32-true', or 'bf16-mixed' or '16-mixed' for GPUs that are faster in 16 bits.
        compile: fuse the network with torch.compile, which takes a minute or so at the start.
        threads: CPU threads of torch; null leaves torch's choice.
        memory_plan: print what the memory will hold in each video, and stop.
        patience: where several processes evaluate together, seconds after which one counts as dead.
        overlays: write a picture of each sequence.
        video: write an mp4 of each sequence.
        submission: 'davis', 'mose' or 'youtube' to zip the masks as that server wants them.
    """

    checkpoint: str = MISSING
    name: str = MISSING
    output_root: str = "runs/evaluate"
    device: str = "auto"
    precision: str = "32-true"
    compile: bool = False
    threads: int | None = None
    memory_plan: bool = False
    patience: float = 300.0
    overlays: bool = True
    video: bool = False
    submission: str | None = None
    memory: Any = MISSING
    benchmark: Any = MISSING
    launcher: Any = None
    logger: Any = None


ConfigStore.instance().store(name="train_schema", node=TrainConfig)
ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
