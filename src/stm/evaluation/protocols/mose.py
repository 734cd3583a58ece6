"""MOSE v1, whose server's program is not public.

The `_corrected` measures are DAVIS's, presumably the server's, `_vos_benchmark` those of the public tool
vos-benchmark, and the others those of MOSEv2's program.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stm.evaluation.protocols.mosev2 import MOSEV2
from stm.evaluation.protocols.protocol import ObjectMeasures, VideoMeasures, mean

TOOL = "vos_benchmark"


def summarize_objects(scores: VideoMeasures) -> ObjectMeasures:
    """Compute each object's measures.

    The tool leaves out the frames before the first one on which truth or prediction shows the object.
    """
    result = MOSEV2.summarize_objects(scores)
    is_shown = ~scores["empty"] | (scores["J_corrected"] < 1)
    counts = np.maximum.accumulate(is_shown, axis=1) & (~scores["empty"]).any(axis=1, keepdims=True)
    for name in ("J", "F"):
        values = np.where(counts, scores[f"{name}_corrected"], np.nan)
        result[f"{name}_{TOOL}_mean"] = np.array([mean(row) for row in values], dtype=float)
    return result


def summarize(objects: ObjectMeasures) -> dict[str, float]:
    """Compute the means over objects."""
    j, f = (mean(objects[f"{name}_{TOOL}_mean"]) for name in ("J", "F"))
    return {
        **MOSEV2.summarize(objects),
        f"J&F_{TOOL}": (j + f) / 2,
        f"J_{TOOL}": j,
        f"F_{TOOL}": f,
    }


MOSE = replace(
    MOSEV2,
    name="mose",
    headline="J&F_corrected",
    summarize_objects=summarize_objects,
    summarize=summarize,
    columns={name: f"{name}_corrected" for name in ("J", "F", "J&F", "J&Fdot_d", "J&Fdot_r")},
)
