"""A plain training step: clip by clip and object by object, as reproductions of STM's training do it."""

from __future__ import annotations

import torch
from torch import Tensor

from stm.network import STM
from stm.network.decoder import soft_aggregation
from stm.network.padding import crop
from stm.training.loss import SegmentationLoss
from stm.video import ClipBatch


def plain_training_step(network: STM, loss: SegmentationLoss, batch: ClipBatch, step: int = 0) -> Tensor:
    """The loss of section 3.5: every frame is memorized with its given or predicted masks.

    Both encoders and the decoder run once for each object, and the memory is concatenated for each frame.

    Args:
        network: without `other_objects_channel` and sensory memory, in training mode.
        loss: of one frame.
        batch: the clips.
        step: optimizer step, for the loss.
    """
    assert not network.sensory_channels and not network.arguments["other_objects_channel"]
    size, slots = batch.frames.shape[-2:], max(batch.objects.tolist())
    frame_logits: list[list[Tensor]] = [[] for _ in range(batch.frames.shape[1])]
    for b in range(len(batch)):
        frames, count = batch.frames[b].to(network.mean.dtype) / 255, int(batch.objects[b])
        masks = batch.object_masks(0)[b, :count].to(frames.dtype)
        memories: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(count)]
        for t in range(1, len(frames)):
            for o in range(count):
                memories[o].append(network.memorize(frames[None, t - 1], masks[None, [o]]))
            own = []
            for o in range(count):
                query = network.encode(frames[t])
                keys, values = (torch.stack(parts, dim=3) for parts in zip(*memories[o], strict=True))
                readout = network.read(query, keys, values)
                own.append(network.decoder(readout, query.decoded_map, query.skips, None)[0])
            logits = crop(soft_aggregation(torch.cat(own, dim=1)), size)
            masks = torch.softmax(logits, dim=1)[0, 1:]
            padding = logits.new_full((1, slots - count, *size), -torch.inf)
            frame_logits[t].append(torch.cat([logits, padding], dim=1))
    losses = [loss(torch.cat(frame_logits[t]), batch.masks[:, t], step) for t in range(1, len(frame_logits))]
    return torch.stack(losses).sum()
