"""Video files of any codec and container."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def encode(
    path: Path, codec: str, frames: Sequence[np.ndarray], times: Sequence[int] | None = None, **options: str
) -> list[bytes]:
    """Write a video of 24 frames a second; return the content of its packets."""
    index_first = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=index_first) as container:
        stream = container.add_stream(codec, rate=24, options=options)
        height, width = frames[0].shape[:2]
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        contents = []
        for t, image in zip(times or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 24)
            packets = stream.encode(frame)
            contents += [bytes(packet) for packet in packets]
            container.mux(packets)
        packets = stream.encode()
        contents += [bytes(packet) for packet in packets]
        container.mux(packets)
    return contents
