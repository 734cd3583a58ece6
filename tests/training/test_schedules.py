"""The schedule with warm-up: its rates step by step, and that all parameter groups rise and fall together."""

import pytest
import torch
from helpers.composing import composed
from hydra.utils import instantiate
from torch.optim.lr_scheduler import OneCycleLR

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


@pytest.mark.parametrize("warmup", [2, 3 / 7])
def test_rates_rise_then_fall_linearly(warmup: float) -> None:
    main = [rate for rate, _ in rates(7, warmup=warmup, final=0.2)]
    assert main == pytest.approx([1 / 3, 2 / 3, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_rates_of_a_share_are_those_of_torch() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    theirs = OneCycleLR(optimizer, 1.0, 250, pct_start=0.03, anneal_strategy="linear", final_div_factor=4)
    for main, _ in rates(250, warmup=0.03, start=0.04, final=0.01):
        assert main == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("experiment", "total"),
    [("finetune", 300), ("mobile_stills", 1300), ("mobile_video", 700), ("mobile_long", 300)],
)
def test_rates_of_experiments(experiment: str, total: int) -> None:
    """Twenty steps up in equal increments, then down to a twentieth of the peak."""
    required = ["init=x", "data.root=x", "benchmark.root=x"] if experiment == "finetune" else []
    with composed(f"experiment={experiment}", *required) as config:
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = instantiate(config.scheduler)(optimizer)
    for step in range(total):
        falling = 1 - 0.95 * (step - 20) / (total - 21)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(min((step + 1) / 21, falling), rel=1e-12)
        optimizer.step()
        schedule.step()


def test_groups_keep_their_ratio() -> None:
    for main, trunk in rates(20, warmup=5):
        assert trunk == pytest.approx(0.1 * main)


def test_a_short_run_has_no_warm_up() -> None:
    assert [rate for rate, _ in rates(3, warmup=0.03, start=0.04)] == pytest.approx([1, 0.505, 0.01])


@pytest.mark.parametrize("arguments", [{"warmup": 20}, {"warmup": -1}, {"start": -1.0}, {"final": 2.0}])
def test_values_out_of_range_are_named(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"scheduler.{next(iter(arguments))}"):
        rates(20, **arguments)
