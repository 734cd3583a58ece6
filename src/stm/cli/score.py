"""`stm score`: score masks that were made elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class BenchmarkName(StrEnum):
    """Benchmarks whose ground truth can be on disk."""

    davis2016 = "davis2016"
    davis2017 = "davis2017"
    youtube_vos = "youtube_vos"
    folder = "folder"


def score(
    masks: Annotated[
        Path, typer.Argument(metavar="MASKS", help="A folder or zip of index PNGs, VIDEO/FRAME.png.")
    ],
    benchmark_root: Annotated[
        Path, typer.Option(metavar="ROOT", help="Folder of the benchmark, as in benchmark.root.")
    ],
    benchmark: Annotated[
        BenchmarkName, typer.Option(help="The protocol and layout.")
    ] = BenchmarkName.davis2017,
    split: Annotated[
        str | None, typer.Option(help="Split; val for DAVIS and holdout for YouTube-VOS by default.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="VIDEO", help="Score this video only; repeatable.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write scores.json and scores.csv there.")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out videos with missing masks, and say so.")
    ] = False,
) -> int:
    """Score masks of another program: the same tables and files as an evaluation.

    Exit code: 0 if every video was scored or --skip-missing allows it to be left out, 2 otherwise.
    """
    from stm.evaluation import benchmarks
    from stm.evaluation.mask_scores import score_masks
    from stm.evaluation.tables import print_scores, write_scores

    names = tuple(only or ())
    if benchmark == "folder":
        if split is not None:
            raise ValueError(f"--split {split}: must not be given for folder; a folder has no splits")
        videos = benchmarks.folder(benchmark_root, only=names)
    elif benchmark == "youtube_vos":
        videos = benchmarks.youtube_vos(benchmark_root, split or "holdout", only=names)
    else:
        year = int(benchmark.removeprefix("davis"))
        videos = benchmarks.davis(benchmark_root, year, split or "val", only=names)
    scores, skipped = score_masks(videos, masks, skip_missing)
    for line in skipped:
        typer.echo(f"left out: {line}", err=True)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_scores(scores, output)
    print_scores(scores)
    return 0
