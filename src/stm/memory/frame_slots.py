"""Frames in memory: which cells of the store each of them holds."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Self

from torch import Tensor

from stm.memory.descriptors import MemoryFrame
from stm.memory.kv_store import READS, USAGE, KeyValueStore, T, X, Y
from stm.memory.long_term import Potentiate
from stm.memory.policy import MemoryPolicy


class FrameSlots:
    """Keys and values of frames and prototypes, without rules of which to hold.

    The store holds the prototypes first, then the frames, one slot each, in no particular order.

    Args:
        policy: which frames are held.
        length: number of frames of the video, if known.
        potentiate: the network's, for policies with a long-term memory.
        key_channels: channels of a key that describe the appearance; all by default.

    Raises:
        ValueError: the policy requires the length.
    """

    def __init__(
        self,
        policy: MemoryPolicy,
        length: int | None = None,
        potentiate: Potentiate | None = None,
        key_channels: int | None = None,
    ) -> None:
        if policy.num_uniform is not None and length is None:
            name = f"memory.num_uniform={policy.num_uniform}"
            raise ValueError(f"{name}: the video's length must be known; pass Segmenter(length=...)")
        self.policy, self.length = policy, length
        self._slots: list[MemoryFrame] = []
        self._potentiate, self._key_channels = potentiate, key_channels
        self._last_kept: int | None = None
        self._num_prototypes = 0  # they end where slot 0 begins
        self._store: KeyValueStore | None = None

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames held, in temporal order."""
        return sorted(frame.t for frame in self._slots)

    @property
    def max_frame_cells(self) -> int:
        """Number of cells of the largest frame held."""
        return max((frame.cells for frame in self._slots), default=0)

    @property
    def bytes(self) -> int:
        """Size of the keys and values held."""
        return 0 if self._store is None else sum(part.nbytes for part in self.read())

    def select_objects(self, objects: Sequence[int]) -> Self:
        """Return a bank with some of the objects, by their indices; this bank does not change."""
        selection = copy(self)
        indices = list(objects)
        selection._slots = [
            replace(frame, appearance=None if frame.appearance is None else frame.appearance[indices])
            for frame in self._slots
        ]
        if self._store is not None:
            selection._store = self._store.select_objects(indices)
        return selection

    def read(self) -> tuple[Tensor, Tensor]:
        """Return all keys (B, O or 1, C_k, N) and values (B, O, C_v, N), in no particular order."""
        assert self._store is not None, "nothing was written"
        return self._store.keys[..., self._used], self._store.values[..., self._used]

    def update_usage(self, mass: Tensor) -> None:
        """Add the attention on each cell that `read` returned, (B, O or 1, N), to its usage."""
        assert self._store is not None
        usage = self._store.metadata[: READS + 1, self._used]
        usage *= self.policy.decay
        usage[USAGE] += mass.mean(dim=(0, 1))
        usage[READS] += 1

    def cell_positions(self, t: int) -> tuple[Tensor, Tensor]:
        """Return where the cells of `read` lie, and the variance of the motion from their frames to frame t.

        Returns:
            Positions (N, 2), down and right of the frame's center in short sides, and the variances (N,) of a
            random walk with the policy's `motion_sigma` per frame.
        """
        assert self._store is not None and self.policy.motion_sigma is not None
        metadata = self._store.metadata[:, self._used]
        return metadata[Y : X + 1].T, (t - metadata[T]) * self.policy.motion_sigma**2

    def state(self) -> dict[str, Any]:
        """Return the content as tensors and plain values, for `from_state`."""
        state = {
            "frames": [(f.t, f.is_kept, f.is_permanent, *f.size) for f in self._slots],
            "appearances": [f.appearance for f in self._slots if f.appearance is not None],
            "prototypes": self._num_prototypes,
            "last_kept": self._last_kept,
        }
        if self._store is not None:
            keys, values = self.read()
            state |= {"keys": keys.clone(), "values": values.clone()}
            state["metadata"] = self._store.metadata[:, self._used].clone()
            state["capacity"] = len(self._store)  # the layout in memory decides how sums are rounded
        return state

    @classmethod
    def from_state(cls, state: dict[str, Any], policy: MemoryPolicy, *arguments: Any) -> Self:
        """Restore the bank that returned the state, bit by bit; other arguments as for the class.

        Raises:
            ValueError: the parts of the state are inconsistent.
        """
        bank = cls(policy, *arguments)
        for t, is_kept, is_permanent, height, width in state["frames"]:
            size = (int(height), int(width))
            bank._slots.append(MemoryFrame(int(t), bool(is_kept), bool(is_permanent), size))
        appearances = state["appearances"]
        for frame, appearance in zip(bank._slots, appearances, strict=bool(appearances)):
            frame.appearance = appearance
        bank._num_prototypes = int(state["prototypes"])
        bank._last_kept = None if state["last_kept"] is None else int(state["last_kept"])
        max_prototypes = policy.long_term or policy.prototypes
        if not 0 <= bank._num_prototypes <= max_prototypes or bank._slots and "keys" not in state:
            raise ValueError("memory: prototypes or cells are missing")
        if "keys" in state:
            parts = [state[name] for name in ("keys", "values", "metadata")]
            cells = bank._used.stop - bank._used.start
            counts = [part.shape[-1] for part in parts]
            if counts != [cells] * 3 or min(frame.cells for frame in bank._slots) < 1:
                raise ValueError(f"memory: must have {cells} cells; got {counts}")
            store = bank._store = KeyValueStore(parts[0], parts[1], cells_first=policy.top_k is not None)
            store.resize(max(bank._end, int(state["capacity"])))
            for stored, part in zip((store.keys, store.values, store.metadata), parts, strict=True):
                stored[..., bank._used] = part
        return bank

    def layout(self) -> list[tuple[int, slice, tuple[int, int]]]:
        """Return (t, its range among the cells of `read`, its (h, w)) for each frame, in temporal order.

        Cells outside all ranges are prototypes.
        """
        begin = self._used.start
        ranges = [self._slot_cells(slot) for slot in range(len(self._slots))]
        frames = [
            (frame.t, slice(cells.start - begin, cells.stop - begin), frame.size)
            for frame, cells in zip(self._slots, ranges, strict=True)
        ]
        return sorted(frames, key=lambda frame: frame[0])

    @property
    def _begin(self) -> int:
        """Cell at which slot 0 begins."""
        return self._num_prototypes if self.policy.long_term is not None else self.policy.prototypes

    @property
    def _end(self) -> int:
        return self._begin + sum(frame.cells for frame in self._slots)

    @property
    def _used(self) -> slice:
        return slice(self._begin - self._num_prototypes, self._end)

    def _slot_cells(self, slot: int) -> slice:
        begin = self._begin + sum(frame.cells for frame in self._slots[:slot])
        return slice(begin, begin + self._slots[slot].cells)

    def _drop(self, slot: int) -> None:
        """Remove a frame; the last one moves into its slot, or all later ones move up if sizes differ."""
        assert self._store is not None
        cells, last = self._slot_cells(slot), len(self._slots) - 1
        if slot != last and self._slots[last].cells == self._slots[slot].cells:
            self._store.move(self._slot_cells(last), cells)
            self._slots[slot] = self._slots.pop()
        else:
            later = slice(cells.stop, self._end)
            del self._slots[slot]
            self._store.move(later, slice(cells.start, self._end))
