"""The plain frame loop of XMem: working memory, long-term memory and sensory memory.

Each group of objects that entered together has a memory of its own, keys and usage included: its values are
always read through its own keys, and its long-term memory is consolidated and evicted on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.plain_blocks import aggregate, crop, given_masks, padding, prepare, top_k_softmax
from helpers.plain_xmem import HIDDEN, XMem, similarity

NEW_LIFE = 1e-7  # of a memory position that was never read


@dataclass(frozen=True)
class Settings:
    """Memory settings under the names of the published code."""

    mem_every: int = 5
    top_k: int = 30
    enable_long_term: bool = True
    min_mid_term_frames: int = 5
    max_mid_term_frames: int = 10
    num_prototypes: int = 128
    max_long_term_elements: int = 10000
    count_long_term_usage: bool = True
    deep_update_every: int = -1


@dataclass
class Store:
    """Memory positions; every tensor ends in the N positions.

    Attributes:
        keys: (1, C, N).
        shrinkage: (1, 1, N).
        selection: (1, C, N); None in long-term memory.
        values: (O, C, N).
        use: the attention that each position received so far, (N,).
        life: how often each position was read, (N,).
    """

    keys: Tensor
    shrinkage: Tensor
    selection: Tensor | None
    values: Tensor
    use: Tensor
    life: Tensor

    @classmethod
    def new(cls, keys: Tensor, shrinkage: Tensor, selection: Tensor | None, values: Tensor) -> Store:
        """Return a store of positions that were never read."""
        use = keys.new_zeros(keys.shape[-1])
        return cls(keys, shrinkage, selection, values, use, torch.full_like(use, NEW_LIFE))

    def __len__(self) -> int:
        return self.keys.shape[-1]

    @property
    def usage(self) -> Tensor:
        """Attention received per read, (N,)."""
        return self.use / self.life

    def select(self, positions: Tensor) -> Store:
        """Return a store of some positions, given as indices or as a mask."""
        parts: Any = (None if part is None else part[..., positions] for part in vars(self).values())
        return Store(*parts)

    def append(self, other: Store) -> Store:
        """Return a store of this one's positions and, after them, the other's."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        parts: Any = (None if a is None else torch.cat([a, b], dim=-1) for a, b in pairs)
        return Store(*parts)


class GroupMemory:
    """Working and long-term memory of the objects that entered together.

    Args:
        objects: their channels, from 0.
        settings: see `Settings`.
    """

    def __init__(self, objects: slice, settings: Settings) -> None:
        self.objects, self.settings = objects, settings
        self.work: Store | None = None
        self.long: Store | None = None
        self.candidates: Any = None  # a store, of the last consolidation
        self.prototypes: list[Tensor] = []  # which candidates each consolidation chose, most used first

    def read(self, key: Tensor, selection: Tensor) -> Tensor:
        """Read [long-term, working] memory at keys (1, C, Q), and count the usage. Returns (O, C, Q)."""
        assert self.work is not None
        stores = [store for store in (self.long, self.work) if store is not None]
        keys, shrinkage, values = (
            torch.cat([getattr(store, name) for store in stores], dim=-1)
            for name in ("keys", "shrinkage", "values")
        )
        attention = top_k_softmax(similarity(keys, shrinkage, key, selection), self.settings.top_k)
        received = attention[0].sum(dim=1)
        self.work.use += received[-len(self.work) :]
        self.work.life += 1
        if self.long is not None and self.settings.count_long_term_usage:
            self.long.use += received[: len(self.long)]
            self.long.life += 1
        return values @ attention

    def write(self, frame: Store) -> None:
        """Append a frame to working memory; consolidate working memory if it is full."""
        self.work = frame if self.work is None else self.work.append(frame)
        if self.settings.enable_long_term:
            positions = len(frame)
            if len(self.work) >= self.settings.max_mid_term_frames * positions:
                self._evict()
                self._consolidate(positions)

    def _evict(self) -> None:
        """Drop the least used prototypes so that there is room for the next ones."""
        bound = self.settings.max_long_term_elements - self.settings.num_prototypes
        if self.long is None or len(self.long) <= bound:
            return
        usage = self.long.usage
        threshold = usage.topk(len(usage) - bound, largest=False).values[-1]
        self.long = self.long.select(usage > threshold)

    def _consolidate(self, positions: int) -> None:
        """Move all frames but the first and the newest to long-term memory, as prototypes.

        Args:
            positions: h * w, the positions of one frame.
        """
        assert self.work is not None
        newest = len(self.work) - (self.settings.min_mid_term_frames - 1) * positions
        index = torch.arange(len(self.work), device=self.work.use.device)
        is_candidate = (index >= positions) & (index < newest)
        candidates = self.work.select(is_candidate)
        assert candidates.selection is not None
        chosen = candidates.usage.topk(min(self.settings.num_prototypes, len(candidates))).indices
        self.candidates = candidates
        self.prototypes.append(chosen)
        attention = torch.softmax(
            similarity(
                candidates.keys,
                candidates.shrinkage,
                candidates.keys[..., chosen],
                candidates.selection[..., chosen],
            ),
            dim=1,
        )
        prototypes = Store.new(
            candidates.keys[..., chosen],
            candidates.shrinkage @ attention,
            None,
            candidates.values @ attention,
        )
        self.long = prototypes if self.long is None else self.long.append(prototypes)
        self.work = self.work.select(~is_candidate)


