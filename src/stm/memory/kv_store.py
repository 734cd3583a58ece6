"""Storage of memory cells, allocated once and written in place."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

USAGE, READS, COVERAGE, Y, X, T = range(6)
"""Rows of a cell's metadata.

The attention it received and the number of reads, both decaying; the fraction of it that shows an object; its
position, in short sides of the frame from the center; its frame number.
"""


class KeyValueStore:
    """Keys (B, O or 1, C_k, cells), values (B, O, C_v, cells) and metadata (6, cells) of memory cells.

    While gradients flow through keys and values, these are concatenated anew instead of overwritten.

    Args:
        key: any key of the shape to store, except for the last dimension; nothing is allocated yet.
        value: the same for values.
        cells_first: hold the channels of each cell's value adjacent in memory, which speeds up reading a few
            cells each (`top_k`) and slows down reading all.
    """

    def __init__(self, key: Tensor, value: Tensor, cells_first: bool = False) -> None:
        self._cells_first = cells_first
        self.keys, self.values = key[..., :0].detach(), value[..., :0].detach()
        self.metadata = torch.zeros((6, 0), device=key.device)

    def __len__(self) -> int:
        return self.metadata.shape[-1]

    @torch.inference_mode(False)  # otherwise the tensors could not be written outside inference mode later
    @torch.no_grad()
    def resize(self, cells: int) -> None:
        """Allocate room for a number of cells, and keep the first cells that fit."""
        self.metadata = _resized(self.metadata, cells)
        if not self._requires_grad:
            self.keys = _resized(self.keys, cells)
            self.values = _resized(self.values, cells, self._cells_first)

    def write(
        self, target: slice, key: Tensor, value: Tensor, size: Sequence[int], t: int, coverage: Tensor | None
    ) -> None:
        """Write a frame into a range of cells.

        Args:
            target: the range, of h * w cells.
            key: (B, O or 1, C_k, h * w).
            value: (B, O, C_v, h * w).
            size: (h, w).
            t: frame number.
            coverage: (h * w,) in 0..1, the fraction of each cell that shows an object; None for 0.
        """
        if self._requires_grad or key.requires_grad or value.requires_grad:
            self.keys, self.values = _replaced(self.keys, target, key), _replaced(self.values, target, value)
        else:
            self.keys[..., target], self.values[..., target] = key, value
        self.metadata[: COVERAGE + 1, target] = 0
        if coverage is not None:
            self.metadata[COVERAGE, target] = coverage
        self.metadata[Y : X + 1, target] = cell_centers(size, key.device).T
        self.metadata[T, target] = t

    def move(self, source: slice, target: slice) -> None:
        """Copy cells to another range, which may overlap theirs."""
        for tensor in (self.keys, self.values, self.metadata):
            tensor[..., target] = tensor[..., source].clone()

    @torch.inference_mode(False)
    @torch.no_grad()
    def replace_all(self, keys: Tensor, values: Tensor, metadata: Tensor) -> None:
        """Hold other cells instead, without room for more.

        Raises:
            ValueError: gradients flow through the memory.
        """
        if self._requires_grad:
            raise ValueError("memory.long_term: must be null while gradients flow through the memory")
        self.keys, self.metadata = keys.clone(), metadata.clone()
        self.values = _resized(values, values.shape[-1], self._cells_first)

    def attention_per_read(self, cells: Tensor | slice) -> Tensor:
        """Return the mean attention on each cell per read."""
        usage, reads = self.metadata[: READS + 1, cells]
        return usage / reads.clamp(min=1)

    def usage(self, cells: slice) -> Tensor:
        """Return the mean attention on each cell per read, weighted by its coverage with objects."""
        return self.attention_per_read(cells) * self.metadata[COVERAGE, cells]

    def select_objects(self, objects: list[int]) -> KeyValueStore:
        """Return a copy with some of the objects; keys shared by all objects are kept."""
        selection = copy(self)
        selection.keys = self.keys[:, objects] if self.keys.shape[1] > 1 else self.keys.clone()
        selection.values = _resized(self.values[:, objects], len(self), self._cells_first)
        selection.metadata = self.metadata.clone()
        return selection

    @property
    def _requires_grad(self) -> bool:
        return self.keys.requires_grad or self.values.requires_grad


def cell_centers(size: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Compute the positions (y, x) of a map's cells, in short sides from its center.

    Args:
        size: (h, w).
        device: device of the result.

    Returns:
        (h * w, 2).
    """
    rows, columns = ((torch.arange(n, device=device) - (n - 1) / 2) / min(size) for n in size)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def _resized(old: Tensor, cells: int, cells_first: bool = False) -> Tensor:
    new = old.new_empty((*old.shape[:-2], cells, old.shape[-2])).mT if cells_first else None
    if new is None:
        new = old.new_empty((*old.shape[:-1], cells))
    kept = min(cells, old.shape[-1])
    new[..., :kept] = old[..., :kept]
    return new


def _replaced(tensor: Tensor, target: slice, new: Tensor) -> Tensor:
    return torch.cat([tensor[..., : target.start], new, tensor[..., target.stop :]], dim=-1)
