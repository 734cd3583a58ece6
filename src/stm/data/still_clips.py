"""Training clips of stills: a random affine transform of one image for each frame (paper, section 3.5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from stm.data.augment import ColorJitter, StillMotion, after_shrinking, shrinkage
from stm.data.copy_paste import cut_out, moving_matrices, paste
from stm.data.cropping import (
    ATTEMPTS,
    CropAroundObjects,
    check_at_least,
    crop_size,
    make_clip,
    no_object_message,
)
from stm.data.image_io import shrink_image, shrink_mask
from stm.data.stills import Stills
from stm.video import Clip

_PASTED_LABEL = 254

log = logging.getLogger(__name__)


class StillClips:
    """Clips of stills: all frames share one crop around objects, and each has an affine transform of its own.

    The paper names the kinds of transform (rotation, shear, zoom, translation, crop) but not the amounts; the
    defaults are ours.

    Args:
        stills: stills, drawn with equal probability.
        crop: side, or height and width, of the clips in pixels.
        num_frames: frames per clip.
        max_objects: largest number of objects per clip; the others become background.
        rotate: largest motion of each frame, see `stm.data.augment.StillMotion`.
        shear: see `StillMotion`.
        zoom: see `StillMotion`.
        translate: see `StillMotion`.
        scale: the crop that all frames share, see `stm.data.cropping.CropAroundObjects`.
        min_object_area: see `CropAroundObjects`.
        flip: see `CropAroundObjects`.
        stretch: see `CropAroundObjects`.
        color: see `stm.data.augment.ColorJitter`.
        color_each: see `ColorJitter`.
        permute: see `ColorJitter`.
        paste: probability that an object cut from another still moves across the clip. Half of these are
            objects of the clip, half are occluders.
        ramp_clips: number of clips at the start of the run over which motion, color and the speed of pasted
            objects grow from zero to their full amounts; 0 for full amounts from the first clip.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        stills: Stills,
        crop: int | Sequence[int] = 384,
        num_frames: int = 3,
        max_objects: int = 3,
        rotate: float = 20.0,
        shear: float = 10.0,
        zoom: tuple[float, float] = (0.85, 1.15),
        translate: float = 0.1,
        scale: tuple[float, float] = (1.0, 1.7),
        min_object_area: float = 0.002,
        flip: float = 0.5,
        stretch: float = 1.0,
        color: float = 0.2,
        color_each: float = 0.1,
        permute: float = 0.0,
        paste: float = 0.0,
        ramp_clips: int = 0,
    ) -> None:
        check_at_least(2, num_frames=num_frames)
        check_at_least(1, max_objects=max_objects)
        check_at_least(0, ramp_clips=ramp_clips)
        if len(stills) == 0:
            raise ValueError(f"{stills.name}: must hold at least one still")
        self.stills, self.size = stills, crop_size(crop)
        self.num_frames, self.max_objects = num_frames, max_objects
        self.paste, self.ramp_clips = paste, ramp_clips
        self._empty: set[str] = set()
        self._crop = CropAroundObjects(self.size, scale, min_object_area, flip, stretch=stretch)
        self._motion = StillMotion(self.size, rotate, shear, zoom, translate)
        self._color = ColorJitter(color, color_each, permute)

    def clip(self, k: int, rng: np.random.Generator) -> Clip:
        """Draw a clip with the generator; k determines the strength of the augmentation during the ramp.

        Raises:
            ValueError: 20 stills in a row show no object, or a file is broken.
        """
        strength = min(1.0, (k + 1) / self.ramp_clips) if self.ramp_clips else 1.0
        tried = []
        for _ in range(ATTEMPTS):
            number = int(rng.integers(len(self.stills)))
            source = f"{self.stills.name}:{number}"
            tried.append(source)
            frame, mask = self.stills.read(number)
            cut = self._crop.draw(rng, mask)
            if cut is None:
                self._warn_of_empty(source)
                continue
            images, masks = self._move(rng, frame, mask, cut, strength)
            if rng.random() < self.paste:
                source += self._paste(rng, images, masks, strength)
            visible = self._crop.visible(masks[0])
            if len(visible) > 0:
                break
        else:
            raise ValueError(no_object_message(self.stills.name, tried))
        recolored = self._color.draw(rng, self.num_frames, strength)
        images = [recolor(image) for recolor, image in zip(recolored, images, strict=True)]
        return make_clip(rng, images, masks, visible, self.max_objects, k, source)

    def _warn_of_empty(self, source: str) -> None:
        """Name the first stills that are never drawn; reading all of them in advance would take minutes."""
        if source not in self._empty and len(self._empty) < 5:
            self._empty.add(source)
            more = "; further ones are not listed" if len(self._empty) == 5 else ""
            log.warning("%s: never drawn, as its mask shows no object (255 is void)%s", source, more)

    def _move(
        self, rng: np.random.Generator, frame: np.ndarray, mask: np.ndarray, cut: np.ndarray, strength: float
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Warp the still into each frame: `num_frames` images uint8 (h, w, 3) and masks uint8 (h, w)."""
        by = shrinkage(cut)
        if by > 1:  # shrinking once serves all frames and keeps the bilinear warp from skipping pixels
            frame = shrink_image(frame, by)
            mask, cut = shrink_mask(mask, by), after_shrinking(cut, by)
        self._motion.reseed(rng)
        moved = [self._motion(frame, mask, cut, strength) for _ in range(self.num_frames)]
        return [image for image, _ in moved], [labels for _, labels in moved]

    def _paste(
        self, rng: np.random.Generator, images: list[np.ndarray], masks: list[np.ndarray], strength: float
    ) -> str:
        """Move an object of another still across the frames, in place; return the suffix of the source."""
        number = int(rng.integers(len(self.stills)))
        patch = cut_out(rng, *self.stills.read(number))
        label = _PASTED_LABEL if rng.random() < 0.5 else 0
        if patch is None or (label and any((mask == label).any() for mask in masks)):
            return ""
        matrices = moving_matrices(rng, patch[1].shape, self.size, len(images), strength)
        paste(images, masks, patch, matrices, label)
        return f"+{number}"
