"""Command `stm data`: list and download data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(help="List and download data sets.", rich_markup_mode=None)


@data.command("list")
def list_sources() -> None:
    """List the data sets, with their pages and terms."""
    from stm.data.downloads import SOURCES

    for name, source in SOURCES.items():
        how = "" if source.archives else " (from its page)"
        typer.echo(f"{name:12} {source.title}{how}\n{'':12} {source.page}\n{'':12} {source.terms}")


@data.command()
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `stm data list`.")],
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of all data sets.")] = Path("data"),
    accept: Annotated[bool, typer.Option("--accept", help="Accept the terms without a question.")] = False,
    keep: Annotated[bool, typer.Option("--keep-archives", help="Keep the downloaded archives.")] = False,
    check: Annotated[bool, typer.Option(help="Check the data set afterwards.")] = True,
) -> int:
    """Download a data set into DIR, in the layout that the configurations expect.

    A download that was interrupted continues. Exit code: 1 if the check finds errors, otherwise 0.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from stm.cli.check import check as run_check
    from stm.data.downloads import SEEN, SOURCES, fetch

    if name not in SOURCES:
        raise ValueError(f"NAME={name}: must be one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    if not source.archives:
        raise ValueError(f"NAME={name}: {source.title} has no plain download; get it from {source.page}")
    typer.echo(f"{source.title}\nfrom  {source.page} (last looked up in {SEEN})\nterms {source.terms}")
    if not accept:
        typer.confirm("Download under these terms?", abort=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        task = bar.add_task(name, total=None)
        folder = fetch(source, root, lambda done, size: bar.update(task, completed=done, total=size), keep)
    typer.echo(f"data set: {folder}")
    is_video = name.startswith("davis")
    return run_check(folder) if check and is_video else 0
