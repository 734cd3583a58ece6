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
from stm.evaluation.evaluator_files import evaluator_files
from stm.evaluation.protocols import Protocol
from stm.evaluation.scores import COPY_FIRST, MEASURES, Scores, overall, protocol_of

HEADINGS = ["J", "F", "J&F"]
"""Columns of a table without ground truth."""


def print_scores(scores: Scores, console: Console | None = None) -> None:
    """Print the measures of each sequence and overall, with the copy-first baseline, and the notes below."""
    console = console or Console()
    console.print(headline(scores.settings), soft_wrap=True, highlight=False)
    console.print(score_table(scores))
    for line in notes(scores):
        console.print(line, soft_wrap=True, highlight=False)


def score_table(scores: Scores) -> Table:
    """Return a table with the mean over objects of each sequence, and over all objects at the end."""
    table, protocol = Table(), _protocol(scores)
    headings = list(protocol.column_values(scores.overall)) or HEADINGS
    headline = protocol.headline_heading

    def cells(objects: int, values: Mapping[str, float], copied: Mapping[str, float]) -> list[str]:
        measures = protocol.column_values(values)
        shown = [measures.get(heading) for heading in headings]
        shown.append(protocol.column_values(copied).get(headline))
        return [str(objects), *("-" if value is None else f"{value:.3f}" for value in shown)]

    table.add_column("sequence", no_wrap=True)
    for heading in ("objects", *headings, f"{COPY_FIRST}\n{headline}"):
        table.add_column(heading, justify="right", overflow="fold")  # instead of cutting J&Fdot_d
    for sequence in scores.sequences:
        copied = overall(sequence.baselines.get(COPY_FIRST, ()), is_part=True)
        values = overall(sequence.objects, is_part=True)
        table.add_row(sequence.name, *cells(len(sequence.objects), values, copied))
    table.add_section()
    copied = scores.baselines.get(COPY_FIRST, {})
    table.add_row("all objects", *cells(len(scores.objects), scores.overall, copied), style="bold")
    return table


def _protocol(scores: Scores) -> Protocol:
    return protocol_of(scores.settings.get("protocol"))


def headline(settings: Mapping[str, Any]) -> str:
    """Return the benchmark, and the masks of another program or the resolution and memory of a network."""
    if "masks" in settings:
        return f"{settings.get('benchmark')}: {settings['masks']}"
    averaged = settings.get("augmentation") or {"flip": False, "sizes": [], "networks": []}
    sizes = averaged["sizes"] or [settings.get("size")]
    resolution = f"short side{'s' * (len(sizes) > 1)} {', '.join(map(str, sizes))}"
    resolution = "the frames' own size" if sizes == [None] else resolution
    parts = [f"{len(sizes)} sizes"] if len(sizes) > 1 else []
    parts += ["the video and its mirror image"] if averaged["flip"] else []
    parts += [f"{1 + len(averaged['networks'])} networks"] if averaged["networks"] else []
    mean = f"; mean over {', '.join(parts)}" if parts else ""
    policy = describe_policy(settings.get("policy"))
    return f"{settings.get('benchmark')} at {resolution}; memory: {policy}{mean}"


def describe_policy(policy: Any) -> str:
    """Return the effective settings of a policy, such as `first, previous, every=5, max_frames=6`."""
    if not isinstance(policy, Mapping):
        return str(policy)
    bounded = policy.get("max_frames") or policy.get("max_mb")
    unused = set() if bounded else {"eviction", "decay"}
    if not policy.get("long_term"):
        unused |= {"num_prototypes", "min_working_frames", "max_working_frames"}
    values = {
        k: value for k, value in policy.items() if value not in (None, False, 0, "start") and k not in unused
    }
    return ", ".join(key if value is True else f"{key}={value}" for key, value in values.items())


def notes(scores: Scores) -> list[str]:
    """Return the lines below the table: recall, decay, G, baselines, calibration, speed, memory, paths."""
    values, lines, protocol = scores.overall, [], _protocol(scores)
    if not values:
        lines.append("no ground truth beyond the given masks: masks are written but not scored")
    others = {name: value for name, value in values.items() if name not in protocol.columns.values()}
    corrected = {name for name in others if "_corrected" in name}
    for group in (MEASURES, others.keys() - corrected - set(MEASURES), corrected):
        named = [f"{name} {value / protocol.scale:.3f}" for name, value in others.items() if name in group]
        lines += ["  ".join(named)] if named else []
    for name, baseline in scores.baselines.items():
        measures = protocol.column_values(baseline)
        if measures:
            named = [f"{protocol.columns[heading]} {value:.3f}" for heading, value in measures.items()]
            lines.append(f"{name}: " + "  ".join(named))
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
    """Return the content of `scores.json`: measures of the evaluator, videos, and a row for each object."""
    empty = dict.fromkeys(MEASURES)  # null without ground truth
    return {
        "global": _without_nan(scores.overall or empty),
        "baselines": {name: _without_nan(values or empty) for name, values in scores.baselines.items()},
        "videos": [sequence.name for sequence in scores.sequences],
        "sequences": [_without_nan(row.row()) for row in scores.objects],
        "calibration": {kind: calibration_dict(scores, kind) for kind in KINDS},
        "settings": dict(scores.settings),
        "speed": {
            "frames": sum(sequence.segmented for sequence in scores.sequences),
            "seconds": sum(sequence.seconds for sequence in scores.sequences),
            "frames_per_second": scores.frames_per_second,
            "peak_memory_mb": scores.peak_mb,
        },
    }


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with None, which JSON has, in place of nan."""
    return {name: None if value != value else value for name, value in values.items()}


def calibration_dict(scores: Scores, kind: str) -> dict[str, Any] | None:
    """Return the calibration of a confidence (`inside` or `score`) against J; None without ground truth."""
    pairs = [pair for sequence in scores.sequences for pair in sequence.confidence_and_j(kind)]
    result = calibration(*zip(*pairs, strict=True)) if pairs else None
    return None if result is None else result.to_dict()


def write_scores(scores: Scores, output: Path) -> None:
    """Write `scores.json`, `scores.csv` with a row for each object and the means, and `evaluator_files`."""
    write_atomically(output / "scores.json", json.dumps(scores_dict(scores), indent=1))
    text, rows = io.StringIO(), [_without_nan(row.row()) for row in scores.objects]
    heads = dict.fromkeys(head for row in rows for head in row)
    heads = heads or dict.fromkeys(("sequence", "object", "category", "frames", *MEASURES))
    writer = csv.DictWriter(text, list(heads), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    for name, values in {"all objects": scores.overall, **scores.baselines}.items():
        writer.writerow({"sequence": name, **_without_nan(values)})
    write_atomically(output / "scores.csv", text.getvalue())
    for name, content in evaluator_files(scores).items():
        write_atomically(output / name, content)
