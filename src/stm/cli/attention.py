"""`stm attention`: where in memory did an evaluation look? Figure 5 for chosen frames, objects and pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def attention(
    folder: Annotated[Path, typer.Argument(help="Of an evaluation; its checkpoint and data must be there.")],
    sequence: Annotated[
        list[str] | None,
        typer.Option(help="A video's name, or several; by default the worst, the median and the best."),
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="The frame that looks, by name; one late in the video by default.")
    ] = None,
    object: Annotated[int | None, typer.Option(help="The object's id; the largest by default.")] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW,COLUMN", help="A pixel of that frame, or several; else the whole object."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Where to; FOLDER/figures by default.")
    ] = None,
) -> None:
    """Draw where in which memory frame chosen pixels or an object look, and what is read over time.

    The videos are segmented again up to that frame. The files are attention and attention_over_time.
    """
    pixels = [_pixel(text) for text in at or ()]
    from stm.analysis import attention_figure
    from stm.analysis.evaluation_results import EvaluationResults
    from stm.analysis.figures import write_figure
    from stm.analysis.frame_attention import attend_frame_from_results

    if not (folder / "scores.json").exists():
        raise FileNotFoundError(f"{folder}: no scores.json, so no evaluation lies here")
    opened = EvaluationResults(folder)
    looks = [
        attend_frame_from_results(opened, name, object, frame, pixels)
        for name in sequence or opened.examples().values()
    ]
    target = output or folder / "figures"
    write_figure(attention_figure.plot_attention_maps(looks), target / "attention")
    write_figure(attention_figure.plot_attention_over_time(looks), target / "attention_over_time")
    for look in looks:
        shares = ", ".join(
            f"{look.video.frame_names[m]} {share:.1%}" for m, share in sorted(look.shares.items())
        )
        name = look.video.frame_names[look.t]
        typer.echo(f"{look.video.name}, frame {name}, object {look.object} reads {shares}")
    typer.echo(f"figures   {target / 'attention.png'}, {target / 'attention_over_time.png'}, and as .svg")


def _pixel(text: str) -> tuple[int, int]:
    try:
        row, column = map(int, text.split(","))
    except ValueError:
        raise ValueError(f"--at {text}: a pixel is ROW,COLUMN, such as 120,200") from None
    return row, column
