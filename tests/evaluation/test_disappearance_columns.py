"""Disappearance measures in the scores of any benchmark whose truth is whole."""

import json

import numpy as np
import pytest
from helpers.data_trees import boxes

from stm.evaluation.protocols import disappearance_measures, score_masks, summarize_disappearance
from stm.evaluation.scores import Scores, SequenceScores
from stm.evaluation.tables import score_table, write_scores
from stm.evaluation.tally import score
from stm.sweeps.job_records import write_job_list
from stm.sweeps.results import read_evaluation, read_sweep, table_rows
from stm.sweeps.sweep_tables import markdown
from stm.video import ArrayVideo

A, B, SHIFTED = (5, 5, 20, 25), (22, 30, 38, 55), (5, 9, 20, 29)
TRUTH = np.stack([boxes({2: B, **({} if t in (2, 3) else {1: A})}) for t in range(7)])
PREDICTION = np.stack([boxes({2: B, **({} if t == 2 else {1: SHIFTED})}) for t in range(7)])
FRAMES = np.zeros((7, 40, 60, 3), np.uint8)


class Sparse(ArrayVideo):
    """A video with masks of some frames."""

    annotated = (0, 1, 2, 4, 6)

    def mask(self, t):
        return super().mask(t) if t in self.annotated else None


def scores_of(protocol, *videos):
    sequences = [
        SequenceScores(video.name, 7, 7, 1.0, 0, score(video, enumerate(PREDICTION), protocol))
        for video in videos
    ]
    settings = {"benchmark": protocol, "protocol": protocol, "size": None}
    return Scores(settings, tuple(sequences))


@pytest.mark.parametrize("protocol", ["davis", "all", "youtube"])
def test_columns_are_the_measures_of_the_frames(protocol, tmp_path):
    scores = scores_of(protocol, ArrayVideo("v", FRAMES, TRUTH))
    counted = [
        np.concatenate([masks, masks[-1:]]) if protocol != "davis" else masks for masks in (TRUTH, PREDICTION)
    ]
    expected = summarize_disappearance(disappearance_measures(score_masks("davis", *counted, [1, 2])))
    assert 0 < expected["J&F_d"] < 1 and 0 < expected["J&F_r"] < 1
    assert {name: scores.overall[name] for name in expected} == pytest.approx(expected, abs=1e-15)
    write_scores(scores, tmp_path)
    values = json.loads((tmp_path / "scores.json").read_text())
    assert values["global"]["J&F_d"] == expected["J&F_d"] and "J&F_d" not in values["sequences"][1]
    assert [column.header for column in score_table(scores).columns][4:7] == ["J&F", "J&F_d", "J&F_r"]
    measures = read_evaluation(tmp_path / "scores.json").measures
    assert measures["J&F_r"] == pytest.approx(100 * expected["J&F_r"])
    assert (
        SequenceScores.from_dict(json.loads(json.dumps(scores.sequences[0].to_dict()))) == scores.sequences[0]
    )


def test_no_columns_where_frames_lack_masks_or_nothing_disappears():
    assert "J&F_d" not in scores_of("all", Sparse("v", FRAMES, TRUTH)).overall
    both = scores_of("all", Sparse("v", FRAMES, TRUTH), ArrayVideo("w", FRAMES, TRUTH))
    assert "J&F_d" not in both.overall
    assert "J&F_d" not in scores_of("davis", ArrayVideo("v", FRAMES, PREDICTION[3:4].repeat(7, 0))).overall


@pytest.mark.parametrize(
    ("protocol", "compared", "key", "scale"),
    [
        ("mosev2", "J&Fdot", "J&Fdot", 1),
        ("mose", "J&F", "J&F_corrected", 1),
        ("vost", "J_tr", "J_last-Mean", 1),
        ("sav", "J&F", "J&F", 100),
    ],
)
def test_sweeps_compare_by_the_headline_measure(protocol, compared, key, scale, tmp_path):
    scores = scores_of(protocol, ArrayVideo("v", FRAMES, TRUTH))
    write_scores(scores, tmp_path)
    evaluation = read_evaluation(tmp_path / "scores.json")
    assert evaluation.compared == compared == scores.protocol.headline_heading
    assert evaluation.measures[compared] == pytest.approx(100 * scores.headline)
    assert scores.headline == pytest.approx(scores.overall[key] / scale)
    rows = {("v", row.object): 100 / scale * row.row()[key] for row in scores.objects}
    assert evaluation.objects == pytest.approx(rows)


def test_a_sweep_s_table_has_the_differences_of_reappearances(tmp_path):
    """The second setting finds object 1 of both videos again, and also claims it while it is absent."""
    videos = [ArrayVideo(name, FRAMES, TRUTH) for name in ("v", "w")]
    keeps = np.stack([boxes({1: A, 2: B})] * 7)
    jobs = []
    for n, masks in enumerate((PREDICTION, keeps)):
        sequences = [SequenceScores(v.name, 7, 7, 1.0, 0, score(v, enumerate(masks))) for v in videos]
        folder = tmp_path / f"{n}_x"
        folder.mkdir()
        settings = {"benchmark": "synthetic", "protocol": "davis", "size": None}
        write_scores(Scores(settings, tuple(sequences)), folder)
        (folder / "job.json").write_text(json.dumps({"status": "completed", "error": ""}))
        memory = {"memory": ("previous", "every_5")[n]}
        jobs.append({"number": n, "stage": "", "folder": folder.name, "settings": memory, "overrides": []})
    write_job_list(tmp_path, jobs, {"command": "x", "baseline": {"memory": "previous"}})
    row = next(row for row in table_rows(read_sweep(tmp_path)) if row.setting["memory"] == "every_5")
    first, second = (read_evaluation(tmp_path / f"{n}_x" / "scores.json").measures for n in (0, 1))
    means = {name: second[name] - first[name] for name in ("J&F_d", "J&F_r")}
    assert {name: one.mean for name, one in row.run_differences.items()} == pytest.approx(means)
    assert means["J&F_d"] < 0 < means["J&F_r"]
    table = [line.split("|") for line in markdown(read_sweep(tmp_path)).splitlines() if "|" in line]
    column = [cell.strip() for cell in table[0]].index("J&F_r - memory=previous")
    assert f"{means['J&F_r']:+.1f} [" in table[-1][column]
