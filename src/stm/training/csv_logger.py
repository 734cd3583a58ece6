"""A logger that writes a CSV file line by line."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from stm.atomic_io import atomic_path


class CSVLogger(Logger):
    """Writes `logs/metrics.csv` in the run's folder, one line per call, immediately.

    A resumed run appends to its earlier lines, without those of steps that it repeats; Lightning's CSVLogger
    deletes the file.

    Args:
        directory: Folder of the run.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__()
        self.file = Path(directory) / "logs" / "metrics.csv"
        self._columns: list[str] | None = None

    name = "csv"
    version = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a line."""
        row = {"step": "" if step is None else step, **metrics}
        if self._columns is None or not row.keys() <= set(self._columns):
            self._rewrite(row, None if self._columns else step)
        assert self._columns is not None
        with self.file.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration is in the run's folder and in every checkpoint."""

    def _rewrite(self, row: Mapping[str, Any], first_repeated: int | None) -> None:
        """Add the row's columns to the file, and remove its lines from step `first_repeated` on."""
        lines: list[dict[str, str]] = []
        if self.file.exists():
            with self.file.open(newline="") as file:
                lines = [line for line in csv.DictReader(file) if None not in line.values()]
        if first_repeated is not None:
            lines = [line for line in lines if line["step"] and int(line["step"]) < first_repeated]
        names = {name for line in lines for name in line} | row.keys()
        self._columns = ["step", *sorted(names - {"step"})]
        with atomic_path(self.file) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(lines)
