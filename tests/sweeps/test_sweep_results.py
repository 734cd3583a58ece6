"""A sweep's table, from files written by hand so that every number is known."""

import csv
import json
import os
import shlex

import numpy as np
import pytest

from stm.sweeps.job_records import write_job_list
from stm.sweeps.paper_numbers import TABLES
from stm.sweeps.results import read_sweep, table_rows
from stm.sweeps.sweep_tables import markdown, write_tables, write_trials


def scores(benchmark, j, frames=100, seconds=5.0, videos=3):
    """Return the contents of a `scores.json` whose videos have J around the given mean."""
    offsets = np.linspace(-0.1, 0.1, videos)
    rows = [{"sequence": f"v{n}", "object": 1, "J-Mean": j + off} for n, off in enumerate(offsets)]
    measures = {} if j is None else {"J-Mean": j, "F-Mean": j / 2, "J&F-Mean": 0.75 * j}
    return {
        "global": measures,
        "baselines": {},
        "sequences": rows,
        "calibration": {},
        "settings": {"benchmark": benchmark, "size": None, "checkpoint": "x", "policy": {}},
        "speed": {"frames": frames, "seconds": seconds, "frames_per_second": 20, "peak_memory_mb": 512.4},
    }


def write_job(folder, values, status="completed", error="", **record):
    folder.mkdir(parents=True, exist_ok=True)
    if values is not None:
        (folder / "scores.json").write_text(json.dumps(values))
    (folder / "job.json").write_text(json.dumps({"status": status, "error": error, **record}))


def plan(folder, jobs, **sweep):
    """Write the job list of jobs with these settings, in the folders `0_x`, `1_x`, ..."""
    jobs = [
        {
            "number": n,
            "stage": "",
            "folder": f"{n}_x",
            "settings": settings,
            "overrides": [f"{key}={value}" for key, value in settings.items()],
        }
        for n, settings in enumerate(jobs)
    ]
    table = {"command": "python evaluate.py sweep=mine", "average_over": ["seed"], "baseline": {}}
    write_job_list(folder, jobs, table | sweep)


def cells(text, row):
    """Return the cells of a Markdown table's row, given by its first cells."""
    for line in text.splitlines():
        values = [cell.strip() for cell in line.strip("|").split("|")]
        if values[: len(row)] == list(row):
            return values
    raise AssertionError(f"no row {row} in\n{text}")


def test_table_5_compares_with_the_paper(tmp_path):
    rules = ("first", "previous", "first_previous", "every_5")
    plan(
        tmp_path,
        [{"checkpoint": "c", "benchmark": "davis2016", "memory": rule} for rule in rules],
        paper_table="table5",
        baseline={"memory": "every_5"},
    )
    for n, j in enumerate((0.8, 0.7, 0.85, 0.9)):
        write_job(tmp_path / f"{n}_x", scores("davis2016-val", j, videos=20))
    text = markdown(read_sweep(tmp_path))
    head = cells(text, ["memory"])
    assert head == [
        "memory",
        "benchmark",
        "J",
        "F",
        "J&F",
        "s/frame",
        "MB",
        "paper",
        "ours - paper",
        head[-1],
    ]
    assert head[-1] == "J - memory=every_5"
    line = cells(text, ["first", "davis2016-val"])
    assert line[2:7] == ["80.0", "40.0", "60.0", "0.050", "512"]
    assert line[7:] == ["First: J 81.4, 0.06 s", "J -1.4", "-10.0 [-10.0, -10.0]"]
    assert cells(text, ["every_5"])[-1] == "-"
    assert "4 of 4 jobs are finished." in text


def test_scores_of_other_videos_are_not_compared_with_the_paper(tmp_path):
    plan(tmp_path, [{"benchmark": "davis2017"}], paper_table="table3")
    write_job(tmp_path / "0_x", scores("davis2017-val", 0.5, videos=7))
    text = markdown(read_sweep(tmp_path))
    assert cells(text, ["davis2017-val"])[-2:] == ["STM (+YV): J 79.2, F 84.3", "-"]
    assert "where the scored videos are not those of its benchmark" in text
    assert cells(text, ["STM"]) == ["STM", "69.2", "74"], "the whole table is below"


def test_mean_and_spread_over_seeds(tmp_path):
    jobs = [{"network.similarity": s, "seed": seed} for s in ("dot", "l2") for seed in "123"]
    plan(tmp_path, jobs)
    values = (0.5, 0.6, 0.7, 0.8, 0.8, 0.8)
    for n, j in enumerate(values):
        write_job(tmp_path / f"{n}_x", scores("mine", j))
    first, second = table_rows(read_sweep(tmp_path))
    assert first.setting == {"network.similarity": "dot"} and first.difference is None
    assert first.mean("J") == pytest.approx(60) and first.spread("J") == pytest.approx(10)
    assert first.objects == {("v0", 1): pytest.approx(50), ("v1", 1): pytest.approx(60), ("v2", 1): 70}
    assert second.difference.mean == pytest.approx(20)
    line = cells(markdown(read_sweep(tmp_path)), ["dot"])
    assert line == ["dot", "mine", "3", "60.0 ± 10.0", "30.0 ± 5.0", "45.0 ± 7.5", "0.050", "512", "-"]


