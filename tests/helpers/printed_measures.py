"""Measures as MOSEv2's evaluator prints them."""

from __future__ import annotations

from typing import Any

import numpy as np

from stm.evaluation.protocols.protocol import ObjectMeasures


def as_printed(value: float) -> float:
    """Round a measure to per cent with two digits, as the evaluator does."""
    return float(np.round(100 * np.float64(value), 2))


def printed_objects(objects: ObjectMeasures) -> list[dict[str, Any]]:
    """Return each object's row of the evaluator's `metrics.json`; None where an object has no such run."""
    j, fdot, f = (objects[f"{name}_mean"] for name in ("J", "Fdot", "F"))
    columns = {
        "J&F_new": (j + fdot) / 2,
        "J": j,
        "F_new": fdot,
        "disappear_J&F_new": (objects["J_d_mean"] + objects["Fdot_d_mean"]) / 2,
        "reappear_J&F_new": (objects["J_r_mean"] + objects["Fdot_r_mean"]) / 2,
        "F": f,
        "J&F": (j + f) / 2,
    }
    return [
        {name: None if np.isnan(values[i]) else as_printed(values[i]) for name, values in columns.items()}
        for i in range(len(j))
    ]
