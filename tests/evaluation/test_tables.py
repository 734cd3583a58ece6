"""The printed table, scores.csv and scores.json, which agree with each other."""

import csv
import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from stm.config.schema import CONF
from stm.evaluation.scores import MEASURES, ObjectScores, Scores, SequenceScores
from stm.evaluation.tables import describe_policy, headline, print_scores, scores_dict, write_scores
from stm.inference.ensemble import Augmentation
from stm.memory import MemoryPolicy


def object_scores(sequence, label, j, f, category=None):
    return ObjectScores(sequence, label, category, tuple(range(1, 1 + len(j))), tuple(j), tuple(f))


@pytest.fixture
def scores(tmp_path):
    def sequence(name, labels, value):
        objects = tuple(
            object_scores(name, label, [value, value], [value / 2, value / 2]) for label in labels
        )
        copied = tuple(object_scores(name, label, [0.125] * 2, [0.25] * 2) for label in labels)
        return SequenceScores(name, 4, 4, 2.0, 3 * 2**20, objects, {"copy-first": copied})

    settings = {
        "benchmark": "mine",
        "protocol": "davis",
        "size": 96,
        "policy": {"every": 5},
        "checkpoint": "x",
    }
    sequences = (sequence("swan", [1], 0.9), sequence("bear", [2, 5], 0.6))
    return Scores(settings, sequences, output=tmp_path)


def printed(scores):
    console = Console(file=io.StringIO(), width=200)
    print_scores(scores, console)
    return console.file.getvalue()


def test_a_policy_is_described_by_its_effective_settings():
    assert describe_policy(asdict(MemoryPolicy())) == "first, previous, every=5"
    assert describe_policy(asdict(MemoryPolicy(first=False, every=None, top_k=20))) == "previous, top_k=20"
    bounded = MemoryPolicy(every=2, max_frames=6, eviction="most_similar")
    described = "first, previous, every=2, max_frames=6, eviction=most_similar, decay=0.95"
    assert describe_policy(asdict(bounded)) == described


def test_means_are_over_objects_not_sequences(scores):
    assert scores.overall["J-Mean"] == pytest.approx((0.9 + 0.6 + 0.6) / 3)
    assert scores.overall["J-Recall"] == 1.0 and scores.overall["F-Recall"] == 0.0
    assert scores.overall["J&F-Mean"] == pytest.approx(0.7 * 0.75)
    assert list(scores.overall) == list(MEASURES)


def test_the_printed_table(scores):
    text = printed(scores)
    lines = {line.split()[1]: line.split() for line in text.splitlines() if line.startswith("│")}
    assert lines["swan"][3::2] == ["1", "0.900", "0.450", "0.675", "0.188"]
    assert lines["bear"][3::2] == ["2", "0.600", "0.300", "0.450", "0.188"]
    assert text.splitlines()[0] == "mine at short side 96; memory: every=5"
    assert "0.700" in text and "copy-first: J-Mean 0.125  F-Mean 0.250  J&F-Mean 0.188" in text
    assert "2.0 frames/s, peak memory 3 MB" in text
    assert f"{scores.output}/scores.json" in text and f"{scores.output}/masks" in text


