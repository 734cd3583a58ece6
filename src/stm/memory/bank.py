"""The keys and values of some objects, in room that is set aside once and written in place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stm.memory.policy import MemoryPolicy
from stm.memory.rules import LEAVING, Held, shown_again


@dataclass
class _Frame:
    """A frame in its slot.

    Attributes:
        t: its number.
        stays: it does not leave when the next frame comes.
        fixed: its mask was given, and such frames stay for good.
        look: (O, C), see `_look`.
    """

    t: int
    stays: bool
    fixed: bool
    look: Tensor | None = None


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
        if policy.spaced is not None and length is None:
            raise ValueError(
                f"memory.spaced={policy.spaced}: the video's length must be known, as Segmenter(length=...)"
            )
        self.policy, self.length = policy, length
        self._slots: list[_Frame] = []
        self._prototypes = 0  # how many there are
        self._area = 0  # cells of a frame
        # Cells are the last dimension of all; prototypes end where slot 0 begins.
        self._keys: Tensor | None = None  # (B, O or 1, C_k, cells)
        self._values: Tensor | None = None  # (B, O, C_v, cells)
        self._usage: Tensor | None = None  # (2, cells): what each was looked at, and how often it was read

    @property
    def frames(self) -> list[int]:
        """The frames held, in order of time."""
        return sorted(frame.t for frame in self._slots)

    @property
    def bytes(self) -> int:
        """What the keys and values that are held take."""
        if self._keys is None or self._values is None:
            return 0
        cells = self._prototypes + len(self._slots) * self._area
        return sum(part.nbytes // part.shape[-1] * cells for part in (self._keys, self._values))

    def wants(self, t: int, given: bool = False) -> bool:
        """Is frame t worth memorising? Also where the policy says no but nothing is held yet."""
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
        if len(key) > 1 and (policy.confident is not None or policy.compares_looks or policy.counts_usage):
            raise ValueError(f"memory ({policy}): decides by what a video shows, got a batch of {len(key)}")
        frame = _Frame(t, policy.stays(t, given, self.length), fixed=policy.first and given)
        if policy.compares_looks:
            frame.look = _look(key, _needed(masks, policy))
        if frame.stays and not frame.fixed:
            frame.stays = self._passes(frame, masks)
        if not (frame.stays or policy.previous) and self._slots:
            return
        self._area = math.prod(key.shape[-2:])
        slot = self._slot(room)
        self._slots[slot : slot + 1] = [frame]
        self._put(slot, key.flatten(3), value.flatten(3), room)

    def read(self) -> tuple[Tensor, Tensor]:
        """All that is held, in no certain order: keys (B, O or 1, C_k, N) and values (B, O, C_v, N)."""
        assert self._keys is not None and self._values is not None
        return self._keys[..., self._held], self._values[..., self._held]

    def used(self, mass: Tensor) -> None:
        """Count how much each cell that `read` gave was looked at: mass (B, O or 1, N)."""
        if self._usage is None:
            return
        usage = self._usage[:, self._held]
        usage *= self.policy.decay
        usage[0] += mass.mean(dim=(0, 1))
        usage[1] += 1

    @property
    def _held(self) -> slice:
        begin = self.policy.prototypes
        return slice(begin - self._prototypes, begin + len(self._slots) * self._area)

    def _cells(self, slot: int) -> slice:
        begin = self.policy.prototypes + slot * self._area
        return slice(begin, begin + self._area)

    def _passes(self, frame: _Frame, masks: Tensor | None) -> bool:
        """Do the gates let the frame stay?"""
        policy = self.policy
        if policy.confident is not None and _confidence(_needed(masks, policy)) < policy.confident:
            return False
        if policy.novel is None:
            return True
        assert frame.look is not None
        looks = [held.look for held in self._slots if held.stays and held.look is not None]
        return not looks or float(shown_again(frame.look, torch.stack(looks)).max()) <= 1 - policy.novel

    def _slot(self, room: int | None) -> int:
        """Where the next frame goes: over the one that leaves, or behind the last."""
        for slot, frame in enumerate(self._slots):
            if not frame.stays:
                return slot
        if room is not None:
            while len(self._slots) > room:  # objects that entered have shrunk it
                self._drop(self._leaving())
            if len(self._slots) == room:
                return self._leaving()
        return len(self._slots)

    def _leaving(self) -> int:
        """The slot of the frame that leaves a full memory, once its prototypes are taken."""
        order = sorted(range(len(self._slots)), key=lambda slot: self._slots[slot].t)
        frames = [self._slots[slot] for slot in order]
        free = [i for i, frame in enumerate(frames) if not frame.fixed]
        looks = [frame.look for frame in frames if frame.look is not None]
        held = Held(
            t=[frame.t for frame in frames],
            free=free or [min(1, len(frames) - 1)],  # all were given: the first stays longest
            usage=[float(self._share(self._cells(slot)).sum()) for slot in order],
            looks=torch.stack(looks) if looks else None,
        )
        slot = order[LEAVING[self.policy.leaves](held)]
        if self.policy.prototypes:
            self._consolidate(slot)
        return slot

    def _share(self, cells: slice) -> Tensor:
        """What each of the cells was looked at per frame; 0 where nobody counts."""
        if self._usage is None:
            return torch.zeros(1)
        looked, read = self._usage[:, cells]
        return looked / read.clamp(min=1)

    def _drop(self, slot: int) -> None:
        """Take a frame out; the last one moves into its slot."""
        last = len(self._slots) - 1
        for part in (self._keys, self._values, self._usage):
            if part is not None and slot != last:
                part[..., self._cells(slot)] = part[..., self._cells(last)]
        self._slots[slot] = self._slots[last]
        self._slots.pop()

    def _put(self, slot: int, key: Tensor, value: Tensor, room: int | None) -> None:
        """Write key (B, O or 1, C_k, h * w) and value (B, O, C_v, h * w) into a slot."""
        cells = self._cells(slot)
        if any(part is not None and part.requires_grad for part in (key, value, self._keys, self._values)):
            self._keys, self._values = _joined(self._keys, cells, key), _joined(self._values, cells, value)
            return
        there = 0 if self._keys is None else (self._keys.shape[-1] - self.policy.prototypes) // self._area
        if slot >= there or (room is not None and there > room):
            self._set_aside(key, value, self._capacity(slot, room))
        assert self._keys is not None and self._values is not None
        self._keys[..., cells], self._values[..., cells] = key, value
        if self._usage is not None:
            self._usage[:, cells] = 0

    def _capacity(self, slot: int, room: int | None) -> int:
        """Frames to set room aside for: as many as there will be, or half as many again as there are."""
        most = math.inf if self.length is None else self.policy.most(self.length)
        bound = min(most, math.inf if room is None else room)
        return int(bound) if slot < bound < math.inf else max(4, slot + 1 + slot // 2)

    @torch.inference_mode(False)  # or it could not be written outside of inference mode later
    def _set_aside(self, key: Tensor, value: Tensor, frames: int) -> None:
        """Move what is held into room for so many frames."""
        cells = self.policy.prototypes + frames * self._area
        self._keys = _moved(self._keys, key.new_empty((*key.shape[:-1], cells)))
        self._values = _moved(self._values, value.new_empty((*value.shape[:-1], cells)))
        if self.policy.counts_usage:
            self._usage = _moved(self._usage, torch.zeros((2, cells), device=key.device))

    def _consolidate(self, slot: int) -> None:
        """Keep the most looked at cells of a frame that leaves, beside or in place of earlier ones (XMem).

        A prototype keeps its cell's key; its value is the mean of the frame's values, weighted by how near
        their keys are to it ("potentiation").
        """
        assert self._keys is not None and self._values is not None and self._usage is not None
        cells, most = self._cells(slot), self.policy.prototypes
        keys, values = self._keys[..., cells], self._values[..., cells]
        apart = torch.cdist(keys.mT, keys.mT).square() / math.sqrt(keys.shape[-2])
        smooth = values @ torch.softmax(-apart, dim=-1).mT
        earlier = slice(most - self._prototypes, most)
        pool = [
            torch.cat([part[..., earlier], new], dim=-1)
            for part, new in (
                (self._keys, keys),
                (self._values, smooth),
                (self._usage, self._usage[:, cells]),
            )
        ]
        looked, read = pool[2]
        chosen = (looked / read.clamp(min=1)).topk(min(most, len(looked))).indices
        self._prototypes = len(chosen)
        for part, of_pool in zip((self._keys, self._values, self._usage), pool, strict=True):
            part[..., most - len(chosen) : most] = of_pool[..., chosen]


def _moved(cells: Tensor | None, room: Tensor) -> Tensor:
    """What is held, at the beginning of its new room."""
    if cells is not None:
        kept = min(cells.shape[-1], room.shape[-1])
        room[..., :kept] = cells[..., :kept]
    return room


def _joined(cells: Tensor | None, place: slice, new: Tensor) -> Tensor:
    """The cells with new ones in their place; as gradients flow through them, nothing is overwritten."""
    if cells is None:
        cells = new.new_zeros((*new.shape[:-1], place.start))
    return torch.cat([cells[..., : place.start], new, cells[..., place.stop :]], dim=-1)


def _needed(masks: Tensor | None, policy: MemoryPolicy) -> Tensor:
    if masks is None:
        raise ValueError(f"memory ({policy}): needs the masks of the frames that are written")
    return masks


def _look(key: Tensor, masks: Tensor) -> Tensor:
    """What the objects look like: the mean key over each mask, (O, C_k); 0 where it covers under half a cell.

    Args:
        key: (1, O or 1, C_k, h, w).
        masks: (1, O, H, W).
    """
    covered = F.adaptive_avg_pool2d(masks.float(), key.shape[-2:])[0].flatten(1)  # (O, h * w)
    area = covered.sum(-1, keepdim=True)
    mean = (key[0].flatten(2).float() * covered[:, None]).sum(-1) / area.clamp(min=0.5)
    return mean * (area >= 0.5)


def _confidence(masks: Tensor) -> float:
    """The mean probability over the mask (where it is above one half), averaged over objects that are seen.

    Args:
        masks: (1, O, H, W) in 0..1.

    Returns:
        0 where no object is seen.
    """
    inside = masks > 0.5
    area = inside.sum(dim=(-2, -1))
    sure = (masks * inside).sum(dim=(-2, -1)) / area.clamp(min=1)
    return float(sure.sum() / (area > 0).sum().clamp(min=1))
