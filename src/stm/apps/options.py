"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A checkpoint of this project, or the authors' STM_weights.pth; without, a small network that "
        "comes with stm to try things out.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=16,
        help="Larger pictures are shrunk to a short side of N pixels for the network: 480, or 160 without "
        "--weights.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes a GPU where there is one.")]
