"""Learning rate schedules that scale the rate of each parameter group alike."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_linear(
    optimizer: Optimizer,
    total_steps: int,
    warmup: float = 0.03,
    start: float | None = None,
    final: float = 0.01,
) -> LambdaLR:
    """Return a schedule that rises linearly to the peak, then falls linearly over the rest.

    Args:
        optimizer: The optimizer; the rates of its parameter groups are those at the peak.
        total_steps: Steps of the run.
        warmup: Steps before the peak; or, below 1, the share of the run that ends with the peak.
        start: Rate of the first step, relative to the peak; None for 1 / (steps before the peak + 1).
        final: Rate of the last step, relative to the peak.

    Raises:
        ValueError: The warm-up takes the whole run, or a rate is not in 0..1.
    """
    if not 0 <= warmup < total_steps:
        raise ValueError(
            f"scheduler.warmup={warmup}: must be in 0..{total_steps - 1}, below total_steps; a shorter run "
            "needs a shorter warm-up, or a share of its steps, such as 0.05"
        )
    for name, rate in (("start", start), ("final", final)):
        if rate is not None and not 0 <= rate <= 1:
            raise ValueError(f"scheduler.{name}={rate}: must be in 0..1, relative to the peak")
    peak = warmup if warmup >= 1 else max(0.0, warmup * total_steps - 1)
    first = 1 / (peak + 1) if start is None else start

    def factor(step: int) -> float:
        if step < peak:
            return first + (1 - first) * step / peak
        return 1 - (1 - final) * min(1.0, (step - peak) / max(1, total_steps - 1 - peak))

    return LambdaLR(optimizer, factor)
