"""Sweeps: every job of every file composes, stages wait for each other, and a table is written at the end."""

import csv
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from helpers.commands import NETWORK, TINY, VIDEOS, run, succeed
from hydra import compose, initialize_config_dir

from stm.config.resolvers import evaluation_sweep_name, folder_name
from stm.config.schema import CONF

SWEEPS = sorted({path.stem for path in (CONF / "sweep").glob("*.yaml")} - {"search"})  # see test_search
EVALUATE = ("benchmark=synthetic", *VIDEOS, "threads=1")


def program(choice: str) -> str:
    text = (CONF / "sweep" / f"{choice}.yaml").read_text()
    return re.search(rf"^# python (\w+)\.py sweep={choice}( |$)", text, re.MULTILINE)[1]


# --- the files ---


@pytest.mark.parametrize("choice", SWEEPS)
def test_every_job_of_every_sweep_composes(choice: str) -> None:
    name = program(choice)
    needed = ["checkpoint=c.ckpt"] if name == "evaluate" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, [f"sweep={choice}", *needed], return_hydra_config=True)
        assert config.hydra.mode.name == "MULTIRUN", "no -m is needed"
        sweeper, jobs = config.hydra.sweeper, []
        for params in (sweeper.stages or {"": {}}).values():
            values = {**(sweeper.params or {}), **params}
            for combination in itertools.product(*(str(value).split(",") for value in values.values())):
                jobs.append([f"{k}={v}" for k, v in zip(values, combination, strict=True)])
        for job in jobs:
            assert compose(name, [f"sweep={choice}", *needed, *job])
        swept = {word.split("=")[0] for job in jobs for word in job}
        assert set(sweeper.baseline or ()) <= swept
    if name == "train":
        assert config.resume == "auto", "the same command goes on"


def test_sweep_memory_includes_every_policy() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("evaluate", ["sweep=memory", "checkpoint=c"], return_hydra_config=True)
    policies = sorted(path.stem for path in (CONF / "memory").glob("*.yaml"))
    assert config.hydra.sweeper.params.memory.split(",") == policies


# --- evaluations ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    succeed("train.py", *TINY, "final_benchmark=null", "name=one", folder=folder)
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_table_5_with_one_command(trained: Path) -> None:
    arguments = ("sweep=table5", "checkpoint=runs/one/checkpoints/best.ckpt", *EVALUATE)
    printed = succeed("evaluate.py", *arguments, folder=trained)
    (folder,) = (trained / "runs" / "evaluate").glob("table5_one-best_benchmark-synthetic_pixels-48_*")
    rules = ["first", "previous", "first_previous", "every_5"]
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert folders == [f"{n}_memory-{rule}" for n, rule in enumerate(rules)]
    assert (folder / "table.md").read_text() in printed
    for row, rule in zip(table(folder), rules, strict=True):
        assert (row["memory"], row["status"]) == (rule, "completed")
        scores = json.loads((Path(trained) / row["folder"] / "scores.json").read_text())
        assert float(row["J"]) == pytest.approx(100 * scores["global"]["J-Mean"])
        assert float(row["seconds"]) == scores["speed"]["seconds"] / scores["speed"]["frames"]


def test_failed_job_is_listed_and_rerun_by_the_same_command(trained: Path) -> None:
    arguments = ("sweep=table3", *EVALUATE, "checkpoint=runs/one/checkpoints/last.ckpt,later.ckpt")
    code, output = run("evaluate.py", *arguments, folder=trained)
    assert code == 1 and "Traceback" not in output
    assert "1 of 2 jobs are finished." in output
    assert "- 1_checkpoint-later: evaluate.py: checkpoint later.ckpt does not exist" in output
    (folder,) = (trained / "runs" / "evaluate").glob("table3_one-last+later_*")
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("sequences/*.json")}
    alone = next(line.strip() for line in output.splitlines() if line.startswith("      python evaluate.py"))
    (trained / "later.ckpt").write_bytes((trained / "runs/one/checkpoints/last.ckpt").read_bytes())
    succeed(*shlex.split(alone)[1:], folder=trained)
    assert (folder / "1_checkpoint-later" / "scores.json").exists()
    output = succeed("evaluate.py", *arguments, folder=trained)
    assert "2 of 2 jobs are finished." in output
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items()), "finished videos are kept"
    assert [row["status"] for row in table(folder)] == ["completed"] * 2
    assert re.search(r"\| +2 \| +[\d.]+ ± 0\.0 ", (folder / "table.md").read_text()), (
        "the repetitions share a row"
    )


