"""The figure of a prediction: references, query, and where in memory each object was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from torch import Tensor

from stm.inference import Attention
from stm.inference.attention import upsample_map
from stm.inference.resize import shrunk_shape
from stm.masks import object_ids
from stm.visualization import contact_sheet, heat, object_color, overlay

HEIGHT, WIDEST = 240, 720
"""Largest height and width of an image on the sheet, in pixels."""
MAX_OBJECTS = 6
"""Objects whose attention is shown."""


def prediction_figure(
    references: Sequence[tuple[np.ndarray, np.ndarray]],
    query: np.ndarray,
    mask: np.ndarray,
    attention: Mapping[int, Attention],
    scores: Mapping[int, float],
    size: int,
) -> np.ndarray:
    """Draw a sheet, uint8 (H', W', 3), of the references, the query with its masks and boxes, and attention.

    Below the first row, each object has a row: its attention over each reference, and its mask alone.

    Args:
        references: uint8 (H, W, 3) and mask (H, W) each, of any size.
        query: uint8 (H, W, 3).
        mask: the predicted mask of the query.
        attention: of each object, over references by their number.
        scores: of each object.
        size: short side in pixels to which the network's view of larger images was shrunk.
    """
    images = [overlay(*_fitted(image, mask_)) for image, mask_ in references]
    labels = [f"reference {number + 1}" for number in range(len(references))]
    images.append(_boxed(query, mask))
    labels.append("query: prediction")
    for label in list(attention)[:MAX_OBJECTS]:
        for number, (image, _) in enumerate(references):
            weights = attention[label].maps.get(number)
            share = "not in this image" if weights is None else f"{float(weights.sum()):.0%} of the attention"
            images.append(_lit(image, weights, size))
            labels.append(f"object {label}: {share}")
        images.append(_boxed(query, np.where(mask == label, mask, 0)))
        labels.append(f"object {label}: score {scores[label]:.2f}" + ("" if label in mask else ", not found"))
    return contact_sheet(images, labels, columns=len(references) + 1)


def _fitted(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resize an image and its mask to the sheet's height; a very wide one is padded with white."""
    height, width = mask.shape
    scale = min(HEIGHT / height, WIDEST / width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    shown = np.full((HEIGHT, columns, 3), 255, np.uint8)
    labels = np.zeros((HEIGHT, columns), mask.dtype)
    shown[:rows] = cv2.resize(image, (columns, rows), interpolation=how)
    labels[:rows] = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
    return shown, labels


def _boxed(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    shown, labels = _fitted(image, mask)
    drawn = overlay(shown, labels)
    for label in object_ids(labels):
        left, top, width, height = cv2.boundingRect((labels == label).astype(np.uint8))
        cv2.rectangle(drawn, (left, top), (left + width - 1, top + height - 1), object_color(label), 1)
    return drawn


def _lit(image: np.ndarray, weights: Tensor | None, size: int) -> np.ndarray:
    """Draw the weights of an image's cells as heat over it."""
    seen = shrunk_shape(image, size)
    over = (
        np.zeros(seen, np.float32) if weights is None else upsample_map(weights.float().cpu(), seen).numpy()
    )
    rows, columns = image.shape[:2]
    over = cv2.resize(over, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
    shown, _ = _fitted(image, np.zeros((rows, columns), np.uint8))
    _, heated = _fitted(image, over)
    return heat(shown, heated)
