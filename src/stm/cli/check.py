"""Command `stm check`: find issues in a data set and repair its masks."""

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

Layout = Literal["auto", "davis", "youtube_vos", "mose", "lvos", "vost", "sav", "folder", "stills"]


def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that the loaders take.")],
    layout: Annotated[Layout, typer.Option(help="Layout of the data set; auto detects it.")] = "auto",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write every issue with its path to this file.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="NEW_FOLDER", help="Write a copy in which masks are repaired where it is safe."),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=255,
            help="With --fix: in anti-aliased masks of one object, values of N and above are the object.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Files opened in parallel; by default one per core."),
    ] = None,
) -> int:
    """Check the frames, masks, lists and objects of a data set.

    Every frame and mask is decoded. Nothing below ROOT is changed.

    Exit code: 1 if there are errors (with --fix: if some remain), 2 if ROOT is not a data set, otherwise 0.
    """
    from rich.console import Console

    from stm.dataset_check.layouts import open_dataset
    from stm.dataset_check.repaired_copy import check_target
    from stm.dataset_check.summary import as_json, print_table

    if threshold and fix is None:
        raise ValueError(f"--threshold {threshold}: must be used with --fix NEW_FOLDER")
    if output is not None and output.is_dir():
        raise ValueError(f"--output {output}: must be a file such as report.json; got a folder")
    dataset = open_dataset(root, layout)
    if fix is not None:
        check_target(root, fix)
    console = Console()
    report = _check(dataset, workers, keep_infos=fix is not None)
    print_table(report, console)
    values = as_json(report)
    if fix is not None:
        report, values["fix"] = _repair(report, fix, threshold, workers, console)
    if output is not None:
        import json

        write_atomically(output, json.dumps(values, indent=1))
    return int(report.has_errors)


def _check(dataset: DatasetFiles, workers: int | None, keep_infos: bool) -> DatasetReport:
    from stm.dataset_check.run import check_dataset, list_inspections

    num_files = sum(len(list_inspections(unit)) for unit in dataset.units)
    with _progress("checking", num_files) as advance:
        return check_dataset(dataset, workers, advance, keep_infos)


def _repair(
    report: DatasetReport, target: Path, threshold: int | None, workers: int | None, console: Console
) -> tuple[DatasetReport, dict[str, Any] | None]:
    """Write the repaired copy and check it; return the new report and its JSON entry."""
    from rich.text import Text

    from stm.dataset_check.layouts import open_dataset
    from stm.dataset_check.repair import plan_repairs
    from stm.dataset_check.repaired_copy import write_repaired_copy
    from stm.dataset_check.summary import as_json, print_table, printable

    dataset = report.dataset
    repairs = plan_repairs(report, threshold)
    if not repairs:
        console.print(Text(printable(f"No mask can be repaired safely; {target} is not written.")))
        return report, None
    with _progress("writing", None) as advance:
        unchanged, skipped = write_repaired_copy(dataset.root, target, repairs, advance)
    counts = f"{len(repairs)} masks repaired, {unchanged} files unchanged, {len(skipped)} paths skipped"
    console.print(Text(printable(f"{target}: {counts}. Remaining issues:")))
    remaining = _check(open_dataset(target, dataset.layout), workers, keep_infos=False)
    print_table(remaining, console)
    repaired = [
        {"path": dataset.relative(repair.source), "changes": list(repair.changes)} for repair in repairs
    ]
    return remaining, {"repaired": repaired, "skipped": skipped, **as_json(remaining)}


@contextmanager
def _progress(description: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Show a progress bar on stderr if that is a terminal, and yield the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
