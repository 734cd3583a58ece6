"""Tables in the form of the evaluators that descend from DAVIS's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def three_digits(columns: Mapping[str, Iterable[str | float]]) -> str:
    """Return columns as CSV, numbers with three digits, nothing for nan."""
    rows = [",".join(columns)]
    for row in zip(*columns.values(), strict=True):
        rows.append(",".join(map(_cell, row)))
    return "\n".join(rows) + "\n"


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if value != value else f"{value:.3f}"