def test_failed_and_missing_jobs_are_listed_with_their_commands(tmp_path):
    plan(
        tmp_path,
        [
            {"memory": m, "launcher": "parallel", "benchmark.root": "'a b'"}
            for m in ("first", "spatial_prior", "x")
        ],
    )
    write_job(tmp_path / "0_x", scores("mine", 0.5))
    write_job(tmp_path / "1_x", None, "failed", "FileNotFoundError: a b is not there\nmore")
    (tmp_path / "2_x").mkdir()
    (tmp_path / "2_x" / "job.json").write_text("")  # as a crash of the machine may leave it
    text = markdown(read_sweep(tmp_path))
    assert "1 of 3 jobs are finished." in text
    assert "- 1_x: FileNotFoundError: a b is not there\n" in text and "- 2_x: unfinished\n" in text
    command = next(line.strip() for line in text.splitlines() if "memory=spatial_prior" in line)
    run_dir = f"hydra.run.dir={tmp_path / '1_x'}"
    assert shlex.split(command) == [
        "python",
        "evaluate.py",
        "memory=spatial_prior",
        "benchmark.root='a b'",
        "hydra.mode=RUN",
        run_dir,
    ]


def test_training_scored_on_several_benchmarks(tmp_path):
    """Table 4: each arm is scored on both benchmarks."""
    init = "@pretrain/checkpoints/last.ckpt"
    arms = [{"experiment": "pretrain"}] + [{"experiment": "main_davis", "init": i} for i in ("null", init)]
    plan(tmp_path, arms, paper_table="table4", baseline={"init": "null"})
    for n, j in enumerate((0.5, 0.4, 0.6)):
        write_job(tmp_path / f"{n}_x", None)
        for name, value in (("davis2017", j), ("youtube_vos", j + 0.1)):
            write_job(tmp_path / f"{n}_x" / f"{name}_0a", scores(f"{name}-val", value, videos=30))
    rows = {(row.benchmark, *row.setting.values()): row for row in table_rows(read_sweep(tmp_path))}
    assert rows["davis2017-val", "pretrain", "-"].paper.label == "Pre-training only"
    assert rows["davis2017-val", "main_davis", "null"].paper.values == {"J": 38.1, "F": 47.9}
    full = rows["davis2017-val", "main_davis", init]
    assert full.paper.label == "Full training" and full.difference.mean == pytest.approx(20)
    assert rows["youtube_vos-val", "main_davis", init].paper.label == "Cross validation"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"status": "failed", "error": "no room"}, "no room"),
        ({"configuration": "ab"}, "unfinished: the folder's job had other settings"),
    ],
)
def test_only_finished_jobs_of_these_settings_have_results(tmp_path, record, reason):
    plan(tmp_path, [{"memory": "first"}, {"memory": "every_5"}])
    write_job(tmp_path / "0_x", scores("mine", 0.5))
    write_job(tmp_path / "1_x", scores("mine", 0.6), **record)
    sweep = read_sweep(tmp_path)
    assert [len(job.evaluations) for job in sweep.jobs] == [1, 0]
    assert f"- 1_x: {reason}" in markdown(sweep) and "60.0" not in markdown(sweep)


def test_validation_is_shown_without_a_final_evaluation(tmp_path):
    """A smoke test's jobs, which keep their benchmarks apart."""
    plan(tmp_path, [{"seed": seed, "benchmark": b} for b in ("mine", "theirs") for seed in "12"])
    for n, score in enumerate((0.5, 0.6, 0.7, 0.9)):
        write_job(tmp_path / f"{n}_x", scores("old", 0.1), score=score, validation={"J&F": score})
    text = markdown(read_sweep(tmp_path))
    assert cells(text, ["mine validation"])[1:3] == ["2", "55.0 ± 7.1"]
    assert cells(text, ["theirs validation"])[2] == "80.0 ± 14.1" and "old" not in text


def test_csv_has_a_row_for_each_job(tmp_path):
    plan(tmp_path, [{"memory": m, "seed": "1"} for m in ("first", "spatial_prior")])
    write_job(tmp_path / "0_x", scores("mine", 0.5))
    write_tables(read_sweep(tmp_path))
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["memory"], row["seed"], row["status"]) for row in rows] == [
        ("first", "1", "completed"),
        ("spatial_prior", "1", "unfinished"),
    ]
    assert float(rows[0]["J"]) == pytest.approx(50) and rows[1]["J"] == ""
    assert (tmp_path / "table.md").read_text() == markdown(read_sweep(tmp_path))