def test_sweep_does_not_show_the_numbers_of_another(trained: Path) -> None:
    """A second `-m` has a folder of its own; under the same name it is refused and changes nothing."""
    arguments = ("-m", "checkpoint=runs/one/checkpoints/best.ckpt", "memory=first,every_5", *EVALUATE)
    succeed("evaluate.py", *arguments, "name=by_m", folder=trained)
    folder = trained / "runs" / "evaluate" / "by_m"
    assert [row["memory"] for row in table(folder)] == ["first", "every_5"]
    before = contents_of(folder)
    code, output = run("evaluate.py", *arguments, "name=by_m", "+memory.top_k=1", folder=trained)
    assert code == 1 and "Traceback" not in output
    assert "0_memory-first: a job with other settings (memory.top_k=None) has finished here" in output
    assert contents_of(folder) == before


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["sweep=table5", "checkpoint=runs/a/checkpoints/best.ckpt"], "table5_a-best"),
        (["sweep=table5", "checkpoint=a.ckpt,b.ckpt", "launcher=parallel", "threads=1"], "table5_a+b"),
        (["sweep=memory", "checkpoint=a.ckpt", "benchmark.kind=event"], "memory_a_kind-event"),
        (["checkpoint=a.ckpt", "memory.every=1,5"], "a_every-1+5"),
        (["checkpoint=a.ckpt", "memory.every=1,5", "name=mine"], "mine"),
        (["checkpoint=a.ckpt", "name=x,y", "~logger"], "a_name-x+y"),
    ],
)
def test_folder_of_a_sweep_of_evaluations(overrides: list[str], name: str) -> None:
    assert evaluation_sweep_name(overrides) == name


def test_long_folder_names_stay_distinct() -> None:
    names = [folder_name(f"{'ä' * 200}{end}") for end in "ab"]
    assert names[0] != names[1] and all(len(name.encode()) <= 120 for name in names)


# --- stages ---

PROGRAM = """
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
import stm.config.schema

@hydra.main(version_base="1.3", config_path=".", config_name="program")
def run(config):
    (Path(HydraConfig.get().runtime.output_dir) / "last.ckpt").write_text("half")
    if config.room == "no" and not Path("more_room").exists():
        raise MemoryError("no room")
    return 0.5

run()
"""
"""A training that saves a checkpoint and then fails if it is of the first stage and has no room."""
CONFIGURATION = """
defaults: [_self_, override hydra/sweeper: stages]
room: "yes"
init: null
steps: 1
hydra:
  mode: MULTIRUN
  sweep: {dir: sweep}
  callbacks: {job_file: {_target_: stm.sweeps.job_records.JobRecord}}
  sweeper:
    stages:
      first: {room: "no"}
      second: {init: "null,@first/last.ckpt"}
      third: {init: "@first/last.ckpt", steps: 3}
"""


def test_jobs_that_need_a_failed_job_are_skipped(tmp_path: Path) -> None:
    """Otherwise they would count as finished with the scores of a half-trained checkpoint."""
    program, names = tmp_path / "program.py", ("0_first", "1_second_init-null", "2_second_init-first")
    program.write_text(PROGRAM)
    (tmp_path / "program.yaml").write_text(CONFIGURATION)
    code, output = run(program, folder=tmp_path)
    assert code == 1 and "1 of 4 jobs are finished." in output
    assert "- 0_first: MemoryError: no room" in output
    assert "- 2_second_init-first: unfinished" in output and "- 3_third: unfinished" in output
    ends = {name: tmp_path / "sweep" / name / "job.json" for name in names}
    assert [path.exists() for path in ends.values()] == [True, True, False]
    before = ends[names[1]].read_bytes()
    (tmp_path / "more_room").touch()
    assert "4 of 4 jobs are finished." in succeed(program, folder=tmp_path)
    assert ends[names[1]].read_bytes() == before, "the record of a finished job is kept"
    assert [row["steps"] for row in csv.DictReader((tmp_path / "sweep" / "table.csv").open())][-1] == "3"


