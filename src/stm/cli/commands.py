"""Small commands of `stm`: report, attention, check-submission, calibrate, strip and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Server = Literal["davis", "mose", "lvos", "youtube"]


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of an evaluation, a training run or a sweep.")],
    output: Annotated[
        Path | None, typer.Option(help="The page to write; FOLDER/report.html by default.")
    ] = None,
    attention: Annotated[
        bool, typer.Option(help="Segment the example videos again to draw the attention to the memory.")
    ] = True,
) -> None:
    """Write an HTML report with tables, figures, videos and the commands that reproduce it.

    The page is a single file; the figures are also written to a folder next to it.
    """
    from stm.analysis.report import write_report

    path = write_report(folder, output, attention)
    typer.echo(f"report    {path}")
    typer.echo(f"figures   {path.parent / 'figures'}")


def attention(
    folder: Annotated[
        Path, typer.Argument(help="Folder of an evaluation whose checkpoint and data still exist.")
    ],
    sequence: Annotated[
        list[str] | None,
        typer.Option(help="Name of a video, repeatable; by default the worst, the median and the best."),
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="Name of the query frame; one late in the video by default.")
    ] = None,
    object: Annotated[int | None, typer.Option(help="Object id; the largest object by default.")] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW,COLUMN", help="A pixel of the query frame, repeatable; the whole object by default."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Folder to write to; FOLDER/figures by default.")
    ] = None,
) -> None:
    """Draw which memory frames and cells pixels or an object read (Figure 5), and what is read over time.

    The videos are segmented again up to the query frame. The figures are attention and attention_over_time.
    """
    pixels = [_parse_pixel(text) for text in at or ()]
    from stm.analysis import attention_figure
    from stm.analysis.evaluation_results import EvaluationResults
    from stm.analysis.figures import write_figure
    from stm.analysis.frame_attention import attend_frame_from_results

    if not (folder / "scores.json").exists():
        raise FileNotFoundError(f"{folder}: must be the folder of an evaluation; it has no scores.json")
    results = EvaluationResults(folder)
    names = sequence or list(results.examples().values())
    if not names:
        source = results.values["settings"]["source"]
        raise ValueError(
            f"{folder}: must be an evaluation whose data exist; none of its videos ({source}) can be read"
        )
    attentions = [attend_frame_from_results(results, name, object, frame, pixels) for name in names]
    target = output or folder / "figures"
    write_figure(attention_figure.plot_attention_maps(attentions), target / "attention")
    write_figure(attention_figure.plot_attention_over_time(attentions), target / "attention_over_time")
    for result in attentions:
        frame_names = result.video.frame_names
        shares = ", ".join(f"{frame_names[m]} {share:.1%}" for m, share in sorted(result.shares.items()))
        typer.echo(
            f"{result.video.name}, frame {frame_names[result.t]}, object {result.object} reads {shares}"
        )
    typer.echo(f"figures   {target / 'attention.png'}, {target / 'attention_over_time.png'}, and as .svg")


def _parse_pixel(text: str) -> tuple[int, int]:
    try:
        row, column = map(int, text.split(","))
    except ValueError:
        raise ValueError(f"--at {text}: must be a pixel ROW,COLUMN such as 120,200") from None
    return row, column


def check_submission(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A zip, or a folder to be zipped, such as masks/.")
    ],
    server: Annotated[Server, typer.Option(help="The server that will receive the zip.")],
    benchmark_root: Annotated[
        Path, typer.Option(metavar="ROOT", help="Folder of the benchmark, as in benchmark.root.")
    ],
    split: Annotated[
        str | None,
        typer.Option(help="Split; by default test-dev for davis, test for lvos, valid for mose and youtube."),
    ] = None,
) -> int:
    """Check a submission for what a server would reject: folders, frames, palette, sizes and ids.

    Exit code: 0 if the server would accept it, 1 if there are violations, 2 if FILE or ROOT cannot be read.
    """
    from stm.data import videos
    from stm.data.lvos_videos import lvos
    from stm.data.mose_videos import mose
    from stm.evaluation.submission import check_submission

    is_split = server == "mose" and (benchmark_root / "JPEGImages").is_dir()
    if is_split and split is not None:
        raise ValueError(f"--split {split}: must not be given for mose; --benchmark-root is a split's folder")
    if server == "davis":
        expected = videos.davis(benchmark_root, 2017, split or "test-dev")
    elif server == "youtube":
        expected = videos.youtube_vos(benchmark_root, split or "valid")
    elif server == "lvos":
        expected = lvos(benchmark_root, split or "test")
    else:
        expected = videos.folder(benchmark_root) if is_split else mose(benchmark_root, split or "valid")
    violations = check_submission(path, expected, server)
    for violation in violations:
        typer.echo(violation)
    masks = sum(len(video.output_frames) for video in expected)
    typer.echo(
        f"{path}: {len(violations) or 'no'} violations; {masks} masks of {len(expected)} videos expected"
    )
    return int(bool(violations))


def calibrate(
    folder: Annotated[
        Path, typer.Argument(help="Folder of an evaluation of CHECKPOINT, on videos it was not trained on.")
    ],
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint of a training of this project.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT.pth", help="The file to write.")],
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16.")] = False,
) -> None:
    """Fit an exponent that makes the confidence `score` agree with J, and write the network with it.

    No mask changes. An evaluation of OUT.pth shows the error that remains (calibration in scores.json).
    """
    from stm.analysis.evaluation_results import EvaluationResults
    from stm.evaluation.calibration import fit_exponent
    from stm.network import fingerprint, load, strip

    _check_new_file(target)
    if not (folder / "sequences").is_dir():
        raise FileNotFoundError(f"{folder}: must be the folder of a finished evaluation, with sequences/")
    results = EvaluationResults(folder)
    evaluated, given = results.values["settings"]["checkpoint"], fingerprint(checkpoint)
    if evaluated.split(" ")[1:] != given.split(" ")[1:]:
        raise ValueError(f"{folder}: must be an evaluation of {given}; it is one of {evaluated}")
    pairs = [pair for row in results.sequences.values() for pair in row.confidence_and_j("score")]
    exponent = fit_exponent([score for score, _ in pairs], [j for _, j in pairs])
    exponent = round(exponent * load(checkpoint).score_exponent, 3)
    strip(checkpoint, target, half, exponent)
    typer.echo(f"{target}: score_exponent={exponent}, from {len(pairs)} frames of objects")


def _check_new_file(target: Path) -> None:
    if target.is_dir():
        raise ValueError(f"{target}: must be a file such as {target / 'weights.pth'}; got a folder")
    if target.exists():
        raise ValueError(f"{target}: must be a new file; it already exists")


def strip(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint of a training of this project.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT.pth", help="The file to write.")],
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16.")] = False,
    score_exponent: Annotated[
        float | None,
        typer.Option(min=0.01, help="Exponent of the confidence, fitted for another training of its recipe."),
    ] = None,
) -> None:
    """Write only the network of a checkpoint: a third of its size, without paths and other settings.

    The file can be used wherever a checkpoint can, except to resume the training (resume=).
    """
    from stm.network import strip

    _check_new_file(target)
    strip(checkpoint, target, half, score_exponent)
    typer.echo(f"{target}: {target.stat().st_size / 1e6:.2f} MB")


def export(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="WEIGHTS",
            help="A checkpoint of this project, or a published one of STM, Mask-Propagation, STCN or XMem "
            "without sensory memory.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
) -> None:
    """Export query encoder, memory encoder and decoder as programs that run without this package.

    They accept frames whose height and width are multiples of 16, and 1 to 254 objects. The files are
    OUT/query_encoder.pt2, memory_encoder.pt2, decoder.pt2 (torch.export), and export.json with their shapes.
    """
    from stm.cli.options import load_network
    from stm.network.export import export

    export(load_network(weights, "cpu"), folder)
    for path in sorted(folder.iterdir()):
        typer.echo(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
