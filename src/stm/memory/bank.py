"""Memory bank: the frames that a policy keeps for a group of objects."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from stm.memory.descriptors import MemoryFrame, appearance_descriptor, appearance_similarity, mask_confidence
from stm.memory.eviction import EVICTION_RULES, EvictionContext
from stm.memory.frame_slots import FrameSlots
from stm.memory.kv_store import KeyValueStore
from stm.memory.long_term import consolidate_frames
from stm.memory.prototypes import consolidate


class MemoryBank(FrameSlots):
    """Keys and values of a group of objects, for as long as the policy holds them.

    The objects of a bank entered the video together and have the same memory frames. The previous frame is
    written into a free slot; if the policy keeps it, it stays there, otherwise the next frame overwrites it.
    """

    def should_write(self, t: int, given: bool = False) -> bool:
        """Return whether the policy admits frame t, or nothing is held yet."""
        is_kept = self.policy.keeps(t, given, self.length, self._last_kept)
        return self.policy.previous or is_kept or not self._slots

    def write(
        self,
        t: int,
        key: Tensor,
        value: Tensor,
        given: bool = False,
        masks: Tensor | None = None,
        frame_limit: int | None = None,
    ) -> bool:
        """Write frame t in place of frame t - 1.

        Args:
            t: frame number.
            key: (B, O or 1, C_k, h, w).
            value: (B, O, C_v, h, w).
            given: whether the mask was given, not predicted.
            masks: (B, O, H, W) in 0..1, required by policies that depend on the frame's content.
            frame_limit: maximum number of frames, from `MemoryPolicy.frame_limit`.

        Returns:
            Whether the frame is kept once the next one is written.

        Raises:
            ValueError: a policy that depends on the frame's content got no masks, or a batch of videos.
        """
        policy = self.policy
        uses_coverage = policy.compares_appearance or policy.counts_usage
        if (uses_coverage or policy.min_confidence is not None) and (masks is None or len(key) > 1):
            content = "no masks" if masks is None else f"a batch of {len(key)}"
            raise ValueError(f"memory ({policy}): requires the masks of a single video; got {content}")
        size, coverage = (key.shape[-2], key.shape[-1]), None
        is_kept = policy.keeps(t, given, self.length, self._last_kept)
        frame = MemoryFrame(t, is_kept, policy.first and given, size)
        if uses_coverage and masks is not None:
            coverage = F.adaptive_avg_pool2d(masks.float(), size)[0].flatten(1)
        if coverage is not None and policy.compares_appearance:
            described = key[0, :, : self._key_channels].flatten(2).float()
            frame.appearance = appearance_descriptor(described, coverage)
        if frame.is_kept and not frame.is_permanent:
            frame.is_kept = self._is_accepted(frame, masks)
        if not (frame.is_kept or policy.previous) and self._slots:
            return False
        key, value = key.flatten(3), value.flatten(3)
        if self._store is None:
            self._store = KeyValueStore(key, value, cells_first=policy.top_k is not None)
        slot = self._next_slot(t, frame_limit)
        if slot < len(self._slots) and self._slots[slot].cells != frame.cells:
            self._drop(slot)
            slot = len(self._slots)
        self._slots[slot : slot + 1] = [frame]
        self._reserve(frame_limit, frame.cells)
        object_coverage = None if coverage is None else coverage.amax(dim=0)
        self._store.write(self._slot_cells(slot), key, value, size, t, object_coverage)
        if frame.is_kept:
            self._last_kept = t
            if policy.long_term is not None and len(self._slots) >= policy.max_working_frames:
                self._consolidate()
        return frame.is_kept

    def forget_previous(self) -> None:
        """Drop the frame that the next one would overwrite, unless it is the only one."""
        for slot, frame in enumerate(self._slots):
            if not frame.is_kept and len(self._slots) > 1:
                self._drop(slot)
                return

    def _consolidate(self) -> None:
        """Replace all frames but the first and the newest by prototypes in the long-term memory."""
        assert self._store is not None and self._potentiate is not None
        policy = self.policy
        order = sorted(range(len(self._slots)), key=lambda slot: self._slots[slot].t)
        newest = len(order) - (policy.min_working_frames - 1)
        candidates, remaining = order[1:newest], order[:1] + order[newest:]
        self._num_prototypes = consolidate_frames(
            self._store,
            self._num_prototypes,
            [self._slot_cells(slot) for slot in candidates],
            [self._slot_cells(slot) for slot in remaining],
            policy,
            self._potentiate,
        )
        self._slots = [self._slots[slot] for slot in remaining]

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
        if self.policy.long_term is not None:
            peak = min(peak, self.policy.max_working_frames)
        bound = min(peak, math.inf if frame_limit is None else frame_limit)
        frames = int(bound) if needed <= bound < math.inf else max(4, needed + needed // 2)
        self._store.resize(self._end + (frames - needed) * cells)
