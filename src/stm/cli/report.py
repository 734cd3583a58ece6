"""`stm report`: a page in one file, and the figures, of an evaluation or a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="Of an evaluation, a training run or a sweep.")],
    output: Annotated[Path | None, typer.Option(help="The page; FOLDER/report.html by default.")] = None,
    attention: Annotated[
        bool, typer.Option(help="Segment the videos shown again, to draw where in memory they look.")
    ] = True,
) -> None:
    """Write a page: tables, figures, films, what it takes to do it again. Figures lie beside as files."""
    from stm.analysis.report import write_report

    path = write_report(folder, output, attention)
    typer.echo(f"report    {path}")
    typer.echo(f"figures   {path.parent / 'figures'}")
