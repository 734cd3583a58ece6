"""Which past frames are remembered (section 3.6), and the bank that holds their keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MemoryPolicy:
    """Which frames does the memory hold while frame t is segmented? Plain values; Table 5 has four of them.

    Args:
        first: frames whose mask was given, such as the first, stay for good.
        previous: frame t - 1 is there, and leaves when t is done.
        every: frames 0, N, 2N, ... stay; None for none of them.

    Raises:
        ValueError: the memory would hold nothing, or `every` is not at least 1.
    """

    first: bool = True
    previous: bool = True
    every: int | None = 5

    def __post_init__(self) -> None:
        if not (self.first or self.previous or self.every):
            raise ValueError("memory: first, previous and every are all off, so nothing would be remembered")
        if self.every is not None and self.every < 1:
            raise ValueError(f"memory.every={self.every}: must be at least 1, or null for no such frames")

    def stays(self, t: int, given: bool) -> bool:
        """Does frame t stay in memory after it was the previous frame?"""
        return (self.first and given) or (self.every is not None and t % self.every == 0)


class MemoryBank:
    """The keys and values of some objects, as long as the policy wants them.

    Objects in one bank entered the video together and have the same memory frames.
    """

    def __init__(self, policy: MemoryPolicy) -> None:
        self.policy = policy
        self._staying: list[tuple[int, Tensor, Tensor]] = []
        self._previous: tuple[int, Tensor, Tensor] | None = None

    @property
    def frames(self) -> list[int]:
        """The frames held, in order of time."""
        held = [t for t, _, _ in self._staying]
        return held if self._previous is None else [*held, self._previous[0]]

    def wants(self, t: int, given: bool) -> bool:
        """Is frame t worth memorising? Also where the policy says no but nothing is held yet."""
        return self.policy.previous or self.policy.stays(t, given) or not self.frames

    def write(self, t: int, key: Tensor, value: Tensor, given: bool = False) -> None:
        """Remember frame t in place of frame t - 1: key (B, O or 1, C_k, h, w), value (B, O, C_v, h, w)."""
        self._previous = None
        if self.policy.stays(t, given):
            self._staying.append((t, key, value))
        else:
            self._previous = (t, key, value)

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys (B, O or 1, C_k, T, h, w) and values (B, O, C_v, T, h, w) of the frames held (section 3.1)."""
        held = self._staying if self._previous is None else [*self._staying, self._previous]
        _, keys, values = zip(*held, strict=True)
        return torch.stack(keys, dim=3), torch.stack(values, dim=3)
