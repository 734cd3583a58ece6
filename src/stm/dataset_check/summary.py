"""Summary of a check, as a table for the terminal and as JSON."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stm.dataset_check.issues import ISSUE_CODES, SEVERITIES, Issue
from stm.dataset_check.run import DatasetReport

EXAMPLES = 3
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def summary(report: DatasetReport) -> str:
    """Return one line with the number of videos or stills, files, and issues of each severity."""
    dataset = report.dataset
    stills, videos = len(dataset.stills), len(dataset.videos)
    units = _count(stills, "still") if stills else _count(videos, "video")
    counts = ", ".join(_count(report.count(severity), severity) for severity in SEVERITIES)
    return f"{dataset.layout}: {units}, {_count(report.num_files, 'file')}: {counts}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_table(report: DatasetReport, console: Console) -> None:
    """Print a row per kind of issue: how many there are, what it means, and the first ones."""
    groups: dict[tuple[str, str], list[Issue]] = defaultdict(list)
    for issue in report.issues:
        groups[issue.severity, issue.code].append(issue)
    if groups:
        table = Table(show_lines=True)
        table.add_column("issue", no_wrap=True)
        table.add_column("count", justify="right")
        table.add_column("meaning, advice and first examples")
        for (severity, code), issues in groups.items():
            kind = Text(f"{severity}\n{code}", style=_STYLES[severity])
            advice = ISSUE_CODES[code].advice
            text = Text(f"{advice[0].upper()}{advice[1:]}.")
            for issue in issues[:EXAMPLES]:
                text.append(f"\n{printable(issue.path)}: {printable(issue.detail)}", style="dim")
            table.add_row(kind, str(len(issues)), text)
        console.print(table)
    console.print(Text(printable(summary(report))))


def printable(text: str) -> str:
    """Escape control characters and broken encodings, which file names may contain."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def as_json(report: DatasetReport) -> dict[str, Any]:
    """Return all issues as plain values."""
    dataset = report.dataset
    return {
        "root": str(dataset.root),
        "layout": dataset.layout,
        "videos": len(dataset.videos),
        "stills": len(dataset.stills),
        "files": report.num_files,
        "counts": {severity: report.count(severity) for severity in SEVERITIES},
        "issues": [
            {"severity": issue.severity, "code": issue.code, "path": issue.path, "message": issue.message}
            for issue in report.issues
        ],
    }
