"""Videos of SA-V train: an MP4 file each, and masks of objects, run-length encoded in JSON."""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from stm.data.image_io import sample_bytes
from stm.masks import stack_to_labels
from stm.video import Video

FPS, MASK_FPS = 24, 6


class SavTrainVideo(Video):
    """The frames of an MP4 file that have masks: every fourth.

    The object of position k in the JSON file has id k + 1. The smallest of overlapping objects is on top.

    Args:
        name: see `Video.name`.
        video: the MP4 file.
        masks: the JSON file.
    """

    def __init__(self, name: str, video: str | Path, masks: str | Path) -> None:
        self.name, self._video, self._masks = name, str(video), str(masks)

    @cached_property
    def frame_names(self) -> list[str]:  # type: ignore[override]
        """Numbers of the frames in the file."""
        step = FPS // MASK_FPS
        return [f"{step * t:05d}" for t in range(len(_read_masklets(self._masks)))]

    def fingerprint(self) -> str:
        """Return a short hash of both files' sizes and of samples of their bytes."""
        return (sample_bytes(self._video) + sample_bytes(self._masks)).hex()

    def frame(self, t: int) -> np.ndarray:
        """Decode frame t, uint8 (H, W, 3), RGB, from the last key frame on.

        Raises:
            ValueError: the file cannot be decoded, or ends before.
        """
        try:
            with av.open(self._video) as container:
                stream = container.streams.video[0]
                assert stream.time_base is not None
                first = stream.start_time or 0
                exact = first + t / MASK_FPS / float(stream.time_base)
                container.seek(round(exact), stream=stream)
                half = 0.5 / FPS / float(stream.time_base)
                for frame in container.decode(stream):
                    if frame.pts is not None and frame.pts >= exact - half:
                        return frame.to_ndarray(format="rgb24")
        except (av.FFmpegError, OSError, IndexError) as error:
            raise ValueError(f"{self._video}: not a readable video ({error})") from error
        raise ValueError(f"{self._video}: ends before frame {self.frame_names[t]}, which has masks")

    def mask(self, t: int) -> np.ndarray:
        """Read the labels of frame t, uint8 (H, W).

        Raises:
            ModuleNotFoundError: pycocotools is not installed.
            ValueError: a mask is not run-length encoded.
        """
        try:
            from pycocotools import mask as coco
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{self._masks}: needs pycocotools, which is not installed; pip install 'stm-vos[sav]'"
            ) from error
        try:
            codes = enumerate(_read_masklets(self._masks)[t], start=1)
            return stack_to_labels({label: coco.decode(code) > 0 for label, code in codes})
        except (TypeError, KeyError, ValueError, StopIteration) as error:
            raise ValueError(
                f"{self._masks}: masklet[{t}] must be a list of run-length codes with size and counts; "
                f"got {error!r}"
            ) from error


@lru_cache(maxsize=8)  # a file has some MB, and a clip reads several frames of one video
def _read_masklets(path: str) -> list[Any]:
    try:
        masklets = json.loads(Path(path).read_text(encoding="utf-8"))["masklet"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: must be JSON with masklet[frame][object]; got {error!r}") from error
    if not isinstance(masklets, list):
        raise ValueError(f"{path}: masklet must be a list of frames; got {type(masklets).__name__}")
    return masklets


def sav_train(root: str | Path, annotations: str = "manual") -> list[SavTrainVideo]:
    """List the videos of SA-V train that have annotations, by name.

    Args:
        root: a folder that holds `<video>.mp4` and `<video>_manual.json`, or folders of such files.
        annotations: `manual` or `auto`.

    Raises:
        FileNotFoundError: the folder holds no annotations, or the video of one is missing.
        ValueError: annotations are neither `manual` nor `auto`.
    """
    if annotations not in ("manual", "auto"):
        raise ValueError(f"annotations={annotations}: must be manual or auto")
    end = f"_{annotations}.json"
    paths = sorted([*Path(root).glob(f"*{end}"), *Path(root).glob(f"*/*{end}")], key=lambda path: path.name)
    if not paths:
        raise FileNotFoundError(f"{root}: holds no file such as sav_000/sav_000001{end}")
    videos = []
    for path in paths:
        name = path.name.removesuffix(end)
        video = path.with_name(f"{name}.mp4")
        if not video.is_file():
            raise FileNotFoundError(f"{video}: there is no such file beside {path.name}")
        videos.append(SavTrainVideo(name, video, path))
    return videos
