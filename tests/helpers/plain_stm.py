"""The published evaluation code's way of working, plainly: what ours is compared with and timed against.

It holds the weights of a `stm.network.STM` of the published form and computes the same, but: objects are
padded to 11 slots in memory and in soft aggregation, all but the query encoder runs for each object, the
memory is concatenated anew for each frame, the read is one softmax over the whole memory at once, and batch
normalization is a step of its own.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from stm.network import STM, load_official

SLOTS = 11  # background and ten objects
EPSILON = 1e-7


def published_network() -> STM:
    """The network of the published form, with the seeded weights of the golden cases."""
    path = Path(__file__).parents[1] / "golden" / "weights.py"
    spec = importlib.util.spec_from_file_location("golden_weights", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return load_official(module.state_dict())


@dataclass
class Memory:
    """The frames that stay, for the objects that entered together.

    Attributes:
        objects: their slots, from 1.
        keys: (1, 11, 128, T, h, w); None before the first frame is memorized.
        values: (1, 11, 512, T, h, w).
    """

    objects: slice
    keys: Tensor | None = None
    values: Tensor | None = None

    def with_frame(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values that are read: those that stay and a further frame's."""
        if self.keys is None or self.values is None:
            return key, value
        return torch.cat([self.keys, key], dim=3), torch.cat([self.values, value], dim=3)


