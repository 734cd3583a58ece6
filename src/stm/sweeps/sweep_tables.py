"""A sweep's rows as one table: Markdown for readers, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stm.atomic_io import write_atomically
from stm.sweeps.bootstrap import Difference
from stm.sweeps.finished_jobs import read_record
from stm.sweeps.paper_numbers import TABLES
from stm.sweeps.results import COLUMNS, ECE, MEASURES, Evaluation, Row, Sweep, baseline_setting, table_rows


def markdown(sweep: Sweep) -> str:
    """Return the table as Markdown, with notes on it and the commands of the unfinished jobs."""
    rows = table_rows(sweep)
    baseline = baseline_setting(sweep)
    parts = [f"# {sweep.folder.name}", f"`{sweep.command}`"]
    if rows:
        parts.append(_table(rows, baseline))
        parts += _notes(sweep, rows)
    finished = len(sweep.jobs) - len(sweep.unfinished)
    parts.append(f"{finished} of {len(sweep.jobs)} jobs are finished.")
    if sweep.unfinished:
        parts.append("Run the same command again to finish the others, or these commands one by one:")
        for job in sweep.unfinished:
            reason = job.error.splitlines()[0] if job.error else job.status
            parts.append(f"- {job.folder.name}: {reason}\n\n      {sweep.command_of(job)}")
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row], baseline: Mapping[str, str]) -> str:
    hidden = {"J-Seen", "F-Seen", "J-Unseen", "F-Unseen"}
    measures = [name for name in COLUMNS if name not in hidden and any(row.values(name) for row in rows)]
    compared = {evaluation.compared for row in rows for evaluation in row.evaluations}
    measure = compared.pop() if len(compared) == 1 else "headline measure"
    keys, has_paper = list(rows[0].setting), any(row.paper for row in rows)
    is_repeated = any(len(row.evaluations) > 1 for row in rows)
    known = {name for row in rows for name, difference in row.run_differences.items() if difference}
    runs = [name for name in measures if name in known]
    settings = ", ".join(f"{key}={value}" for key, value in baseline.items())
    head = [*keys, "benchmark", *(["runs"] if is_repeated else []), *measures, "s/frame", "MB"]
    head += ["paper", "ours - paper"] if has_paper else []
    head += [f"{name} - {settings}" for name in (*runs, measure)] if baseline else []
    lines = []
    for row in rows:
        cells = [*map(short_value, row.setting.values()), row.benchmark]
        cells += [str(len(row.evaluations))] if is_repeated else []
        cells += [_with_spread(row, name) for name in measures]
        cells += [_number(row.mean("seconds"), 3), _number(row.mean("MB"), 0)]
        cells += list(_paper_cells(row)) if has_paper else []
        differences = [*map(row.run_differences.get, runs), row.difference]
        cells += [*map(_difference, differences)] if baseline else []
        lines.append(cells)
    return align_columns(head, lines, left=len(keys) + 1)


def short_value(value: str) -> str:
    """Return a value as a table shows it, a checkpoint of a stage as `@main` (the last) or `@main/best`."""
    if not value.startswith("@"):
        return value
    return value.replace("/checkpoints/", "/").removesuffix(".ckpt").removesuffix("/last")


def _with_spread(row: Row, measure: str) -> str:
    spread = row.spread(measure)
    return _number(row.mean(measure), 1) + ("" if spread is None else f" ± {spread:.1f}")


def _paper_cells(row: Row) -> tuple[str, str]:
    """Return the paper's numbers, and ours minus the paper's where the same videos were scored."""
    if row.paper is None:
        return "-", "-"
    values = row.paper.values
    numbers = ", ".join(
        f"{value:g} s" if name == "seconds" else f"{name} {value:.1f}" for name, value in values.items()
    )
    text = f"{row.paper.label}: {numbers}"
    if not all(evaluation.is_complete for evaluation in row.evaluations):
        return text, "-"
    differences = [
        f"{name} {mean - value:+.1f}"
        for name, value in values.items()
        if name != "seconds" and (mean := row.mean(name)) is not None
    ]
    return text, ", ".join(differences) or "-"


def _notes(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    notes = []
    if any(row.difference for row in rows):
        notes.append(
            "In brackets: the 95% interval of 10000 paired bootstrap draws of videos. "
            "A difference is significant where the interval excludes 0."
        )
    if any(len(row.evaluations) > 1 for row in rows):
        notes.append(f"± is the standard deviation over the runs ({', '.join(sweep.average_over)}).")
    table = TABLES.get(sweep.paper_table or "")
    if table is None:
        return notes
    if any(row.paper and not all(evaluation.is_complete for evaluation in row.evaluations) for row in rows):
        notes.append(
            "No difference to the paper is given where the scored videos are not those of its benchmark."
        )
    if any(row.matches is None for row in table.rows):
        names = list(dict.fromkeys(name for row in table.rows for name in row.values))
        cells = [[row.label, *(_number(row.values.get(name), None) for name in names)] for row in table.rows]
        notes.append(f"The paper's {table.title}:\n\n{align_columns(['', *names], cells, left=1)}")
    elif any(row.paper for row in rows):
        notes.append(f"The paper's numbers are those of {table.title}.")
    return [*notes, *table.notes]


def _number(value: float | None, digits: int | None) -> str:
    return "-" if value is None else f"{value:g}" if digits is None else f"{value:.{digits}f}"


def _difference(value: Difference | None) -> str:
    return "-" if value is None else f"{value.mean:+.1f} [{value.low:+.1f}, {value.high:+.1f}]"


def align_columns(head: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """Return a Markdown table whose columns line up in plain text, the first `left` of them left-aligned."""
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]

    def format_line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([format_line(head), format_line(rule), *map(format_line, lines)])


def csv_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Return a row for every job on every benchmark, without averaging over repetitions."""
    keys = list(dict.fromkeys(key for job in sweep.jobs for key in job.settings))
    known = {name for job in sweep.jobs for evaluation in job.evaluations for name in evaluation.measures}
    others = (*(name for name in COLUMNS if name not in MEASURES), *ECE.values())
    names = (*MEASURES, *(name for name in others if name in known), "seconds", "MB")
    rows = []
    for job in sweep.jobs:
        evaluations: Sequence[Evaluation | None] = job.evaluations or [None]
        for evaluation in evaluations:
            row: dict[str, Any] = {"job": job.number, "folder": str(job.folder), "status": job.status}
            row |= {key: job.settings.get(key, "") for key in keys if key != "benchmark"}
            row["benchmark"] = evaluation.benchmark if evaluation else job.settings.get("benchmark", "")
            row |= {name: evaluation.measures.get(name, "") if evaluation else "" for name in names}
            rows.append(row)
    return rows


