"""Measures of current benchmarks, by the protocols of their evaluators.

`score_masks` computes per-frame scores from the masks of a video. A protocol's `summarize_objects` turns
these into measures of each object, and its `summarize` computes the benchmark's measures over the objects of
all videos:

    protocol = find_protocol("mosev2")
    objects = [protocol.summarize_objects(score_masks("mosev2", *masks, ids)) for masks, ids in videos]
    protocol.summarize(concatenate(objects))["J&Fdot"]
"""

from stm.evaluation.protocols.disappearance import disappearance_measures, summarize_disappearance
from stm.evaluation.protocols.protocol import Protocol, concatenate
from stm.evaluation.protocols.scoring import PROTOCOLS, VideoScorer, find_protocol, score_masks

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "VideoScorer",
    "concatenate",
    "disappearance_measures",
    "find_protocol",
    "score_masks",
    "summarize_disappearance",
]
