"""Frames, upload files and a served page for tests of `stm explore`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from helpers import small_networks as small
from stm.demo.server import serve
from stm.demo.uploads import Limits

SIZE = (32, 48)
FRAMES = small.frames(23, SIZE).permute(0, 2, 3, 1).contiguous().numpy()
FIRST_MASK = small.masks(1, 2, SIZE)[0].numpy()


def write_frames(
    folder: Path, frames=FRAMES[:4], names=("10.png", "9.png", "b 2.PNG", "x.png")
) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(folder / name, "PNG")
    return [folder / name for name in names]


@contextmanager
def serve_page(folder: Path) -> Iterator[str]:
    """Serve the page with a small network, yield its address, and assert that its files are removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        limits = Limits(upload_mb=2, max_frames=30)
        with serve(small.network(), limits=limits, notice="a network of a test") as address:
            yield address
    assert not list(folder.glob("stm-explore-*")), "files were left behind"
