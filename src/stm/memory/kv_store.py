"""Memory cells in room that is set aside once and written in place."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

LOOKED, READ, SHOWN, Y, X, T = range(6)
"""What is noted of a cell: how much it was looked at and how often it was read, both fading; how much of it
shows an object; where it lies, in short sides of the picture from its middle; its frame."""


class KeyValueStore:
    """Keys (B, O or 1, C_k, cells), values (B, O, C_v, cells), and notes (6, cells) of memory cells.

    While gradients flow through them, keys and values are joined anew and nothing is overwritten.
    """

    def __init__(self, key: Tensor, value: Tensor) -> None:
        """Without room yet, for keys and values of the shapes of these but for the last dimension."""
        self.keys, self.values = key[..., :0].detach(), value[..., :0].detach()
        self.notes = torch.zeros((6, 0), device=key.device)

    def __len__(self) -> int:
        return self.notes.shape[-1]

    @torch.inference_mode(False)  # or they could not be written outside of inference mode later
    @torch.no_grad()
    def resize(self, cells: int) -> None:
        """Room for so many cells; what there is and fits stays, at the beginning."""
        self.notes = _moved(self.notes, cells)
        if not self._learning:
            self.keys, self.values = _moved(self.keys, cells), _moved(self.values, cells)

    def put(
        self, place: slice, key: Tensor, value: Tensor, size: Sequence[int], t: int, shown: Tensor | None
    ) -> None:
        """Write frame t, a map of size (h, w) whose keys and values come flat, into a place.

        Args:
            shown: (h * w,) in 0..1, how much of each cell shows an object.
        """
        if self._learning or key.requires_grad or value.requires_grad:
            self.keys, self.values = _joined(self.keys, place, key), _joined(self.values, place, value)
        else:
            self.keys[..., place], self.values[..., place] = key, value
        self.notes[: SHOWN + 1, place] = 0
        if shown is not None:
            self.notes[SHOWN, place] = shown
        self.notes[Y : X + 1, place] = grid(size, key.device).T
        self.notes[T, place] = t

    def move(self, source: slice, target: slice) -> None:
        """Copy cells to another place, which may overlap theirs."""
        for part in (self.keys, self.values, self.notes):
            part[..., target] = part[..., source].clone()

    def usage(self, place: slice) -> Tensor:
        """What each cell was looked at per frame, as far as it shows an object."""
        looked, read, shown = self.notes[: SHOWN + 1, place]
        return looked / read.clamp(min=1) * shown

    def select_objects(self, objects: list[int]) -> KeyValueStore:
        """A copy with some of the objects; keys that all share stay with them."""
        other = copy(self)
        other.keys = self.keys[:, objects] if self.keys.shape[1] > 1 else self.keys.clone()
        other.values, other.notes = self.values[:, objects], self.notes.clone()
        return other

    @property
    def _learning(self) -> bool:
        return self.keys.requires_grad or self.values.requires_grad


def grid(size: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Where the cells of a map (h, w) lie, (h * w, 2): in short sides from its middle, down and right."""
    rows, columns = ((torch.arange(n, device=device) - (n - 1) / 2) / min(size) for n in size)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def _moved(old: Tensor, cells: int) -> Tensor:
    new = old.new_empty((*old.shape[:-1], cells))
    kept = min(cells, old.shape[-1])
    new[..., :kept] = old[..., :kept]
    return new


def _joined(cells: Tensor, place: slice, new: Tensor) -> Tensor:
    return torch.cat([cells[..., : place.start], new, cells[..., place.stop :]], dim=-1)
