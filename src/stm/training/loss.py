"""The loss of a predicted frame (section 3.5), and two additions of later work by switch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stm.video import VOID


class SegmentationLoss(nn.Module):
    """Cross-entropy on aggregated logits; optionally on the hardest pixels only, optionally with Dice.

    Args:
        bootstrap_fraction: share of the pixels with the largest cross-entropy that count (STCN's bootstrapping), reached
            linearly between the steps `bootstrap_start_step` and `bootstrap_end_step`; 1 counts all of them, as the paper.
        bootstrap_start_step: optimizer step up to which all pixels count.
        bootstrap_end_step: optimizer step from which only `bootstrap_fraction` of them count.
        dice: weight of the soft Dice loss of the objects present (XMem); 0 leaves it out.

    Raises:
        ValueError: `bootstrap_fraction` not in (0, 1], `dice` negative, or the steps out of order.
    """

    def __init__(
        self,
        bootstrap_fraction: float = 1.0,
        bootstrap_start_step: int = 20_000,
        bootstrap_end_step: int = 70_000,
        dice: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < bootstrap_fraction <= 1:
            raise ValueError(
                f"loss.bootstrap_fraction={bootstrap_fraction}: a share of the pixels, in (0, 1]"
            )
        if dice < 0:
            raise ValueError(f"loss.dice={dice}: a weight, at least 0")
        if not 0 <= bootstrap_start_step <= bootstrap_end_step:
            raise ValueError(
                f"loss: need 0 <= bootstrap_start_step <= bootstrap_end_step, got {bootstrap_start_step} and {bootstrap_end_step}"
            )
        self.bootstrap_fraction, self.bootstrap_start_step, self.bootstrap_end_step, self.dice = (
            bootstrap_fraction,
            bootstrap_start_step,
            bootstrap_end_step,
            dice,
        )

    def forward(self, logits: Tensor, masks: Tensor, step: int = 0) -> Tensor:
        """Mean loss over the batch.

        Args:
            logits: (B, O + 1, H, W) of soft aggregation, background first; -inf in slots that pad the batch.
            masks: uint8 (B, H, W), labels 0..O and VOID, which does not count.
            step: the optimizer step, for the schedule.
        """
        masks = masks.long()
        pixels = F.cross_entropy(logits, masks, ignore_index=VOID, reduction="none").flatten(1)
        counted = (masks != VOID).flatten(1).sum(1).clamp(min=1)
        share = self.share(step)
        if share == 1:
            loss = (pixels.sum(1) / counted).mean()
        else:
            hardest = pixels.sort(dim=1, descending=True).values
            kept = (share * counted).ceil()
            rank = torch.arange(hardest.shape[1], device=hardest.device)
            loss = ((hardest * (rank < kept[:, None])).sum(1) / kept).mean()
        return loss + self.dice * _dice(logits, masks) if self.dice else loss

    def share(self, step: int) -> float:
        """The share of pixels that count at an optimizer step."""
        if step <= self.bootstrap_start_step:
            return 1.0
        if step >= self.bootstrap_end_step:
            return self.bootstrap_fraction
        done = (step - self.bootstrap_start_step) / (self.bootstrap_end_step - self.bootstrap_start_step)
        return 1 + done * (self.bootstrap_fraction - 1)


def _dice(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - soft Dice, averaged over the objects that are not padding; smoothed by one pixel.

    The objects are those of the global batch: the mean of the processes' values, which is what their averaged
    gradients follow, is the value of one process.
    """
    objects = logits.shape[1] - 1
    counts = (masks != VOID)[:, None]
    truth = (masks[:, None] == torch.arange(1, objects + 1, device=masks.device)[:, None, None]) & counts
    predicted = torch.softmax(logits, dim=1)[:, 1:] * counts
    both = (predicted * truth).sum((2, 3))
    total = predicted.sum((2, 3)) + truth.sum((2, 3))
    present = torch.isfinite(logits[:, 1:]).flatten(2).any(-1)
    count, processes = present.sum(), 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        processes = torch.distributed.get_world_size()
    return ((1 - (2 * both + 1) / (total + 1)) * present).sum() * processes / count.clamp(min=1)
