"""What was found, as a table for people and as JSON for programs."""

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


def summary(examination: DatasetReport) -> str:
    """In a line: what was looked at, and how many findings of each severity there are."""
    tree = examination.tree
    held = f"{_count(len(tree.stills), 'still')}" if tree.stills else _count(len(tree.videos), "video")
    counts = [
        _count(sum(finding.severity == severity for finding in examination.findings), severity)
        for severity in SEVERITIES
    ]
    return f"{tree.layout}: {held}, {_count(examination.files, 'file')}: {', '.join(counts)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def print_table(examination: DatasetReport, console: Console) -> None:
    """A row a kind of finding: how many, what it means, and the first of them."""
    groups: dict[tuple[str, str], list[Issue]] = defaultdict(list)
    for finding in examination.findings:
        groups[finding.severity, finding.code].append(finding)
    if groups:
        table = Table(show_lines=True)
        table.add_column("finding", no_wrap=True)
        table.add_column("count", justify="right")
        table.add_column("what it means, what to do, and the first of them")
        for (severity, code), found in groups.items():
            kind = Text(f"{severity}\n{code}", style=_STYLES[severity])
            advice = Text(f"{ISSUE_CODES[code].advice[0].upper()}{ISSUE_CODES[code].advice[1:]}.")
            for finding in found[:EXAMPLES]:
                advice.append(f"\n{printable(finding.path)}: {printable(finding.detail)}", style="dim")
            table.add_row(kind, str(len(found)), advice)
        console.print(table)
    console.print(Text(printable(summary(examination))))


def printable(text: str) -> str:
    """Text without control characters or broken encodings, which a file's name may hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def as_json(examination: DatasetReport) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    tree = examination.tree
    return {
        "root": str(tree.root),
        "layout": tree.layout,
        "videos": len(tree.videos),
        "stills": len(tree.stills),
        "files": examination.files,
        "counts": {
            severity: sum(finding.severity == severity for finding in examination.findings)
            for severity in SEVERITIES
        },
        "findings": [
            {
                "severity": finding.severity,
                "code": finding.code,
                "path": finding.path,
                "message": finding.sentence,
            }
            for finding in examination.findings
        ],
    }
