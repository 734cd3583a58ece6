"""The real clip that ships with the package; see README.md beside it for its source and license."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stm.data.video_files import VideoFile
from stm.video import ArrayVideo

_FOLDER = Path(__file__).parent


def libby() -> ArrayVideo:
    """Return the clip "libby" of DAVIS's validation set with its true masks, 49 frames of 240x426.

    No network of the package was trained on it.
    """
    frames = np.stack(list(VideoFile(_FOLDER / "libby.mp4").read()))
    return ArrayVideo("libby", frames, np.load(_FOLDER / "libby_masks.npz")["masks"])
