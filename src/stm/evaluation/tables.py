"""Scores as a printed table, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stm.atomic_io import write_atomically
from stm.evaluation.calibration import KINDS, calibration
from stm.evaluation.scores import COPY_FIRST, MEASURES, Scores, overall

HEADLINE_MEASURES = ("J-Mean", "F-Mean", "J&F-Mean")


def print_scores(scores: Scores, console: Console | None = None) -> None:
    """Print J, F and J&F of each sequence and overall, with the copy-first baseline, and the notes below."""
    console = console or Console()
    console.print(_headline(scores), soft_wrap=True, highlight=False)
    console.print(score_table(scores))
    for line in notes(scores):
        console.print(line, soft_wrap=True, highlight=False)


def score_table(scores: Scores) -> Table:
    """Return a table with the mean over objects of each sequence, and over all objects at the end."""
    table = Table()
    table.add_column("sequence", no_wrap=True)
    for heading in ("objects", "J", "F", "J&F", f"{COPY_FIRST} J&F"):
        table.add_column(heading, justify="right")
    for sequence in scores.sequences:
        copied = overall(sequence.baselines.get(COPY_FIRST, ()))
        table.add_row(sequence.name, *_cells(len(sequence.objects), overall(sequence.objects), copied))
    table.add_section()
    copied = scores.baselines.get(COPY_FIRST, {})
    table.add_row("all objects", *_cells(len(scores.objects), scores.overall, copied), style="bold")
    return table


def _cells(objects: int, values: Mapping[str, float], copied: Mapping[str, float]) -> list[str]:
    measures = [f"{values[name]:.3f}" if values else "-" for name in HEADLINE_MEASURES]
    return [str(objects), *measures, f"{copied['J&F-Mean']:.3f}" if copied else "-"]


def _headline(scores: Scores) -> str:
    settings = scores.settings
    size = settings.get("size")
    resolution = "the frames' own size" if size is None else f"short side {size}"
    return f"{settings.get('benchmark')} at {resolution}; memory: {describe_policy(settings.get('policy'))}"


def describe_policy(policy: Any) -> str:
    """Return the effective settings of a policy, such as `first, previous, every=5, max_frames=6`."""
    if not isinstance(policy, Mapping):
        return str(policy)
    bounded = policy.get("max_frames") or policy.get("max_mb")
    unused = () if bounded else ("eviction", "decay")
    values = {
        key: value for key, value in policy.items() if value not in (None, False, 0) and key not in unused
    }
    return ", ".join(key if value is True else f"{key}={value}" for key, value in values.items())


def notes(scores: Scores) -> list[str]:
    """Return the lines below the table: recall, decay, G, baselines, calibration, speed, memory, paths."""
    values, lines = scores.overall, []
    if values:
        names = ("J-Recall", "J-Decay", "F-Recall", "F-Decay")
        lines.append("  ".join(f"{name} {values[name]:.3f}" for name in names))
    else:
        lines.append("no ground truth beyond the given masks: masks are written but not scored")
    halves = {name: value for name, value in values.items() if name not in MEASURES}
    if halves:
        lines.append("  ".join(f"{name} {value:.3f}" for name, value in halves.items()))
    for name, baseline in scores.baselines.items():
        if baseline:
            measures = "  ".join(f"{key} {baseline[key]:.3f}" for key in HEADLINE_MEASURES)
            lines.append(f"{name}: {measures}")
    calibrations = {kind: result for kind in reversed(KINDS) if (result := calibration_dict(scores, kind))}
    if calibrations:
        errors = "  ".join(f"{kind} {result['ece']:.3f}" for kind, result in calibrations.items())
        lines.append(f"calibration error of the confidence (ECE): {errors}")
    if scores.frames_per_second:  # not where masks of another program are scored
        lines.append(f"{scores.frames_per_second:.1f} frames/s, peak memory {scores.peak_mb:.0f} MB")
    if scores.output is not None:
        lines.append(f"masks     {scores.output / 'masks'}")
        if (scores.output / "overlays").exists():
            lines.append(f"overlays  {scores.output / 'overlays'}")
        lines.append(f"scores    {scores.output / 'scores.csv'}, {scores.output / 'scores.json'}")
    return lines


def scores_dict(scores: Scores) -> dict[str, Any]:
    """Return the content of `scores.json`: measures under their DAVIS names, and a row for each object."""
    empty = dict.fromkeys(MEASURES)  # null without ground truth
    return {
        "global": scores.overall or empty,
        "baselines": {name: values or empty for name, values in scores.baselines.items()},
        "sequences": [row.row() for row in scores.objects],
        "calibration": {kind: calibration_dict(scores, kind) for kind in KINDS},
        "settings": dict(scores.settings),
        "speed": {
            "frames": sum(sequence.segmented for sequence in scores.sequences),
            "seconds": sum(sequence.seconds for sequence in scores.sequences),
            "frames_per_second": scores.frames_per_second,
            "peak_memory_mb": scores.peak_mb,
        },
    }


def calibration_dict(scores: Scores, kind: str) -> dict[str, Any] | None:
    """Return the calibration of a confidence (`inside` or `score`) against J; None without ground truth."""
    pairs = [pair for sequence in scores.sequences for pair in sequence.confidence_and_j(kind)]
    result = calibration(*zip(*pairs, strict=True)) if pairs else None
    return None if result is None else result.to_dict()


def write_scores(scores: Scores, output: Path) -> None:
    """Write `scores.json` and `scores.csv`; the CSV has a row for each object, and the means at the end."""
    write_atomically(output / "scores.json", json.dumps(scores_dict(scores), indent=1))
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["sequence", "object", "category", "frames", *MEASURES], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(row.row() for row in scores.objects)
    for name, values in {"all objects": scores.overall, **scores.baselines}.items():
        writer.writerow({"sequence": name, **{key: values[key] for key in MEASURES if key in values}})
    write_atomically(output / "scores.csv", text.getvalue())
