"""The score and the end of a job."""

import json
import pickle
import weakref

from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from stm.sweeps.finished_jobs import Score
from stm.sweeps.job_records import JobRecord


def test_a_score_keeps_its_measure_in_another_process():
    score = pickle.loads(pickle.dumps(Score(0.5, "J_tr")))
    assert (score, score.measure, json.dumps(score)) == (0.5, "J_tr", "0.5")


def test_memory_of_a_job_is_free_for_the_next(monkeypatch):
    class Cycle:
        pass

    cycle = Cycle()
    cycle.itself, reference = cycle, weakref.ref(cycle)
    del cycle
    monkeypatch.setenv("RANK", "1")  # a process that writes no record
    JobRecord().on_job_end(OmegaConf.create(), JobReturn())
    assert reference() is None
