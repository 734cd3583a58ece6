"""`stm track`: segment objects through a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stm.cli.options import Device, Size, Weights


def track(
    video: Annotated[
        Path,
        typer.Option(metavar="VIDEO|FOLDER", help="A video file, such as an mp4, or a folder of frames."),
    ],
    mask: Annotated[
        list[str],
        typer.Option(
            metavar="[FRAME:]MASK|FOLDER",
            help="A palette or gray PNG of object ids at frame 0 or, as 37:M.png, at frame 37; or a folder "
            "of masks named like their frames. Repeatable: further masks add objects or correct known ones.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The folder for masks, scores and the overlay video.")
    ],
    weights: Weights = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="The memory policy: a file of conf/memory with changes, such as diverse,top_k=20. "
            "Default: the published weights' own, else every_5; within a budget beyond 600 frames.",
        ),
    ] = None,
    size: Size = None,
    overlay: Annotated[bool, typer.Option(help="Write overlay.mp4.")] = True,
    save_every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How often the state for resuming is saved.")
    ] = 60,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete earlier results in FOLDER first.")] = False,
    device: Device = "auto",
) -> int:
    """Segment objects through a video, given their masks in one frame or more.

    Writes FOLDER/masks, one palette PNG per frame; confidence.csv, one row per object and frame; overlay.mp4;
    and track.json. Run the same command again to resume after an interruption.
    """
    from stm.cli.options import default_size
    from stm.cli.track_video import track_video
    from stm.config.memory_policies import parse_policy

    return track_video(
        video,
        mask,
        weights,
        output,
        None if memory is None else parse_policy(memory),
        size=size or default_size(weights),
        device=device,
        write_overlay=overlay,
        save_every=save_every,
        fresh=fresh,
    )
