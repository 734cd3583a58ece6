"""Frames and files as visitors of `stm explore` bring them."""

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
FIRST = small.masks(1, 2, SIZE)[0].numpy()


def written(folder: Path, frames=FRAMES[:4], names=("10.png", "9.png", "b 2.PNG", "x.png")) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(folder / name, "PNG")
    return [folder / name for name in names]


@contextmanager
def page_in(folder: Path) -> Iterator[str]:
    """The page of a small network, its address; what it keeps lies below the folder, and goes at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        limits = Limits(upload_mb=2, frames=30)
        with serve(small.network(), limits=limits, notice="a network of a test") as address:
            yield address
    assert not list(folder.glob("stm-explore-*")), "nothing is left behind"