def write_tables(sweep: Sweep) -> None:
    """Write `table.md` and `table.csv` into the sweep's folder."""
    write_atomically(sweep.folder / "table.md", markdown(sweep))
    _write_csv(sweep.folder / "table.csv", csv_rows(sweep))


def write_trials(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> str:
    """Write `table.csv` and `table.md` of a search, best trial first, and return the Markdown.

    A search without trials yet has no table: nothing is written, and the Markdown is empty.
    """
    if not jobs:
        return ""
    records = [read_record(folder / job["folder"]) for job in jobs]
    measures = {record["measure"] for record in records if "measure" in record}
    measure = measures.pop() if len(measures) == 1 else "score"
    # a search may continue with other fixed settings, so that its trials have different keys
    keys = list(dict.fromkeys(key for job in jobs for key in job["settings"]))
    rows = [
        {"trial": job["number"], **{key: job["settings"].get(key) for key in keys}}
        | {measure: record.get("score")}
        | {key: record.get(key) for key in ("seconds", "status")}
        | {"error": record["error"]}
        for job, record in zip(jobs, records, strict=True)
    ]
    rows.sort(key=lambda row: -1.0 if row[measure] is None else row[measure], reverse=True)
    _write_csv(folder / "table.csv", rows)
    head = [key for key in rows[0] if key != "error"]
    lines = [[_short_number(row[key]) for key in head] for row in rows]
    failed = [f"- trial {row['trial']}: {row['error'].splitlines()[0]}" for row in rows if row["error"]]
    text = "\n".join([f"# {folder.name}\n", align_columns(head, lines, left=0), *failed]) + "\n"
    write_atomically(folder / "table.md", text)
    return text


def _short_number(value: Any) -> str:
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return "" if value is None else str(value)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
