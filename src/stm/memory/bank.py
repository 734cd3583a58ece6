"""Memory bank: the frames that a policy keeps for a group of objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stm.memory.descriptors import MemoryFrame, appearance_descriptor, appearance_similarity, mask_confidence
from stm.memory.eviction import EVICTION_RULES, EvictionContext
from stm.memory.kv_store import READS, USAGE, KeyValueStore, T, X, Y
from stm.memory.policy import MemoryPolicy
from stm.memory.prototypes import consolidate


class MemoryBank:
    """Keys and values of a group of objects, for as long as the policy holds them.

    The objects of a bank entered the video together and have the same memory frames. The previous frame is
    written into a free slot; if the policy keeps it, it stays there, otherwise the next frame overwrites it.

    Args:
        policy: which frames are held.
        length: number of frames of the video, if known.

    Raises:
        ValueError: the policy requires the length.
    """

    def __init__(self, policy: MemoryPolicy, length: int | None = None) -> None:
        if policy.num_uniform is not None and length is None:
            name = f"memory.num_uniform={policy.num_uniform}"
            raise ValueError(f"{name}: the video's length must be known; pass Segmenter(length=...)")
        self.policy, self.length = policy, length
        self._slots: list[MemoryFrame] = []
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

    def should_write(self, t: int, given: bool = False) -> bool:
        """Return whether the policy admits frame t, or nothing is held yet."""
        return self.policy.previous or self.policy.keeps(t, given, self.length) or not self._slots

    def write(
        self,
        t: int,
        key: Tensor,
        value: Tensor,
        given: bool = False,
        masks: Tensor | None = None,
        frame_limit: int | None = None,
    ) -> None:
        """Write frame t in place of frame t - 1.

        Args:
            t: frame number.
            key: (B, O or 1, C_k, h, w).
            value: (B, O, C_v, h, w).
            given: whether the mask was given, not predicted.
            masks: (B, O, H, W) in 0..1, required by policies that depend on the frame's content.
            frame_limit: maximum number of frames, from `MemoryPolicy.frame_limit`.

        Raises:
            ValueError: a policy that depends on the frame's content got no masks, or a batch of videos.
        """
        policy = self.policy
        uses_coverage = policy.compares_appearance or policy.counts_usage
        if (uses_coverage or policy.min_confidence is not None) and (masks is None or len(key) > 1):
            content = "no masks" if masks is None else f"a batch of {len(key)}"
            raise ValueError(f"memory ({policy}): requires the masks of a single video; got {content}")
        size, coverage = (key.shape[-2], key.shape[-1]), None
        frame = MemoryFrame(t, policy.keeps(t, given, self.length), policy.first and given, size)
        if uses_coverage and masks is not None:
            coverage = F.adaptive_avg_pool2d(masks.float(), size)[0].flatten(1)
        if coverage is not None and policy.compares_appearance:
            frame.appearance = appearance_descriptor(key[0].flatten(2).float(), coverage)
        if frame.is_kept and not frame.is_permanent:
            frame.is_kept = self._is_accepted(frame, masks)
        if not (frame.is_kept or policy.previous) and self._slots:
            return
        key, value = key.flatten(3), value.flatten(3)
        if self._store is None:
            self._store = KeyValueStore(key, value)
        slot = self._next_slot(t, frame_limit)
        if slot < len(self._slots) and self._slots[slot].cells != frame.cells:
            self._drop(slot)
            slot = len(self._slots)
        self._slots[slot : slot + 1] = [frame]
        self._reserve(frame_limit, frame.cells)
        object_coverage = None if coverage is None else coverage.amax(dim=0)
        self._store.write(self._slot_cells(slot), key, value, size, t, object_coverage)

    def forget_previous(self) -> None:
        """Drop the frame that the next one would overwrite, unless it is the only one."""
        for slot, frame in enumerate(self._slots):
            if not frame.is_kept and len(self._slots) > 1:
                self._drop(slot)
                return

    def select_objects(self, objects: Sequence[int]) -> MemoryBank:
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
        """Return the content as tensors and plain values, for `MemoryBank.from_state`."""
        state = {
            "frames": [(f.t, f.is_kept, f.is_permanent, *f.size) for f in self._slots],
            "appearances": [f.appearance for f in self._slots if f.appearance is not None],
            "prototypes": self._num_prototypes,
        }
        if self._store is not None:
            keys, values = self.read()
            state |= {"keys": keys.clone(), "values": values.clone()}
            state["metadata"] = self._store.metadata[:, self._used].clone()
        return state

    @classmethod
    def from_state(cls, policy: MemoryPolicy, length: int | None, state: dict[str, Any]) -> MemoryBank:
        """Restore the bank that returned the state, bit by bit.

        Raises:
            ValueError: the parts of the state are inconsistent.
        """
        bank = cls(policy, length)
        for t, is_kept, is_permanent, height, width in state["frames"]:
            size = (int(height), int(width))
            bank._slots.append(MemoryFrame(int(t), bool(is_kept), bool(is_permanent), size))
        appearances = state["appearances"]
        for frame, appearance in zip(bank._slots, appearances, strict=bool(appearances)):
            frame.appearance = appearance
        bank._num_prototypes = int(state["prototypes"])
        if not 0 <= bank._num_prototypes <= policy.prototypes or bank._slots and "keys" not in state:
            raise ValueError("memory: prototypes or cells are missing")
        if "keys" in state:
            parts = [state[name] for name in ("keys", "values", "metadata")]
            cells = bank._used.stop - bank._used.start
            counts = [part.shape[-1] for part in parts]
            if counts != [cells] * 3 or min(frame.cells for frame in bank._slots) < 1:
                raise ValueError(f"memory: must have {cells} cells; got {counts}")
            store = bank._store = KeyValueStore(parts[0], parts[1])
            store.resize(bank._end)
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
    def _end(self) -> int:
        return self.policy.prototypes + sum(frame.cells for frame in self._slots)

    @property
    def _used(self) -> slice:
        return slice(self.policy.prototypes - self._num_prototypes, self._end)

    def _slot_cells(self, slot: int) -> slice:
        begin = self.policy.prototypes + sum(frame.cells for frame in self._slots[:slot])
        return slice(begin, begin + self._slots[slot].cells)

    def _is_accepted(self, frame: MemoryFrame, masks: Tensor | None) -> bool:
        """Return whether a frame is confident and novel enough to be kept."""
        policy = self.policy
        if policy.min_confidence is not None:
            assert masks is not None
            if mask_confidence(masks) < policy.min_confidence:
                return False
        kept = [held.appearance for held in self._slots if held.is_kept and held.appearance is not None]
        if policy.min_novelty is None or frame.appearance is None or not kept:
            return True
        similarity = appearance_similarity(frame.appearance, torch.stack(kept))
        return float(similarity.max()) <= 1 - policy.min_novelty

    def _next_slot(self, t: int, frame_limit: int | None) -> int:
        """Return the slot to write to: that of the previous or an evicted frame, or a new one."""
        while frame_limit is not None and len(self._slots) > frame_limit:  # new objects lowered the limit
            self._drop(self._evict(t))
        for slot, frame in enumerate(self._slots):
            if not frame.is_kept:
                return slot
        return self._evict(t) if len(self._slots) == frame_limit else len(self._slots)

    def _evict(self, next_id: int) -> int:
        """Return the slot of the frame to evict from a full memory, after its prototypes are consolidated."""
        assert self._store is not None
        order = sorted(range(len(self._slots)), key=lambda slot: self._slots[slot].t)
        frames = [self._slots[slot] for slot in order]
        usage = [0.0] * len(order)
        if self.policy.counts_usage:
            usage = torch.stack([self._store.usage(self._slot_cells(slot)).sum() for slot in order]).tolist()
        appearances = [frame.appearance for frame in frames if frame.appearance is not None]
        removable = [i for i, frame in enumerate(frames) if not frame.is_permanent]
        context = EvictionContext(
            frame_ids=[frame.t for frame in frames],
            next_id=next_id,
            candidates=removable or [min(1, len(frames) - 1)],
            usage=usage,
            appearances=torch.stack(appearances) if appearances else None,
        )
        slot = order[EVICTION_RULES[self.policy.eviction](context)]
        if self.policy.prototypes:
            self._num_prototypes = consolidate(
                self._store, self._slot_cells(slot), self._num_prototypes, self.policy.prototypes
            )
        return slot

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

    def _reserve(self, frame_limit: int | None, cells: int) -> None:
        """Allocate room for as many frames as there will be, or for half as many again as there are.

        Args:
            frame_limit: maximum number of frames.
            cells: number of cells of a further frame.
        """
        assert self._store is not None
        needed = len(self._slots)
        allocated = needed + (len(self._store) - self._end) // cells
        if needed <= allocated and (frame_limit is None or allocated <= frame_limit):
            return
        peak = math.inf if self.length is None else self.policy.peak_frames(self.length)
        bound = min(peak, math.inf if frame_limit is None else frame_limit)
        frames = int(bound) if needed <= bound < math.inf else max(4, needed + needed // 2)
        self._store.resize(self._end + (frames - needed) * cells)
