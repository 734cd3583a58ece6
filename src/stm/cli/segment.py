"""Command `stm segment`: segment objects in an image, given reference images with masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stm.cli.options import Device, Size, Weights


def segment(
    ref_img: Annotated[
        list[Path],
        typer.Option(metavar="IMAGE", help="A reference image that shows the objects; repeatable."),
    ],
    ref_mask: Annotated[
        list[Path],
        typer.Option(metavar="MASK", help="The mask of each reference: a palette or gray PNG of object ids."),
    ],
    query_img: Annotated[Path, typer.Option(metavar="IMAGE", help="The image to segment, of any size.")],
    output: Annotated[
        Path,
        typer.Option(metavar="FILE.json", help="The results; masks and images are written next to it."),
    ],
    weights: Weights = None,
    size: Size = None,
    device: Device = "auto",
) -> int:
    """Segment objects in an image, given reference images with their masks.

    Writes FILE.json, FILE_mask.png, FILE_visualization.png and FILE_arrays.npz.

    Exit code: 2 for bad input, with one line on stderr and "status": "error" in FILE.json; otherwise 0.
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
