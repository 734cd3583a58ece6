"""Section 3.4: soft aggregation, the layer that merges the objects' own probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7


def soft_aggregation(probabilities: Tensor, present: Tensor | None = None) -> Tensor:
    """Merge what each object's decoder said into logits over background and objects.

    The background's probability is the product of (1 - p_o); each label's logit is the log-odds of its
    probability; a softmax over labels gives the merged probabilities. Computed in float32, as 1e-7 does not
    exist in half precision.

    Args:
        probabilities: (B, O, H, W), each object's own, in 0..1.
        present: bool (B, O); False marks slots that pad the batch, which get the logit -inf and leave no
            trace in the others. All present by default.

    Returns:
        Logits (B, O + 1, H, W), background first.
    """
    p = probabilities.float()
    if present is not None:
        p = p * present[..., None, None]
    merged = torch.cat([(1 - p).prod(dim=1, keepdim=True), p], dim=1).clamp(EPSILON, 1 - EPSILON)
    logits = torch.log(merged / (1 - merged))
    if present is None:
        return logits
    padded = torch.cat([torch.zeros_like(present[:, :1]), ~present], dim=1)
    return logits.masked_fill(padded[..., None, None], float("-inf"))
