"""What is remembered of some objects, and who makes room for whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stm.memory.descriptors import appearance_descriptor, mask_confidence
from stm.memory.eviction import EVICTION_RULES, EvictionContext, descriptor_similarity
from stm.memory.frame import MemoryFrame
from stm.memory.kv_store import LOOKED, READ, KeyValueStore, T, X, Y
from stm.memory.policy import MemoryPolicy
from stm.memory.prototypes import consolidate


class MemoryBank:
    """The keys and values of some objects, as long as the policy wants them.

    Objects in one bank entered the video together and have the same memory frames. The previous frame is
    written into a free slot; it is promoted by leaving it there, else the next frame is written over it.

    Args:
        policy: which frames are held.
        length: frames of the video, where known.

    Raises:
        ValueError: the policy needs to know the length.
    """

    def __init__(self, policy: MemoryPolicy, length: int | None = None) -> None:
        if policy.num_uniform is not None and length is None:
            raise ValueError(
                f"memory.num_uniform={policy.num_uniform}: the video's length must be known, as Segmenter(length=...)"
            )
        self.policy, self.length = policy, length
        self._slots: list[MemoryFrame] = []
        self._prototypes = 0  # how many there are; they end where slot 0 begins
        self._cells: KeyValueStore | None = None

    @property
    def frames(self) -> list[int]:
        """The frames held, in order of time."""
        return sorted(frame.t for frame in self._slots)

    @property
    def largest(self) -> int:
        """Cells of the largest frame that is held."""
        return max((frame.cells for frame in self._slots), default=0)

    @property
    def bytes(self) -> int:
        """What the keys and values that are held take."""
        return 0 if self._cells is None else sum(part.nbytes for part in self.read())

    def should_write(self, t: int, given: bool = False) -> bool:
        """Is frame t worth memorizing? Also where the policy says no but nothing is held yet."""
        return self.policy.previous or self.policy.stays(t, given, self.length) or not self._slots

    def write(
        self,
        t: int,
        key: Tensor,
        value: Tensor,
        given: bool = False,
        masks: Tensor | None = None,
        room: int | None = None,
    ) -> None:
        """Remember frame t in place of frame t - 1.

        Args:
            key: (B, O or 1, C_k, h, w).
            value: (B, O, C_v, h, w).
            given: its mask was given, not predicted.
            masks: (B, O, H, W) in 0..1, the frame's masks; for policies that look at what a frame shows.
            room: frames to hold at most, from `MemoryPolicy.room`.

        Raises:
            ValueError: a policy that looks at what a frame shows has no masks, or a batch of several videos.
        """
        policy = self.policy
        if len(key) > 1 and (
            policy.min_confidence is not None or policy.compares_looks or policy.counts_usage
        ):
            raise ValueError(f"memory ({policy}): decides by what a video shows, got a batch of {len(key)}")
        size, covered = (key.shape[-2], key.shape[-1]), None
        frame = MemoryFrame(t, policy.stays(t, given, self.length), policy.first and given, size)
        if policy.compares_looks or policy.counts_usage:
            covered = F.adaptive_avg_pool2d(_needed(masks, policy).float(), size)[0].flatten(1)
        if covered is not None and policy.compares_looks:
            frame.look = appearance_descriptor(key[0].flatten(2).float(), covered)
        if frame.stays and not frame.fixed:
            frame.stays = self._passes(frame, masks)
        if not (frame.stays or policy.previous) and self._slots:
            return
        key, value = key.flatten(3), value.flatten(3)
        if self._cells is None:
            self._cells = KeyValueStore(key, value)
        slot = self._slot(t, room)
        if slot < len(self._slots) and self._slots[slot].cells != frame.cells:
            self._drop(slot)
            slot = len(self._slots)
        self._slots[slot : slot + 1] = [frame]
        self._reserve(room, frame.cells)
        shown = None if covered is None else covered.amax(dim=0)
        self._cells.put(self._place(slot), key, value, size, t, shown)

    def forget_previous(self) -> None:
        """Drop the frame that would leave when the next one comes, unless nothing else is held."""
        for slot, frame in enumerate(self._slots):
            if not frame.stays and len(self._slots) > 1:
                self._drop(slot)
                return

    def select_objects(self, objects: Sequence[int]) -> MemoryBank:
        """A bank of some of the objects, by their places in this one, which is left as it is."""
        other = copy(self)
        places = list(objects)
        other._slots = [
            replace(frame, look=None if frame.look is None else frame.look[places]) for frame in self._slots
        ]
        if self._cells is not None:
            other._cells = self._cells.select_objects(places)
        return other

    def read(self) -> tuple[Tensor, Tensor]:
        """All that is held, in no certain order: keys (B, O or 1, C_k, N) and values (B, O, C_v, N)."""
        assert self._cells is not None, "nothing was written"
        return self._cells.keys[..., self._held], self._cells.values[..., self._held]

    def update_usage(self, mass: Tensor) -> None:
        """Count how much each cell that `read` gave was looked at: mass (B, O or 1, N)."""
        assert self._cells is not None
        usage = self._cells.notes[: READ + 1, self._held]
        usage *= self.policy.decay
        usage[LOOKED] += mass.mean(dim=(0, 1))
        usage[READ] += 1

    def cell_positions(self, t: int) -> tuple[Tensor, Tensor]:
        """Where each cell that `read` gives lies, (N, 2), and how far what it shows may have moved till t.

        Places count in short sides of the picture from its middle, down and right. What may have moved is the
        variance (N,) of a random walk with the policy's `motion` a frame.
        """
        assert self._cells is not None and self.policy.motion_sigma is not None
        notes = self._cells.notes[:, self._held]
        return notes[Y : X + 1].T, (t - notes[T]) * self.policy.motion_sigma**2

    def state(self) -> dict[str, Any]:
        """All that is held, as tensors and plain values; `MemoryBank.restored` takes it."""
        frames = [(f.t, f.stays, f.fixed, *f.size) for f in self._slots]
        looks = [f.look for f in self._slots if f.look is not None]
        state = {"frames": frames, "looks": looks, "prototypes": self._prototypes}
        if self._cells is not None:
            keys, values = self.read()
            state |= {"keys": keys.clone(), "values": values.clone()}
            state["notes"] = self._cells.notes[:, self._held].clone()
        return state

    @classmethod
    def restored(cls, policy: MemoryPolicy, length: int | None, state: dict[str, Any]) -> MemoryBank:
        """The bank that gave the state, bit by bit.

        Raises:
            ValueError: the parts of the state don't fit each other.
        """
        bank = cls(policy, length)
        for t, stays, fixed, height, width in state["frames"]:
            bank._slots.append(MemoryFrame(int(t), bool(stays), bool(fixed), (int(height), int(width))))
        for frame, shows in zip(bank._slots, state["looks"], strict=bool(state["looks"])):
            frame.look = shows
        bank._prototypes = int(state["prototypes"])
        if not 0 <= bank._prototypes <= policy.prototypes or bank._slots and "keys" not in state:
            raise ValueError("memory: prototypes or cells are missing")
        if "keys" in state:
            parts = [state[name] for name in ("keys", "values", "notes")]
            cells = bank._held.stop - bank._held.start
            if any(part.shape[-1] != cells for part in parts) or min(f.cells for f in bank._slots) < 1:
                raise ValueError(f"memory: {cells} cells are told, others are there")
            bank._cells = KeyValueStore(parts[0], parts[1])
            bank._cells.resize(bank._end)
            for part, held in zip(
                (bank._cells.keys, bank._cells.values, bank._cells.notes), parts, strict=True
            ):
                part[..., bank._held] = held
        return bank

    def layout(self) -> list[tuple[int, slice, tuple[int, int]]]:
        """Of each frame in order of time: its number, where its cells lie in what `read` gives, its (h, w).

        Cells that lie nowhere are prototypes.
        """
        begin = self._held.start
        places = [self._place(slot) for slot in range(len(self._slots))]
        found = zip(self._slots, places, strict=True)
        frames = [(f.t, slice(place.start - begin, place.stop - begin), f.size) for f, place in found]
        return sorted(frames, key=lambda frame: frame[0])

    @property
    def _end(self) -> int:
        return self.policy.prototypes + sum(frame.cells for frame in self._slots)

    @property
    def _held(self) -> slice:
        return slice(self.policy.prototypes - self._prototypes, self._end)

    def _place(self, slot: int) -> slice:
        begin = self.policy.prototypes + sum(frame.cells for frame in self._slots[:slot])
        return slice(begin, begin + self._slots[slot].cells)

    def _passes(self, frame: MemoryFrame, masks: Tensor | None) -> bool:
        """Do the gates let the frame stay?"""
        policy = self.policy
        if (
            policy.min_confidence is not None
            and mask_confidence(_needed(masks, policy)) < policy.min_confidence
        ):
            return False
        if policy.min_novelty is None:
            return True
        assert frame.look is not None
        looks = [held.look for held in self._slots if held.stays and held.look is not None]
        return (
            not looks
            or float(descriptor_similarity(frame.look, torch.stack(looks)).max()) <= 1 - policy.min_novelty
        )

    def _slot(self, t: int, room: int | None) -> int:
        """Where the next frame goes: over the one that leaves, or behind the last."""
        while room is not None and len(self._slots) > room:  # objects that entered have shrunk it
            self._drop(self._leaving(t))
        for slot, frame in enumerate(self._slots):
            if not frame.stays:
                return slot
        return self._leaving(t) if len(self._slots) == room else len(self._slots)

    def _leaving(self, coming: int) -> int:
        """The slot of the frame that leaves a full memory, once its prototypes are taken."""
        assert self._cells is not None
        order = sorted(range(len(self._slots)), key=lambda slot: self._slots[slot].t)
        frames = [self._slots[slot] for slot in order]
        usage = [0.0] * len(order)
        if self.policy.counts_usage:
            usage = torch.stack([self._cells.usage(self._place(slot)).sum() for slot in order]).tolist()
        looks = [frame.look for frame in frames if frame.look is not None]
        held = EvictionContext(
            t=[frame.t for frame in frames],
            coming=coming,
            free=[i for i, frame in enumerate(frames) if not frame.fixed] or [min(1, len(frames) - 1)],
            usage=usage,
            looks=torch.stack(looks) if looks else None,
        )
        slot = order[EVICTION_RULES[self.policy.eviction](held)]
        if self.policy.prototypes:
            self._prototypes = consolidate(
                self._cells, self._place(slot), self._prototypes, self.policy.prototypes
            )
        return slot

    def _drop(self, slot: int) -> None:
        """Take a frame out; the last one moves into its slot, or all behind it where sizes differ."""
        assert self._cells is not None
        place, last = self._place(slot), len(self._slots) - 1
        if slot != last and self._slots[last].cells == self._slots[slot].cells:
            self._cells.move(self._place(last), place)
            self._slots[slot] = self._slots.pop()
        else:
            behind = slice(place.stop, self._end)
            del self._slots[slot]
            self._cells.move(behind, slice(place.start, self._end))

    def _reserve(self, room: int | None, area: int) -> None:
        """Set room aside: for as many frames as there will be, or half as many again as there are.

        Args:
            area: cells of a frame that comes.
        """
        assert self._cells is not None
        needed = len(self._slots)
        there = needed + (len(self._cells) - self._end) // area
        if needed <= there and (room is None or there <= room):
            return
        most = math.inf if self.length is None else self.policy.most(self.length)
        bound = min(most, math.inf if room is None else room)
        frames = int(bound) if needed <= bound < math.inf else max(4, needed + needed // 2)
        self._cells.resize(self._end + (frames - needed) * area)


def _needed(masks: Tensor | None, policy: MemoryPolicy) -> Tensor:
    if masks is None:
        raise ValueError(f"memory ({policy}): needs the masks of the frames that are written")
    return masks
