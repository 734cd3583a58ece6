"""`stm track`: follow objects through a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stm.cli.options import Device, Size, Weights


def track(
    video: Annotated[
        Path, typer.Option(metavar="FILM|FOLDER", help="A film, such as an mp4, or a folder of frames.")
    ],
    mask: Annotated[
        list[str],
        typer.Option(
            metavar="[FRAME:]MASK",
            help="A palette or gray PNG of object ids, of frame 0 or, as 37:M.png, of frame 37. May be "
            "repeated: further masks add objects or correct those that are known.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where masks, scores and the film are written.")
    ],
    weights: Weights = None,
    memory: Annotated[
        str,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="What is remembered: a file of conf/memory, and changes, as diverse,top_k=20.",
        ),
    ] = "every_5",
    size: Size = None,
    overlay: Annotated[bool, typer.Option(help="Write overlay.mp4.")] = True,
    save_every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How often to save what going on needs.")
    ] = 60,
    device: Device = "auto",
) -> int:
    """Follow objects through a video, given their masks in one frame or more.

    Written are FOLDER/masks, a palette PNG a frame; confidence.csv, a row an object and frame; overlay.mp4;
    and track.json. The same command goes on where it was interrupted.
    """
    from stm.cli.options import default_size
    from stm.cli.track_video import parse_masks, track_video
    from stm.config.memory_policies import parse_policy

    track_video(
        video,
        parse_masks(mask),
        weights,
        output,
        parse_policy(memory),
        size=size or default_size(weights),
        device=device,
        film=overlay,
        save_every=save_every,
    )
    return 0
