"""`stm segment`: find objects of reference pictures in another picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stm.cli.options import Device, Size, Weights


def segment(
    ref_img: Annotated[
        list[Path], typer.Option(metavar="PICTURE", help="A picture that shows the objects; may be repeated.")
    ],
    ref_mask: Annotated[
        list[Path],
        typer.Option(metavar="MASK", help="Its mask: a palette or gray PNG of object ids. One each."),
    ],
    query_img: Annotated[
        Path, typer.Option(metavar="PICTURE", help="Where the objects are to be found, of any size.")
    ],
    output: Annotated[
        Path,
        typer.Option(metavar="FILE.json", help="What is found; masks and pictures come to lie beside it."),
    ],
    weights: Weights = None,
    size: Size = None,
    device: Device = "auto",
) -> int:
    """Find objects in a picture, given reference pictures with masks of them.

    Written are FILE.json, and with its name FILE_mask.png, FILE_visualization.png and FILE_arrays.npz.

    Exit code: 2 for bad input, told in a line on stderr and in FILE.json ("status": "error"), else 0.
    """
    from stm.cli.segment_image import check_output, error_report, write_json

    check_output(output, [*ref_img, *ref_mask, query_img, *([weights] if weights else [])])
    try:
        from stm.cli.options import default_size
        from stm.cli.segment_image import run

        run(ref_img, ref_mask, query_img, weights, output, size or default_size(weights), device)
    except Exception as error:
        write_json(output, error_report(error))
        raise
    return 0
