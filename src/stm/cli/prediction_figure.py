"""One picture that tells what was found: references, query, and where in memory it was looked up."""

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
"""Pixels of a picture on the sheet."""
MOST = 6
"""Objects whose attention is shown."""


def prediction_figure(
    references: Sequence[tuple[np.ndarray, np.ndarray]],
    query: np.ndarray,
    mask: np.ndarray,
    attention: Mapping[int, Attention],
    scores: Mapping[int, float],
    size: int,
) -> np.ndarray:
    """A sheet, uint8 (H', W', 3): the references with their masks and the query with masks and boxes; below,
    for each object, where it was looked up in each reference, and the object alone.

    Args:
        references: uint8 (H, W, 3) and mask (H, W) each, of any size.
        query: uint8 (H, W, 3).
        mask: what was found in it.
        attention: of each object, over references by their number.
        scores: of each object.
        size: the short side at which the network saw larger pictures.
    """
    pictures = [overlay(*_fitted(picture, given)) for picture, given in references]
    labels = [f"reference {number + 1}" for number in range(len(references))]
    pictures.append(_boxed(query, mask))
    labels.append("query: what was found")
    for label in list(attention)[:MOST]:
        for number, (picture, _) in enumerate(references):
            weights = attention[label].maps.get(number)
            share = "not shown here" if weights is None else f"{float(weights.sum()):.0%} of the look-up"
            pictures.append(_lit(picture, weights, size))
            labels.append(f"object {label}: {share}")
        pictures.append(_boxed(query, np.where(mask == label, mask, 0)))
        labels.append(f"object {label}: score {scores[label]:.2f}" + ("" if label in mask else ", not found"))
    return contact_sheet(pictures, labels, columns=len(references) + 1)


def _fitted(picture: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its mask at the height that they are shown at; one that is very wide stands on white."""
    height, width = mask.shape
    scale = min(HEIGHT / height, WIDEST / width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    shown = np.full((HEIGHT, columns, 3), 255, np.uint8)
    labels = np.zeros((HEIGHT, columns), mask.dtype)
    shown[:rows] = cv2.resize(picture, (columns, rows), interpolation=how)
    labels[:rows] = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
    return shown, labels


def _boxed(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    shown, labels = _fitted(picture, mask)
    drawn = overlay(shown, labels)
    for label in object_ids(labels):
        left, top, width, height = cv2.boundingRect((labels == label).astype(np.uint8))
        cv2.rectangle(drawn, (left, top), (left + width - 1, top + height - 1), object_color(label), 1)
    return drawn


def _lit(picture: np.ndarray, weights: Tensor | None, size: int) -> np.ndarray:
    """A picture with its cells' weights as heat."""
    seen = shrunk_shape(picture, size)
    over = (
        np.zeros(seen, np.float32) if weights is None else upsample_map(weights.float().cpu(), seen).numpy()
    )
    rows, columns = picture.shape[:2]
    over = cv2.resize(over, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
    shown, _ = _fitted(picture, np.zeros((rows, columns), np.uint8))
    _, heated = _fitted(picture, over)
    return heat(shown, heated)
