"""Learning rate schedules that scale the rate of each parameter group alike."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_linear(
    optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, final: float = 0.01
) -> LambdaLR:
    """Return a schedule that rises in the first steps and falls linearly over the rest.

    Args:
        optimizer: The optimizer; the rates of its parameter groups are those at the peak.
        total_steps: Steps of the run.
        warmup_steps: Steps until the peak.
        final: Rate of the last step, relative to the peak.

    Raises:
        ValueError: The warm-up takes the whole run, or `final` is not in 0..1.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"scheduler.warmup_steps={warmup_steps}: must be in 0..{total_steps - 1}, below total_steps; "
            "a shorter run needs a shorter warm-up"
        )
    if not 0 <= final <= 1:
        raise ValueError(f"scheduler.final={final}: must be in 0..1, relative to the peak")

    def factor(step: int) -> float:
        rising = (step + 1) / (warmup_steps + 1)
        done = max(0, step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
        return min(rising, 1 - (1 - final) * min(1.0, done))

    return LambdaLR(optimizer, factor)
