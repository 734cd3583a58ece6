"""The tables that the benchmarks' own evaluators write, under their names and with their digits."""

from __future__ import annotations

import numpy as np

from stm.evaluation.protocols import lvos, sav, vost
from stm.evaluation.protocols.csv_tables import three_digits
from stm.evaluation.scores import MEASURES, Scores


def evaluator_files(scores: Scores) -> dict[str, str]:
    """Return file name -> content; empty where the benchmark's evaluator writes no table that is known.

    MOSEv2's `metrics.json` is not among them: only its values are known.
    """
    benchmark, rows = str(scores.settings.get("benchmark")), scores.objects
    split = benchmark.rpartition("-")[2].replace("holdout", "train")
    names = [
        f"{sequence.name}_{rank}"
        for sequence in scores.sequences
        for rank in range(1, 1 + len(sequence.objects))
    ]
    if not rows:
        return {}
    objects = {name: np.array([row.measures.get(name) for row in rows], float) for name in rows[0].measures}
    protocol = scores.settings.get("protocol")
    if protocol == "sav":
        folders = [(row.sequence, f"{row.object - 1:03d}") for row in rows]
        return {"results.csv": sav.results_csv(folders, objects)}
    if protocol == "davis":
        total = three_digits({name: [scores.overall[name]] for name in MEASURES})
        means = {"J-Mean": [row.J.mean for row in rows], "F-Mean": [row.F.mean for row in rows]}
        parts = three_digits({"Sequence": names, **means})
    elif protocol == "lvos":
        split = {"val": "valid"}.get(split, split)
        total, parts = lvos.global_csv(scores.overall), lvos.sequence_csv(names, objects)
    elif protocol == "vost":
        total, parts = vost.global_csv(scores.overall), vost.sequence_csv(names, objects)
    else:
        return {}
    return {f"global_results-{split}.csv": total, f"per-sequence_results-{split}.csv": parts}
