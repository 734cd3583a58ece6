"""`stm strip`: a checkpoint's network alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def strip(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Of a training of this project.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.pth", help="The file to write.")],
) -> None:
    """Write the network of a checkpoint alone: a third of its size, without paths or other settings.

    The file serves wherever a checkpoint does, but for going on with the training (resume=).
    """
    from stm.network import strip

    if target.is_dir():
        raise ValueError(f"{target}: is a folder, a file such as {target / 'weights.pth'} is wanted")
    if target.exists():
        raise ValueError(f"{target}: is there already; give another name, or remove it")
    strip(checkpoint, target)
    typer.echo(f"{target}: {target.stat().st_size / 1e6:.2f} MB")