def test_json_and_csv(scores):
    write_scores(scores, scores.output)
    values = json.loads((scores.output / "scores.json").read_text())
    assert values["global"] == scores.overall
    assert values["baselines"] == {"copy-first": pytest.approx(scores.baselines["copy-first"])}
    assert [(row["sequence"], row["object"]) for row in values["sequences"]] == [
        ("swan", 1),
        ("bear", 2),
        ("bear", 5),
    ]
    assert set(MEASURES) <= set(values["sequences"][0])
    assert values["settings"] == scores.settings
    assert values["speed"]["frames_per_second"] == 2.0
    with (scores.output / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sequence"] for row in rows] == ["swan", "bear", "bear", "all objects", "copy-first"]
    for row, expected in zip(rows[:3], values["sequences"], strict=True):
        assert {name: float(row[name]) for name in MEASURES} == {name: expected[name] for name in MEASURES}
    assert float(rows[3]["J-Mean"]) == scores.overall["J-Mean"]
    assert not list(scores.output.glob(".*"))


def test_the_files_of_the_davis_evaluator(scores, tmp_path):
    settings = {**scores.settings, "benchmark": "davis2017-val", "protocol": "davis"}
    write_scores(replace(scores, settings=settings), tmp_path)
    head, values = (tmp_path / "global_results-val.csv").read_text().splitlines()
    assert head == "J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay"
    assert values == ",".join(f"{scores.overall[name]:.3f}" for name in head.split(","))
    rows = (tmp_path / "per-sequence_results-val.csv").read_text().splitlines()
    assert rows[:2] == ["Sequence,J-Mean,F-Mean", "swan_1,0.900,0.450"]
    assert [row.split(",")[0] for row in rows[2:]] == ["bear_1", "bear_2"]


def test_measures_are_null_without_ground_truth(tmp_path):
    scores = Scores({"benchmark": "test-dev", "size": None}, (SequenceScores("v", 3, 3, 1.0, 0, ()),))
    values = json.loads(json.dumps(scores_dict(scores), allow_nan=False))
    assert values["global"] == dict.fromkeys(MEASURES) and values["sequences"] == []
    write_scores(scores, tmp_path)
    text = printed(scores)
    assert "no ground truth" in text and "test-dev at the frames' own size" in text


def test_g_of_youtube_vos():
    """Mean over objects within each half, then over J and F of both halves."""
    objects = (
        object_scores("v", 1, [0.8], [0.4], "cat"),
        object_scores("v", 2, [0.6], [0.2], "cat"),
        object_scores("w", 1, [0.2], [0.0], "unicorn"),
        object_scores("w", 2, [0.0], [0.0]),  # without a category, in neither half
    )
    sequence = SequenceScores("v", 3, 3, 1.0, 0, objects)
    values = Scores({}, (sequence,), seen=frozenset({"cat", "dog"})).overall
    halves = {"J-Seen": 0.7, "F-Seen": 0.3, "J-Unseen": 0.2, "F-Unseen": 0.0}
    assert {name: values[name] for name in halves} == pytest.approx(halves)
    assert values["G"] == pytest.approx(np.mean(list(halves.values())))
    assert values["J-Mean"] == pytest.approx(0.4)
    assert "G" not in Scores({}, (sequence,), seen=frozenset({"cat", "unicorn"})).overall
    assert "G" not in Scores({}, (sequence,)).overall


def test_scores_round_trip_through_json(scores):
    for sequence in scores.sequences:
        assert SequenceScores.from_dict(json.loads(json.dumps(sequence.to_dict()))) == sequence


def test_the_headline_says_what_was_averaged(scores):
    augmentation = Augmentation(flip=True, sizes=(480, 600), names=("weights-0a",)).settings()
    settings = {"benchmark": "mine", "size": 96, "policy": {"every": 5}, "augmentation": augmentation}
    averaged = "mean over 2 sizes, the video and its mirror image, 2 networks"
    assert headline(settings) == f"mine at short sides 480, 600; memory: every=5; {averaged}"
    one_size = Augmentation(flip=False, sizes=(480,)).settings()
    assert headline(settings | {"augmentation": one_size}) == "mine at short side 480; memory: every=5"
    assert headline(settings | {"augmentation": None}) == "mine at short side 96; memory: every=5"


def test_the_folder_of_an_evaluation_is_named_by_what_was_averaged():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        averaged = ["tta=flip", "sizes=[480,600]", "ensemble=[b/checkpoints/best.ckpt]"]
        config = compose("evaluate", ["checkpoint=a/last.ckpt", *averaged], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    assert config.name == "last_davis2017_480-600_flip_b-best_every_5"