class PlainXMem:
    """Segment a video frame by frame with XMem.

    Args:
        network: in eval mode.
        settings: see `Settings`.
    """

    def __init__(self, network: XMem, settings: Settings | None = None) -> None:
        self.network, self.settings = network, settings or Settings()
        self.t = self.last_memorized = -1
        self.last_deep_update = -self.settings.deep_update_every
        self.groups: list[Any] = []
        self.hidden: Tensor | None = None
        self.first_memory: dict[str, Tensor] = {}  # of frame 0

    @property
    def objects(self) -> int:
        """The number of objects known so far."""
        return self.groups[-1].objects.stop if self.groups else 0

    @torch.no_grad()
    def step(self, frame: Tensor, mask: Tensor | None = None, last: bool = False) -> Tensor:
        """Segment the next frame.

        Args:
            frame: (3, H, W) in 0..1.
            mask: labels (H, W) of the objects that enter; new labels continue the count from 1.
            last: whether the video ends here, so that the frame is not memorized.

        Returns:
            Probabilities (O + 1, H, W), background first.
        """
        self.t += 1
        image = prepare(frame)
        features = self.network.key_encoder(image)
        key = self.network.key_proj(features[0])
        is_memory_frame = not last and (
            mask is not None or self.t - self.last_memorized >= self.settings.mem_every
        )
        every = self.settings.deep_update_every
        is_deep = is_memory_frame if every < 0 else not last and self.t - self.last_deep_update >= every
        labels = None if mask is None else F.pad(mask, padding(frame)).long()
        probabilities = None
        if self.groups and not (labels is not None and self._is_complete(labels)):
            readout = self._read(key)
            logits, updated = self.network.decoder(features, readout, self.hidden)
            probabilities = aggregate(torch.sigmoid(logits[:, 0]))
            if every >= 0 or not is_deep:
                self.hidden = updated
        if labels is not None:
            probabilities = given_masks(labels, None if probabilities is None else probabilities[1:])
            self._enter(len(probabilities) - 1, key[0])
        assert probabilities is not None
        if is_memory_frame or is_deep:
            value, hidden = self.network.value_encoder(image, features[0], probabilities[1:], self.hidden)
            if is_deep:
                self.hidden, self.last_deep_update = hidden, self.t
            if is_memory_frame:
                self._memorize(key, value)
        return crop(probabilities, frame)

    def _is_complete(self, labels: Tensor) -> bool:
        """Whether the labels show every object, so that the frame need not be segmented."""
        shown = set(labels.unique().tolist()) - {0}
        return shown == set(range(1, max(self.objects, *shown) + 1))

    def _read(self, key: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        query, _, selection = (part.flatten(2) for part in key)
        readouts = [group.read(query, selection) for group in self.groups]
        return torch.cat(readouts).unflatten(2, key[0].shape[-2:])

    def _enter(self, count: int, like: Tensor) -> None:
        """Add the objects up to `count` as a group, with empty sensory memory."""
        entering = count - self.objects
        if not entering:
            return
        self.groups.append(self._new_group(slice(self.objects, count)))
        if self.network.sensory:
            new = like.new_zeros(entering, HIDDEN, *like.shape[-2:])
            self.hidden = new if self.hidden is None else torch.cat([self.hidden, new])

    def _new_group(self, objects: slice) -> Any:
        return GroupMemory(objects, self.settings)

    def _memorize(self, key: tuple[Tensor, Tensor, Tensor], value: Tensor) -> None:
        """Write the frame to every group's memory."""
        self.last_memorized = self.t
        keys, shrinkage, selection = (part.flatten(2) for part in key)
        for group in self.groups:
            group.write(Store.new(keys, shrinkage, selection, value.flatten(2)[group.objects]))
        if self.t == 0:
            self.first_memory = {"value": value}
            for name, part in zip(("key", "shrinkage", "selection"), key, strict=True):
                self.first_memory[name] = part[0]
            if self.hidden is not None:
                self.first_memory["hidden"] = self.hidden
