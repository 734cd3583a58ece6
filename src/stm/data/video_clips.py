"""Training clips of videos: which frames, and how they are cropped (paper, section 3.5)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from stm.config.environment import cpus
from stm.data.augment import (
    ColorJitter,
    after_shrinking,
    compose,
    crop_matrix,
    shrinkage,
    warp_frame,
    warp_mask,
)
from stm.data.cropping import (
    ATTEMPTS,
    CropAroundObjects,
    check_at_least,
    crop_size,
    label_areas,
    make_clip,
    no_object_message,
)
from stm.data.image_io import shrink_image
from stm.data.videos import FileVideo
from stm.video import Clip, Video

log = logging.getLogger(__name__)


class SkipCurriculum:
    """Largest number of frames skipped between neighbors in a clip; it grows during training (section 3.5).

    The defaults are the paper's: 5 more every 20 epochs of 3771 clips, up to 25.

    Args:
        largest: final limit.
        grow_by: increase of the limit each time.
        every_clips: number of clips between two increases.
        first: initial limit.
        stages: pairs (clip, limit) that replace the above: from that clip on, this is the limit. STCN and
            XMem lower the limit again at the end.

    Raises:
        ValueError: a number is out of range, or the stages do not ascend from clip 0.
    """

    def __init__(
        self,
        largest: int = 25,
        grow_by: int = 5,
        every_clips: int = 75_420,
        first: int = 0,
        stages: Sequence[Sequence[int]] | None = None,
    ) -> None:
        check_at_least(0, largest=largest, grow_by=grow_by, first=first)
        check_at_least(1, every_clips=every_clips)
        self.largest, self.grow_by, self.every_clips, self.first = largest, grow_by, every_clips, first
        self.stages = None if stages is None else [(int(clip), int(limit)) for clip, limit in stages]
        if self.stages is not None:
            clips = [clip for clip, _ in self.stages]
            if clips[:1] != [0] or clips != sorted(set(clips)) or min(limit for _, limit in self.stages) < 0:
                raise ValueError(f"stages={self.stages}: must ascend from clip 0, with limits of at least 0")

    def max_skip(self, k: int) -> int:
        """Return the limit for clip k."""
        if self.stages is not None:
            return next(limit for clip, limit in reversed(self.stages) if k >= clip)
        return min(self.largest, self.first + self.grow_by * (k // self.every_clips))


def sample_frame_indices(rng: np.random.Generator, length: int, frames: int, max_skip: int) -> list[int]:
    """Draw ascending frame indices of a clip: uniform skips in 0..max_skip, then a uniform start.

    A skip of 0 takes the next frame. In a video that is too short for the limit, the limit is the largest one
    for which every draw fits.
    """
    assert 2 <= frames <= length
    limit = min(max_skip, (length - frames) // (frames - 1))
    steps = np.concatenate([[0], np.cumsum(1 + rng.integers(0, limit + 1, frames - 1))])
    start = rng.integers(0, length - int(steps[-1]))
    return [int(index) for index in start + steps]


class VideoClips:
    """Clips of videos: ordered frames with random skips, cropped around objects of the first (section 3.5).

    Only annotated frames are used. Videos with fewer annotated frames than a clip has are dropped with a
    warning; they can still serve as stills (`stm.data.stills.video_frames`). So are videos in files whose
    masks show no object that could begin a clip.

    Args:
        videos: videos, drawn with equal probability.
        crop: side, or height and width, of the clips in pixels.
        num_frames: frames per clip.
        max_objects: largest number of objects per clip; the others become background.
        curriculum: the largest skip; by default the paper's.
        skip_divisor: divisor of the largest skip. In YouTube-VOS, which is annotated at every 5th frame, 5
            makes the skip count raw frames.
        reverse: probability of reversing the order of the frames.
        scale: see `stm.data.cropping.CropAroundObjects`; the crop is the same in all frames.
        min_object_area: see `CropAroundObjects`.
        flip: see `CropAroundObjects`.
        rotate: see `CropAroundObjects`.
        stretch: see `CropAroundObjects`.
        shake: largest camera motion after the first frame: the shift as a fraction of the crop, the relative
            change of size, and the rotation in units of 60 degrees.
        color: see `stm.data.augment.ColorJitter`.
        color_each: see `ColorJitter`.
        permute: see `ColorJitter`.
        name: prefix of `Clip.source`.

    Raises:
        ValueError: no video is long enough, none shows an object, an argument is out of range, or a mask is
            broken.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        crop: int | Sequence[int] = 384,
        num_frames: int = 3,
        max_objects: int = 3,
        curriculum: SkipCurriculum | None = None,
        skip_divisor: int = 1,
        reverse: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.7),
        min_object_area: float = 0.002,
        flip: float = 0.5,
        rotate: float = 0.0,
        stretch: float = 1.0,
        shake: float = 0.0,
        color: float = 0.2,
        color_each: float = 0.05,
        permute: float = 0.0,
        name: str = "videos",
    ) -> None:
        check_at_least(2, num_frames=num_frames)
        check_at_least(1, max_objects=max_objects, skip_divisor=skip_divisor)
        self.videos = [video for video in videos if len(video.annotated) >= num_frames]
        if not self.videos:
            longest = max((len(video.annotated) for video in videos), default=0)
            raise ValueError(
                f"num_frames={num_frames}: must be at most {longest}, the number of annotated frames in the "
                f"longest of the {len(videos)} videos of {name}"
            )
        _warn_of_dropped(name, videos, self.videos, f"which have fewer than {num_frames} annotated frames")
        long = self.videos
        with ThreadPoolExecutor(cpus()) as pool:
            shows_object = partial(_shows_object, num_frames=1 if reverse else num_frames)
            self.videos = [
                video for video, shows in zip(long, pool.map(shows_object, long), strict=True) if shows
            ]
        _warn_of_dropped(name, long, self.videos, "whose masks show no object (0 is background, 255 is void)")
        if not self.videos:
            raise ValueError(f"{name}: must have a video whose masks show an object; label 255 is void")
        self.size, self.num_frames, self.max_objects = crop_size(crop), num_frames, max_objects
        self.curriculum = curriculum or SkipCurriculum()
        self.skip_divisor, self.reverse, self.shake, self.name = skip_divisor, reverse, shake, name
        self._crop = CropAroundObjects(self.size, scale, min_object_area, flip, rotate, stretch)
        self._color = ColorJitter(color, color_each, permute)

    def clip(self, k: int, rng: np.random.Generator) -> Clip:
        """Draw a clip with the generator; k determines the largest skip.

        Raises:
            ValueError: 20 first frames in a row show no object, or a file is broken.
        """
        tried = []
        for _ in range(ATTEMPTS):
            video = self.videos[int(rng.integers(len(self.videos)))]
            limit = self.curriculum.max_skip(k) // self.skip_divisor
            times = [
                video.annotated[i]
                for i in sample_frame_indices(rng, len(video.annotated), self.num_frames, limit)
            ]
            if rng.random() < self.reverse:
                times.reverse()
            tried.append(f"{video.name}:{video.frame_names[times[0]]}")
            first = video.annotated_mask(times[0])
            cut = self._crop.draw(rng, first)
            if cut is None:
                continue
            masks = [warp_mask(first, cut, self.size)]
            visible = self._crop.visible(masks[0])
            if len(visible) > 0 or label_areas(masks[0]).any():
                break
        else:
            raise ValueError(no_object_message(self.name, tried))
        matrices = [cut] + [compose(self._sample_shake(rng), cut) for _ in times[1:]]
        masks += [
            warp_mask(video.annotated_mask(t), m, self.size)
            for t, m in zip(times[1:], matrices[1:], strict=True)
        ]
        by = shrinkage(cut)
        images = [
            warp_frame(_frame(video, t, by), after_shrinking(m, by), self.size)
            for t, m in zip(times, matrices, strict=True)
        ]
        images = [
            recolor(image)
            for recolor, image in zip(self._color.draw(rng, self.num_frames), images, strict=True)
        ]
        source = f"{self.name}/{video.name}:{','.join(video.frame_names[t] for t in times)}"
        return make_clip(rng, images, masks, visible, self.max_objects, k, source)

    def _sample_shake(self, rng: np.random.Generator) -> np.ndarray:
        x, y, turn, growth = self.shake * rng.uniform(-1, 1, 4)
        middle = ((self.size[1] - 1) / 2, (self.size[0] - 1) / 2)
        matrix = crop_matrix(middle, math.exp(growth), self.size, 60 * turn)
        matrix[:, 2] += (x * self.size[1], y * self.size[0])
        return matrix


def _shows_object(video: Video, num_frames: int) -> bool:
    """Return whether a frame with which a clip can begin shows an object; only files are read to find out."""
    if not isinstance(video, FileVideo):
        return True
    first_frames = video.annotated[: len(video.annotated) - num_frames + 1]
    return any(label_areas(video.annotated_mask(t)).any() for t in first_frames)


def _warn_of_dropped(name: str, before: Sequence[Video], after: Sequence[Video], reason: str) -> None:
    kept = set(map(id, after))
    dropped = [video.name for video in before if id(video) not in kept]
    if dropped:
        names = ", ".join(dropped[:5]) + (", ..." if dropped[5:] else "")
        log.warning("%s: dropping %d of %d videos, %s: %s", name, len(dropped), len(before), reason, names)


def _frame(video: Video, t: int, shrink: int) -> np.ndarray:
    if isinstance(video, FileVideo):
        return video.frame(t, shrink)
    return shrink_image(video.frame(t), shrink)
