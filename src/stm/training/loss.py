"""The training loss (section 3.5), with two optional additions of later work."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stm.video import VOID


class SegmentationLoss(nn.Module):
    """Cross-entropy on aggregated logits, optionally bootstrapped, optionally with a Dice loss.

    Args:
        bootstrap_fraction: Final fraction of the pixels that count, those with the largest cross-entropy
            (STCN), in (0, 1]; 1 counts all pixels, as the paper does.
        bootstrap_start_step: Optimizer step until which all pixels count; the fraction then falls linearly.
        bootstrap_end_step: Optimizer step from which only `bootstrap_fraction` of the pixels count.
        dice: Weight of the soft Dice loss of the objects present (XMem); 0 omits it.

    Raises:
        ValueError: `bootstrap_fraction` is not in (0, 1], `dice` is negative, or the steps are out of order.
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
            raise ValueError(f"loss.bootstrap_fraction={bootstrap_fraction}: must be in (0, 1]")
        if dice < 0:
            raise ValueError(f"loss.dice={dice}: must be at least 0")
        if not 0 <= bootstrap_start_step <= bootstrap_end_step:
            raise ValueError(
                "loss: must have 0 <= bootstrap_start_step <= bootstrap_end_step; "
                f"got {bootstrap_start_step} and {bootstrap_end_step}"
            )
        self.bootstrap_fraction = bootstrap_fraction
        self.bootstrap_start_step = bootstrap_start_step
        self.bootstrap_end_step = bootstrap_end_step
        self.dice = dice

    def forward(self, logits: Tensor, masks: Tensor, step: int = 0) -> Tensor:
        """Compute the mean of the clips' losses.

        Args:
            logits: (B, O + 1, H, W) of soft aggregation, background first; -inf in slots that pad the batch.
            masks: uint8 (B, H, W), labels 0..O, and VOID for pixels that do not count.
            step: Optimizer step, for the schedule.
        """
        masks = masks.long()
        pixels = F.cross_entropy(logits, masks, ignore_index=VOID, reduction="none").flatten(1)
        counted = (masks != VOID).flatten(1).sum(1).clamp(min=1)
        fraction = self.fraction(step)
        if fraction == 1:
            loss = (pixels.sum(1) / counted).mean()
        else:
            hardest = pixels.sort(dim=1, descending=True).values
            kept = (fraction * counted).ceil()
            rank = torch.arange(hardest.shape[1], device=hardest.device)
            loss = ((hardest * (rank < kept[:, None])).sum(1) / kept).mean()
        return loss + self.dice * _dice(logits, masks) if self.dice else loss

    def fraction(self, step: int) -> float:
        """Return the fraction of the pixels that count at an optimizer step."""
        if step <= self.bootstrap_start_step:
            return 1.0
        if step >= self.bootstrap_end_step:
            return self.bootstrap_fraction
        progress = (step - self.bootstrap_start_step) / (self.bootstrap_end_step - self.bootstrap_start_step)
        return 1 + progress * (self.bootstrap_fraction - 1)


def _dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Compute 1 - soft Dice, smoothed by one pixel: the mean over a clip's objects, then over the clips.

    A clip's loss does not depend on the other clips, so that the gradient of a batch is the mean of those of
    its parts, on several processes or accumulated.
    """
    objects = logits.shape[1] - 1
    counts = (masks != VOID)[:, None]
    truth = (masks[:, None] == torch.arange(1, objects + 1, device=masks.device)[:, None, None]) & counts
    predicted = torch.softmax(logits, dim=1)[:, 1:] * counts
    both = (predicted * truth).sum((2, 3))
    total = predicted.sum((2, 3)) + truth.sum((2, 3))
    present = torch.isfinite(logits[:, 1:]).flatten(2).any(-1)
    losses = (1 - (2 * both + 1) / (total + 1)) * present
    return (losses.sum(1) / present.sum(1).clamp(min=1)).mean()
