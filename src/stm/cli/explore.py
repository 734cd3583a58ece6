"""`stm explore`: look at the memory on a local web page."""

from __future__ import annotations

from typing import Annotated

import typer

from stm.cli.options import Device, Weights


def explore(
    weights: Weights = None,
    host: Annotated[
        str, typer.Option(help="127.0.0.1 is for this machine alone; 0.0.0.0 lets others in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The first free one from 7860 on by default.")
    ] = None,
    size: Annotated[
        int, typer.Option(metavar="N", min=16, help="Larger frames are shrunk to a short side of N pixels.")
    ] = 480,
    upload_mb: Annotated[int, typer.Option(min=1, help="What a visitor may upload at once.")] = 200,
    frames: Annotated[int, typer.Option(min=2, help="Frames of a video; further ones are left out.")] = 300,
    device: Device = "auto",
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> int:
    """Look at the memory on a local web page: mark objects, follow them, ask pixels where they look.

    It needs no internet and asks none. Everything that visitors left is removed at the end (Ctrl-C).
    """
    import signal
    from threading import Event

    from stm.cli.options import load_network
    from stm.demo.server import serve
    from stm.demo.uploads import Limits
    from stm.network import BUNDLED_NOTICE

    network = load_network(weights, device)
    limits = Limits(upload_mb=upload_mb, frames=frames, size=size)
    notice = BUNDLED_NOTICE if weights is None else ""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to tidy up then as well
    with serve(network, host=host, port=port, limits=limits, notice=notice, browser=browser) as address:
        print(f"{address} (Ctrl-C ends it)", flush=True)
        try:
            Event().wait()
        except KeyboardInterrupt:
            print()
    return 0