class PlainSTM:
    """Segments a video frame by frame with memory {0, N, 2N, ...} and the previous frame, in float32.

    Args:
        network: whose weights are copied, onto its device; of the published form.
        every: N; None for the frames with given masks and the previous one alone.

    Raises:
        ValueError: a network of another form.
    """

    def __init__(self, network: STM, every: int | None = 5) -> None:
        self.weights = {
            name: weight.float().clone(memory_format=torch.contiguous_format)
            for name, weight in network.state_dict().items()
        }
        own, shared = (self.weights.pop(f"decoder.compress.{part}.weight") for part in ("own", "shared"))
        self.weights["decoder.compress.weight"] = torch.cat([own, shared], dim=1)
        self.weights["decoder.compress.bias"] = self.weights.pop("decoder.compress.own.bias")
        needed = ("memory_encoder.others_stem", "memory_encoder.key", "query_encoder.trunk.stages.2.0.conv3")
        if network.similarity != "scaled_dot" or any(f"{name}.weight" not in self.weights for name in needed):
            raise ValueError("network: the published form is backbone=resnet50 with network=official")
        self.mean, self.std = network.mean.float().clone(), network.std.float().clone()
        self.every = every
        self.t = -1
        self.memories: list[Memory] = []
        self.last: tuple[Tensor, Tensor, set[int]] | None = None  # frame, soft masks, whose mask was given

    @property
    def objects(self) -> int:
        """How many objects are known."""
        return self.memories[-1].objects.stop - 1 if self.memories else 0

    @torch.no_grad()
    def step(self, frame: Tensor, mask: Tensor | None = None, previous: Tensor | None = None) -> Tensor:
        """Segment the next frame.

        Args:
            frame: float (3, H, W) in 0..1.
            mask: labels (H, W) given at this frame; new objects continue the count, from 1.
            previous: probabilities (O + 1, H, W) to memorize frame t - 1 with, instead of its own.

        Returns:
            Probabilities (O + 1, H, W), background first.
        """
        self.t += 1
        masks = self._predict(frame[None], previous) if self.memories else None
        given = set() if mask is None else set(mask.unique().tolist()) - {0}
        if mask is not None:
            masks = self._give(mask, given, masks)
        assert masks is not None
        self.last = frame[None], masks, given
        return masks[0, : self.objects + 1]

    def _give(self, mask: Tensor, given: set[int], masks: Tensor | None) -> Tensor:
        """Given masks in their objects' slots; what they cover is taken from the others. (1, 11, H, W)"""
        if masks is None:
            masks = torch.zeros(1, SLOTS, *mask.shape, device=mask.device)
        if max(given) > self.objects:
            self.memories.append(Memory(slice(self.objects + 1, max(given) + 1)))
        masks = masks * (mask == 0)
        for label in given:
            masks[0, label] = mask == label
        masks[0, 0] = 1 - masks[0, 1:].sum(0).clamp(max=1)
        return masks

    def _predict(self, frame: Tensor, previous: Tensor | None) -> Tensor:
        """Memorize frame t - 1, then segment frame t. (1, 11, H, W)"""
        assert self.last is not None
        last, masks, given = self.last
        if previous is not None:
            masks = F.pad(previous[None], (0, 0, 0, 0, 0, SLOTS - len(previous)))
        key, value = self._memorize(last, masks)
        held = [memory.with_frame(key, value) for memory in self.memories]
        probabilities = torch.softmax(self._segment(frame, held), dim=1)
        for memory, (keys, values) in zip(self.memories, held, strict=True):
            told = bool(given & set(range(memory.objects.start, memory.objects.stop)))
            if told or (self.every is not None and (self.t - 1) % self.every == 0):
                memory.keys, memory.values = keys, values
        return probabilities

    def _memorize(self, frame: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Key (1, 11, 128, 1, h, w) and value (1, 11, 512, 1, h, w) of a frame with its soft masks."""
        objects = _pad(masks[0, 1 : self.objects + 1, None])
        others = (objects.sum(0, keepdim=True) - objects).clamp(0, 1)
        frames = ((_pad(frame) - self.mean) / self.std).repeat(len(objects), 1, 1, 1)
        x = self._conv(frames, "memory_encoder.trunk.stem", stride=2)
        x = x + self._conv(objects, "memory_encoder.mask_stem", stride=2)
        x = x + self._conv(others, "memory_encoder.others_stem", stride=2)
        feature = self._trunk(x, "memory_encoder.trunk")[-1]
        key, value = (self._conv(feature, f"memory_encoder.{name}") for name in ("key", "value"))
        return _slots(key[None, :, :, None]), _slots(value[None, :, :, None])

    def _segment(self, frame: Tensor, held: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Logits (1, 11, H, W) of a frame, from the keys and values of each memory."""
        x = self._conv((_pad(frame) - self.mean) / self.std, "query_encoder.trunk.stem", stride=2)
        skip4, skip8, feature = self._trunk(x, "query_encoder.trunk")
        key, value = (self._conv(feature, f"query_encoder.{part}") for part in ("key", "value"))
        key, value, skip4, skip8 = (x.expand(self.objects, -1, -1, -1) for x in (key, value, skip4, skip8))
        readouts = [
            _read(keys[0, memory.objects], values[0, memory.objects], key)
            for memory, (keys, values) in zip(self.memories, held, strict=True)
        ]
        decoded = self._decode(torch.cat([torch.cat(readouts), value], dim=1), skip4, skip8)
        own = torch.softmax(decoded, dim=1)[:, 1]
        height, width = frame.shape[-2:]
        left, _, top, _ = _padding(frame)
        own = own[:, top : top + height, left : left + width]
        merged = torch.zeros(1, SLOTS, height, width, device=frame.device)
        merged[0, 0] = torch.prod(1 - own, dim=0)
        merged[0, 1 : self.objects + 1] = own
        merged = merged.clamp(EPSILON, 1 - EPSILON)
        return torch.log(merged / (1 - merged))

    def _decode(self, x: Tensor, skip4: Tensor, skip8: Tensor) -> Tensor:
        """Two logits for each object, (O, 2, H, W)."""
        x = self._residual(self._conv(x, "decoder.compress"), "decoder.residual")
        for skip, name in ((skip8, "decoder.refine8"), (skip4, "decoder.refine4")):
            finer = self._residual(self._conv(skip, f"{name}.skip.0"), f"{name}.skip.1")
            x = finer + F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = self._residual(x, f"{name}.merge")
        x = self._conv(F.relu(x), "decoder.predict")
        return F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)

    def _residual(self, x: Tensor, name: str) -> Tensor:
        inner = self._conv(F.relu(x), f"{name}.conv1")
        inner = self._conv(F.relu(inner), f"{name}.conv2")
        if f"{name}.shortcut.weight" in self.weights:
            x = self._conv(x, f"{name}.shortcut")
        return x + inner

    def _trunk(self, x: Tensor, name: str) -> list[Tensor]:
        """The maps at strides 4, 8 and 16 of what the first convolution gave."""
        x = F.max_pool2d(F.relu_(self._norm(x, f"{name}.stages.0.0")), 3, stride=2, padding=1)
        features = []
        for stage, stride in (("stages.0.3", 1), ("stages.1", 2), ("stages.2", 2)):
            block = 0
            while f"{name}.{stage}.{block}.conv1.weight" in self.weights:
                x = self._bottleneck(x, f"{name}.{stage}.{block}", stride if block == 0 else 1)
                block += 1
            features.append(x)
        return features

    def _bottleneck(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = F.relu_(self._norm(self._conv(x, f"{name}.conv1"), f"{name}.bn1"))
        y = F.relu_(self._norm(self._conv(y, f"{name}.conv2", stride), f"{name}.bn2"))
        y = self._norm(self._conv(y, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.weights:
            x = self._norm(self._conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return F.relu_(y.add_(x))

    def _conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (
            self.weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, scale, shift)


def _read(keys: Tensor, values: Tensor, query: Tensor) -> Tensor:
    """Equation 1, every weight at once: keys (O, 128, T, h, w), query (.., 128, h, w) -> (O, 512, h, w)."""
    p = keys.flatten(2).transpose(1, 2) @ query[: len(keys)].flatten(2)
    p = p / math.sqrt(keys.shape[1])
    p = torch.softmax(p, dim=1)
    return (values.flatten(2) @ p).unflatten(2, query.shape[-2:])


def _slots(of_objects: Tensor) -> Tensor:
    """(1, O, ...) -> (1, 11, ...), zeros in the slots of the background and of absent objects."""
    padded = of_objects.new_zeros(1, SLOTS, *of_objects.shape[2:])
    padded[:, 1 : of_objects.shape[1] + 1] = of_objects
    return padded


def _padding(maps: Tensor) -> tuple[int, int, int, int]:
    height, width = -maps.shape[-2] % 16, -maps.shape[-1] % 16
    return width // 2, width - width // 2, height // 2, height - height // 2


def _pad(maps: Tensor) -> Tensor:
    return F.pad(maps, _padding(maps))
