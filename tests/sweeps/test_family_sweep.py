"""`sweep=family` on the smallest settings: four networks, two benchmarks, four policies, one table."""

from pathlib import Path

import pytest
from helpers import commands

SMALL = (
    *("seed=1", "steps=2", "save_every=2", "batch_size=2", "data.count=4", "data.pixels=48", "threads=1"),
    *(f"{key}.count=1" for key in ("benchmark", "extra_benchmarks.plain", "extra_benchmarks.event")),
)


@pytest.mark.slow
def test_the_family_trains_and_is_scored(tmp_path: Path) -> None:
    commands.succeed("train.py", "sweep=family", *SMALL, folder=tmp_path)
    table = (tmp_path / "runs" / "family" / "table.md").read_text()
    for name in ("tiny_stm", "tiny_mask_propagation", "tiny_stcn", "tiny_xmem"):
        for kind in ("plain", "event"):
            for policy in ("every_5", "mask_propagation", "stcn", "xmem"):
                assert f"| {name} | synthetic-{kind}-test {policy} |" in " ".join(table.split())
