"""Command `stm explore`: serve a local web page to inspect the memory."""

from __future__ import annotations

from typing import Annotated

import typer

from stm.cli.options import Device, Weights


def explore(
    weights: Weights = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine only, 0.0.0.0 is everyone.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the first free port from 7860 on.")
    ] = None,
    size: Annotated[
        int, typer.Option(metavar="N", min=16, help="Resize larger frames to a short side of N pixels.")
    ] = 480,
    upload_mb: Annotated[int, typer.Option(min=1, help="Megabytes of one upload.")] = 200,
    frames: Annotated[int, typer.Option(min=2, help="Frames of a video; further ones are dropped.")] = 300,
    device: Device = "auto",
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> int:
    """Explore the memory on a local web page: mark objects, track them, and see what each pixel reads.

    The page needs the extra `stm-vos[demo]`, and no internet connection. All uploaded files are removed at
    the end (Ctrl-C).
    """
    import signal
    from threading import Event

    from stm.cli.options import load_network
    from stm.demo.uploads import Limits
    from stm.network import BUNDLED_NOTICE

    try:
        from stm.demo.server import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError("stm explore needs Gradio: pip install 'stm-vos[demo]'") from error

    network = load_network(weights, device)
    limits = Limits(upload_mb=upload_mb, max_frames=frames, size=size)
    notice = BUNDLED_NOTICE if weights is None else ""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that files are removed then as well
    with serve(network, host=host, port=port, limits=limits, notice=notice, open_browser=browser) as address:
        print(f"{address} (press Ctrl-C to stop)", flush=True)
        try:
            Event().wait()
        except KeyboardInterrupt:
            print()
    return 0
