"""Clips of stills: a random affine transform of one picture a frame (paper, section 3.5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stm.data.augment import ColorJitter, StillMotion, after_shrinking, shrinkage
from stm.data.copy_paste import cut_out, moving_matrices, paste
from stm.data.cropping import ATTEMPTS, CropAroundObjects, blank_source, clip_of, crop_size
from stm.data.image_io import shrink_image, shrink_mask
from stm.data.stills import Stills
from stm.video import Clip

_PASTED = 254


class StillClips:
    """Clips of stills: each frame is the same cut around objects, moved by an affine transform of its own.

    The paper tells the kinds (rotation, shear, zoom, translation, crop), not the amounts, which are ours.

    Args:
        stills: where to draw from, each alike.
        crop: side, or height and width, of the clips in pixels.
        num_frames: frames of a clip.
        max_objects: objects of a clip at most; the others become background.
        rotate, shear, zoom, translate: largest motion of each frame, see `stm.data.augment.StillMotion`.
        scale, min_object_area, flip, stretch: the cut that all frames share, see `stm.data.cropping.CropAroundObjects`.
        color, color_each, permute: see `stm.data.augment.ColorJitter`.
        paste: probability that an object cut from another still moves across the clip; half of them are
            objects of the clip, half are occluders.
        ramp_clips: motion, color and the speed of pasted objects grow from nothing to their full amounts
            over so many clips at the start of the run; 0 for full amounts from the first.

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
        if num_frames < 2 or max_objects < 1 or ramp_clips < 0:
            raise ValueError(
                f"num_frames={num_frames} must be at least 2, max_objects={max_objects} at least 1, "
                f"ramp_clips={ramp_clips} not negative"
            )
        if len(stills) == 0:
            raise ValueError(f"{stills.name}: the set holds no still")
        self.stills, self.size = stills, crop_size(crop)
        self.num_frames, self.max_objects = num_frames, max_objects
        self.paste, self.ramp_clips = paste, ramp_clips
        self._crop = CropAroundObjects(self.size, scale, min_object_area, flip, stretch=stretch)
        self._motion = StillMotion(self.size, rotate, shear, zoom, translate)
        self._color = ColorJitter(color, color_each, permute)

    def clip(self, k: int, rng: np.random.Generator) -> Clip:
        """The clip that the generator draws; k sets the place on the ramp.

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
                continue
            images, masks = self._moved(rng, frame, mask, cut, strength)
            if rng.random() < self.paste:
                source += self._paste(rng, images, masks, strength)
            visible = self._crop.visible(masks[0])
            if len(visible) > 0:
                break
        else:
            raise ValueError(blank_source(self.stills.name, tried))
        recolored = self._color.draw(rng, self.num_frames, strength)
        images = [recolor(image) for recolor, image in zip(recolored, images, strict=True)]
        return clip_of(rng, images, masks, visible, self.max_objects, k, source)

    def _moved(
        self, rng: np.random.Generator, frame: np.ndarray, mask: np.ndarray, cut: np.ndarray, strength: float
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The still, moved into each frame: uint8 (h, w, 3) and (h, w), `num_frames` times."""
        by = shrinkage(cut)
        if by > 1:  # one shrinking serves all frames, and keeps the bilinear warp from skipping pixels
            frame = shrink_image(frame, by)
            mask, cut = shrink_mask(mask, by), after_shrinking(cut, by)
        self._motion.reseed(rng)
        moved = [self._motion(frame, mask, cut, strength) for _ in range(self.num_frames)]
        return [image for image, _ in moved], [labels for _, labels in moved]

    def _paste(
        self, rng: np.random.Generator, images: list[np.ndarray], masks: list[np.ndarray], strength: float
    ) -> str:
        """Let an object of another still move across the frames, in place; tell which still."""
        number = int(rng.integers(len(self.stills)))
        patch = cut_out(rng, *self.stills.read(number))
        label = _PASTED if rng.random() < 0.5 else 0
        if patch is None or (label and any((mask == label).any() for mask in masks)):
            return ""
        matrices = moving_matrices(rng, patch[1].shape, self.size, len(images), strength)
        paste(images, masks, patch, matrices, label)
        return f"+{number}"
