"""The linear schedule: the rates of all parameter groups rise and fall together."""

import pytest
import torch

from stm.training.schedules import warmup_linear


def rates(total: int, **arguments: float) -> list[list[float]]:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.Adam([{"params": weights[:1]}, {"params": weights[1:], "lr": 0.1}], lr=1.0)
    schedule = warmup_linear(optimizer, total, **arguments)
    result = []
    for _ in range(total):
        result.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return result


def test_rates_rise_then_fall_linearly() -> None:
    main = [rate for rate, _ in rates(7, warmup_steps=2, final=0.2)]
    assert main == pytest.approx([1 / 3, 2 / 3, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_groups_keep_their_ratio() -> None:
    for main, trunk in rates(20, warmup_steps=5):
        assert trunk == pytest.approx(0.1 * main)


@pytest.mark.parametrize("arguments", [{"warmup_steps": 20}, {"warmup_steps": -1}, {"final": 2.0}])
def test_values_out_of_range_are_named(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"scheduler.{next(iter(arguments))}"):
        rates(20, **arguments)