def test_csv_has_calibration_errors_where_they_are_known(tmp_path):
    plan(tmp_path, [{"memory": m} for m in ("first", "spatial_prior")])
    write_job(tmp_path / "0_x", scores("mine", 0.5))
    write_tables(read_sweep(tmp_path))
    assert "ECE" not in (tmp_path / "table.csv").read_text()
    known = {"inside": None, "score": {"count": 9, "ece": 0.125, "bias": 0.0, "lost": None, "bins": []}}
    write_job(tmp_path / "1_x", scores("mine", 0.6) | {"calibration": known})
    write_tables(read_sweep(tmp_path))
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ECE-score"] for row in rows] == ["", "0.125"] and "ECE-inside" not in rows[0]


def test_checkpoints_of_one_stage_have_distinct_labels(tmp_path):
    names = [
        f"@{stage}/checkpoints/{name}.ckpt" for stage in ("main", "pretrain") for name in ("last", "best")
    ]
    plan(tmp_path, [{"checkpoint": name} for name in names])
    for n in range(4):
        write_job(tmp_path / f"{n}_x", scores("mine", 0.5 + n / 10))
    text = markdown(read_sweep(tmp_path))
    for n, label in enumerate(("@main", "@main/best", "@pretrain", "@pretrain/best")):
        assert cells(text, [label])[2] == f"{50 + 10 * n:.1f}"


def test_folder_without_a_sweep_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of a sweep"):
        read_sweep(tmp_path)


def test_paper_numbers_are_consistent():
    """The hand-copied numbers agree wherever two of them determine each other."""
    for row in TABLES["table1"].rows:
        parts = [value for name, value in row.values.items() if name != "G"]
        if len(parts) == 4:
            assert row.values["G"] == pytest.approx(np.mean(parts), abs=0.11), row.label
    every_5 = {"memory": "every_5"}
    assert TABLES["table5"].matching_row(every_5, "youtube_vos").values == {
        "G": TABLES["table1"].rows[-1].values["G"]
    }
    assert (
        TABLES["table5"].matching_row(every_5, "davis2016").values["J"]
        == TABLES["table2"].rows[-1].values["J"]
    )
    assert (
        TABLES["table5"].matching_row(every_5, "davis2017").values["J"]
        == TABLES["table3"].rows[-1].values["J"]
    )
    full = {"experiment": "main_davis", "init": "@pretrain/checkpoints/last.ckpt"}
    assert (
        TABLES["table4"].matching_row(full, "davis2017").values["J"] == TABLES["table3"].rows[-2].values["J"]
    )
    assert TABLES["table5"].matching_row({"memory": "spatial_prior"}, "davis2017") is None


def test_the_table_of_a_search_names_its_measure(tmp_path):
    write_job(tmp_path / "0_x", None, score=0.25, measure="J_tr", seconds=3.0)
    write_job(tmp_path / "1_x", None, score=0.5, measure="J_tr", seconds=4.0)
    write_job(tmp_path / "2_x", None, "failed", "ValueError: lr=9", score=None)
    jobs = [{"number": n, "folder": f"{n}_x", "settings": {"lr": str(n)}} for n in range(4)]
    text = write_trials(tmp_path, jobs)
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [(row["trial"], row["J_tr"]) for row in rows][:2] == [("1", "0.5"), ("0", "0.25")]
    assert {row["status"] for row in rows[2:]} == {"failed", "unfinished"} and "J&F" not in rows[0]
    assert "- trial 2: ValueError: lr=9" in text


def test_the_trials_of_a_search_may_have_different_keys(tmp_path):
    settings = [{"lr": "1"}, {"lr": "2", "steps": "9"}, {"steps": "8"}]
    for number in range(3):
        write_job(tmp_path / f"{number}_x", None, score=0.1 * number, measure="J&F", seconds=3.0)
    jobs = [{"number": n, "folder": f"{n}_x", "settings": values} for n, values in enumerate(settings)]
    text = write_trials(tmp_path, jobs)
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [(row["lr"], row["steps"]) for row in rows] == [("", "8"), ("2", "9"), ("1", "")]
    assert "| lr | steps |" in text
    assert write_trials(tmp_path / "none", []) == ""


def test_a_benchmark_that_is_scored_twice_has_two_rows(tmp_path):
    """Such as at two sizes; of a run that was trained further, the newest evaluation counts."""
    plan(tmp_path, [{"experiment": "e"}])
    write_job(tmp_path / "0_x", None)
    for seconds, (name, value) in enumerate((("test_0a", 0.1), ("test_0b", 0.5), ("small_0b", 0.4))):
        folder = tmp_path / "0_x" / name
        write_job(folder, scores("davis2017-val", value))
        os.utime(folder / "scores.json", (seconds, seconds))
    rows = {row.benchmark: row.evaluations[0].measures["J"] for row in table_rows(read_sweep(tmp_path))}
    assert rows == pytest.approx({"davis2017-val (small)": 40, "davis2017-val (test)": 50})
