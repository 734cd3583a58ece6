"""`stm check-submission`: would a server take these masks?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Server = Literal["davis", "mose", "youtube"]


def check_submission(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="The zip; or a folder to be zipped, such as masks/.")
    ],
    server: Annotated[Server, typer.Option(help="Where it is to go.")],
    benchmark_root: Annotated[
        Path, typer.Option(metavar="ROOT", help="The folder of the benchmark, as benchmark.root.")
    ],
    split: Annotated[
        str | None,
        typer.Option(help="Which videos: test-dev for davis, valid for youtube by default; mose has one."),
    ] = None,
) -> int:
    """Find what a server would refuse: its folders, frames, palette, sizes and ids, each violation named.

    Exit code: 0 where it would be taken, 1 where it would not, 2 where FILE or ROOT cannot be read.
    """
    from stm.data import videos
    from stm.evaluation.submission import check_submission

    if server == "mose" and split is not None:
        raise ValueError(f"--split {split}: the folder of a MOSE split is given as --benchmark-root")
    if server == "davis":
        wanted = videos.davis(benchmark_root, 2017, split or "test-dev")
    elif server == "youtube":
        wanted = videos.youtube_vos(benchmark_root, split or "valid")
    else:
        wanted = videos.folder(benchmark_root)
    violations = check_submission(path, wanted, server)
    for violation in violations:
        typer.echo(violation)
    masks = sum(len(video.output_frames) for video in wanted)
    told = f"{len(violations)} violations" if violations else "nothing that the server would refuse"
    typer.echo(f"{path}: {told}; {len(wanted)} videos, {masks} masks are wanted")
    return int(bool(violations))
