"""`stm score`: score masks that were made elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class BenchmarkName(StrEnum):
    """Benchmarks whose ground truth can be on disk."""

    davis2016 = "davis2016"
    davis2017 = "davis2017"
    youtube_vos = "youtube_vos"
    mose = "mose"
    mosev2 = "mosev2"
    lvos = "lvos"
    lvosv2 = "lvosv2"
    vost = "vost"
    sav = "sav"
    folder = "folder"


BUILDERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "davis2016": ("davis", {"year": 2016}, ("split", "ignore_late_objects")),
    "davis2017": ("davis", {"year": 2017}, ("split", "ignore_late_objects")),
    "youtube_vos": ("youtube_vos", {"split": "holdout"}, ("split", "holdout_categories", "holdout_share")),
    "mose": ("mose", {"version": 1}, ("split", "truth", "holdout_share")),
    "mosev2": ("mose", {"version": 2}, ("split", "truth", "holdout_share")),
    "lvos": ("lvos", {"version": 1}, ("split", "unseen_videos", "holdout_share")),
    "lvosv2": ("lvos", {"version": 2}, ("split", "unseen_videos", "holdout_share")),
    "vost": ("vost", {}, ("split",)),
    "sav": ("sav", {}, ("split",)),
    "folder": ("folder", {}, ()),
}
"""Function of `stm.evaluation.benchmarks`, its arguments, and the options that it takes."""


def score(
    masks: Annotated[
        Path,
        typer.Argument(
            metavar="MASKS",
            help="A folder or zip of index PNGs, VIDEO/FRAME.png; for sav VIDEO/OBJECT/FRAME.png.",
        ),
    ],
    benchmark_root: Annotated[
        Path, typer.Option(metavar="ROOT", help="Folder of the benchmark, as in benchmark.root.")
    ],
    benchmark: Annotated[
        BenchmarkName, typer.Option(help="The protocol and layout.")
    ] = BenchmarkName.davis2017,
    split: Annotated[
        str | None,
        typer.Option(help="Split; by default val, valid for MOSE, and holdout for YouTube-VOS."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="MOSE's meta.json and Annotations of all frames, if elsewhere."),
    ] = None,
    unseen_videos: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="LVOS's list of unseen videos; searched near ROOT by default."),
    ] = None,
    holdout_share: Annotated[
        float | None,
        typer.Option(metavar="FRACTION", help="--split holdout: as benchmark.holdout_share."),
    ] = None,
    holdout_categories: Annotated[
        list[str] | None,
        typer.Option(metavar="CATEGORY", help="YouTube-VOS: also videos of this category; repeatable."),
    ] = None,
    ignore_late_objects: Annotated[
        bool,
        typer.Option(
            "--ignore-late-objects",
            help="Leave out objects that a first mask does not show, as DAVIS's program does.",
        ),
    ] = False,
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
    from stm.evaluation.mask_scores import score_mask_folder
    from stm.evaluation.tables import print_scores, write_scores

    given = {
        "split": split,
        "truth": truth,
        "unseen_videos": unseen_videos,
        "holdout_share": holdout_share,
        "holdout_categories": holdout_categories or None,
        "ignore_late_objects": ignore_late_objects or None,
    }
    function, defaults, allowed = BUILDERS[benchmark]
    for key, value in given.items():
        if value is not None and key not in allowed:
            option = f"--{key.replace('_', '-')} {value}"
            raise ValueError(
                f"{option}: must not be given for {benchmark.value}; it takes {allowed or 'none'}"
            )
    arguments = {**defaults, **{key: value for key, value in given.items() if value is not None}}
    videos = getattr(benchmarks, function)(benchmark_root, only=tuple(only or ()), **arguments)
    if output is not None and output.is_file():
        raise ValueError(f"--output {output}: must be a folder; got a file")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    scores, skipped = score_mask_folder(videos, masks, skip_missing)
    for line in skipped:
        typer.echo(f"left out: {line}", err=True)
    if output is not None:
        write_scores(scores, output)
    print_scores(scores)
    return 0