REFUSED = """
import hydra
import stm.config.schema
from stm.config.user_errors import UserError

@hydra.main(version_base="1.3", config_path=".", config_name="program")
def run(config):
    if config.steps > 1:
        raise UserError("no such step")
    return 0.5

run()
"""


def test_refused_command_leaves_a_finished_run_as_it_was(tmp_path: Path) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "single"
    program.write_text(REFUSED)
    (tmp_path / "program.yaml").write_text(CONFIGURATION.replace("mode: MULTIRUN", "run: {dir: single}"))
    succeed(program, folder=tmp_path)
    names = ("job.json", ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml")
    before = [(folder / name).read_bytes() for name in names]
    code, output = run(program, "steps=2", folder=tmp_path)
    assert (code, output.splitlines()) == (
        1,
        ["no such step", "(HYDRA_FULL_ERROR=1 shows the traceback.)"],
    )
    assert [(folder / name).read_bytes() for name in names] == before
    code, _ = run(program, "steps=2", "hydra.run.dir=new", folder=tmp_path)
    assert code == 1 and json.loads((tmp_path / "new" / "job.json").read_text())["status"] == "failed"


# --- trainings ---

ARMS = (
    "sweep=table4_synthetic",
    *NETWORK,
    "data.count=4",
    "data.pixels=48",
    "data.crop=48",
    "batch_size=2",
    "steps=2",
    "validate_every=2",
    "save_every=1",
    "threads=1",
    *(f"benchmark.{key}" for key in ("count=1", "pixels=48", "frames=6", "kind=plain")),
    *(
        f"extra_benchmarks.{name}.{key}"
        for name in ("plain", "event")
        for key in ("count=1", "pixels=48", "frames=20")
    ),
)


@pytest.mark.slow
def test_table_4_stage_by_stage(tmp_path: Path) -> None:
    """The pre-training runs once, the jobs of `both` start from it, and a second sweep repeats nothing."""
    output = succeed("train.py", *ARMS, folder=tmp_path)
    sweep = tmp_path / "runs" / "table4_synthetic"
    folders = {path.name.split("_")[0]: path for path in sweep.iterdir() if path.is_dir()}
    assert {path.name for path in folders.values()} == {
        "0_pretrain",
        "1_stills",
        "2_videos_kind-plain",
        "3_videos_kind-event",
        "4_both_kind-plain",
        "5_both_kind-event",
    }
    assert "6 of 6 jobs are finished." in output and output.count("pretrain") > 0
    initial = {
        n: torch.load(folders[n] / "checkpoints" / "last.ckpt", weights_only=True)["config"]["init"]
        for n in folders
    }
    pretrained = "runs/table4_synthetic/0_pretrain/checkpoints/last.ckpt"
    assert initial == {**dict.fromkeys("0123"), "4": pretrained, "5": pretrained}
    rows = table(sweep)
    assert [(row["job"], row["benchmark"]) for row in rows[:2]] == [
        ("0", "synthetic-event-test"),
        ("0", "synthetic-plain-test"),
    ]
    assert len(rows) == 12 and all(row["J"] for row in rows)
    weights = {n: (folders[n] / "checkpoints" / "last.ckpt").stat().st_mtime_ns for n in folders}
    ends = {n: (folders[n] / "job.json").read_bytes() for n in folders}
    (folders["3"] / "job.json").unlink()
    (folders["3"] / "checkpoints" / "last.ckpt").unlink()
    output = succeed("train.py", *ARMS, folder=tmp_path)
    assert output.count("finished before") == 5 and "6 of 6 jobs are finished." in output
    again = {n: (folders[n] / "checkpoints" / "last.ckpt").stat().st_mtime_ns for n in folders}
    assert {n for n in folders if again[n] != weights[n]} == {"3"}
    changed = {n for n in folders if (folders[n] / "job.json").read_bytes() != ends[n]}
    assert changed == {"3"}, "the records of the others are kept"
