"""`stm check`: what is wrong with a data set, and what of it can be mended safely."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stm.atomic_io import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from stm.dataset_check.dataset_files import DatasetFiles
    from stm.dataset_check.run import DatasetReport

Layout = Literal["auto", "davis", "youtube_vos", "folder", "stills"]


def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder that the loaders take.")],
    layout: Annotated[Layout, typer.Option(help="How the data set lies on disk; auto looks.")] = "auto",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write every finding with its path here.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="NEW_FOLDER", help="Write a copy with the masks mended that safely can be."),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=255,
            help="With --fix: in smooth masks of one object, values of N and above are the object.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Files opened side by side; one a core by default."),
    ] = None,
) -> int:
    """Find what is wrong with a data set: its masks, frames, lists and objects.

    Every picture is opened and every mask read. Nothing below ROOT is ever changed.

    Exit code: 1 where there are errors (with --fix: where some are left), 2 where ROOT is no data set,
    else 0.
    """
    from rich.console import Console

    from stm.dataset_check.layouts import open_dataset
    from stm.dataset_check.repaired_copy import check_target
    from stm.dataset_check.summary import as_json, print_table

    if threshold and fix is None:
        raise ValueError("--threshold says how to mend smooth masks: it needs --fix NEW_FOLDER")
    if output is not None and output.is_dir():
        raise ValueError(f"--output {output}: is a folder, a file such as report.json is wanted")
    tree = open_dataset(root, layout)
    if fix is not None:
        check_target(root, fix)
    console = Console()
    examination = _examine(tree, workers, keep=fix is not None)
    print_table(examination, console)
    report = as_json(examination)
    if fix is not None:
        examination, report["fix"] = _mend(examination, fix, threshold, workers, console)
    if output is not None:
        import json

        write_atomically(output, json.dumps(report, indent=1))
    return int(examination.has_errors)


def _examine(tree: DatasetFiles, workers: int | None, keep: bool) -> DatasetReport:
    from stm.dataset_check.run import check_dataset, files

    with _progress("checking", sum(len(files(unit)) for unit in tree.units)) as advance:
        return check_dataset(tree, workers, advance, keep)


def _mend(
    examination: DatasetReport, new: Path, threshold: int | None, workers: int | None, console: Console
) -> tuple[DatasetReport, dict[str, Any] | None]:
    """Write the mended copy and examine it; what was examined, and the report's part about it."""
    from rich.text import Text

    from stm.dataset_check.layouts import open_dataset
    from stm.dataset_check.repair import plan_repairs
    from stm.dataset_check.repaired_copy import write_repaired_copy
    from stm.dataset_check.summary import as_json, print_table, printable

    tree = examination.tree
    mends = plan_repairs(examination, threshold)
    if not mends:
        console.print(Text(printable(f"Nothing here can be mended safely; {new} is not written.")))
        return examination, None
    with _progress("writing", None) as advance:
        unchanged, left_out = write_repaired_copy(tree.root, new, mends, advance)
    told = f"{new}: {len(mends)} masks mended, {unchanged} files as they were, {len(left_out)} left out"
    console.print(Text(printable(f"{told}. What is left there:")))
    left = _examine(open_dataset(new, tree.layout), workers, keep=False)
    print_table(left, console)
    mended = [{"path": tree.relative(mend.source), "done": list(mend.done)} for mend in mends]
    return left, {"mended": mended, "left_out": left_out, **as_json(left)}


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr, where that is a terminal; a function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
