"""`stm export`: a network as programs that run without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="WEIGHTS", help="A checkpoint of this project, or the authors' STM_weights.pth."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
) -> None:
    """Write query encoder, memory encoder and decoder as programs of torch.export.

    They take frames of any height and width that are multiples of 16 and any number of objects. Written are
    OUT/query_encoder.pt2, memory_encoder.pt2, decoder.pt2 and export.json, which tells their shapes.
    """
    from stm.cli.options import load_network
    from stm.network.export import export

    export(load_network(weights, "cpu"), folder)
    for path in sorted(folder.iterdir()):
        typer.echo(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
