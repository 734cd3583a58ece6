"""The logged metrics of a run, in the CSV file and in W&B's offline file."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import ROOT, TINY, VIDEOS, run, succeed
from helpers.commands import start as begin
from helpers.logged_values import history, records, rows, settings, summary, told_run
from helpers.training_runs import children
from PIL import Image

from stm.training import loggers as run_loggers

SHORT = (*TINY, "steps=2", "validate_every=1", "final_benchmark=null", "trainer.log_every_n_steps=1")
WANDB = (
    "logger=wandb",
    "logger.wandb.group=table5",
    "logger.wandb.tags=[a,b]",
    "logger.wandb.job_type=ablation",
)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for two steps, resume to three, and return the run's folder."""
    folder = tmp_path_factory.mktemp("tracked")
    arguments = (*SHORT, *WANDB, "scheduler=constant", "name=tracked", "resume=auto")
    often = {"WANDB_X_STATS_SAMPLING_INTERVAL": "0.5"}
    succeed("train.py", *arguments, folder=folder, environment=often)
    succeed("train.py", *arguments, "steps=3", folder=folder)
    return folder / "runs" / "tracked"


def test_wandb_has_the_run(tracked: Path) -> None:
    first, second = records(tracked)
    for start in (first, second):
        logged = told_run(start)
        assert logged.run_id == (tracked / "wandb_id.txt").read_text()
        assert logged.display_name == "tracked"
        assert logged.run_group == "table5"
        assert list(logged.tags) == ["a", "b"]
        assert logged.job_type == "ablation"
        assert logged.project == "stm"
        assert [record.exit.exit_code for record in start if record.HasField("exit")] == [0]


def test_wandb_has_the_choices_as_columns_and_the_resolved_configuration(tracked: Path) -> None:
    columns = settings(records(tracked)[0])
    groups = {"backbone": "tiny", "network": "tiny", "memory": "every_5", "data": "synthetic_videos"}
    assert groups.items() <= columns.items()
    assert {"steps": 2, "seed": 1, "batch_size": 2}.items() <= columns.items()
    config = columns["settings"]
    assert config["network"]["key_channels"] == 8
    assert config["network"]["backbone"] == "tiny", "interpolations are resolved"
    assert config["data"]["sources"]["synthetic"]["clips"]["crop"] == 48
    assert config["optimizer"]["lr"] == 1e-3
    assert {"steps", "seed", "memory", "benchmark", "scheduler", "loss", "trainer", "logger"} <= config.keys()
    assert "${" not in json.dumps(config)


def test_wandb_monitors_the_machine(tracked: Path) -> None:
    measured = [record.stats for record in records(tracked)[0] if record.HasField("stats")]
    assert {"cpu", "proc.memory.rssMB"} <= {item.key for stats in measured for item in stats.item}


def test_wandb_has_metrics_images_and_tables(tracked: Path) -> None:
    first, second = records(tracked)
    lines = history(first)
    assert [line["trainer/global_step"] for line in lines if "train/loss" in line] == [0, 1]
    assert [line["trainer/global_step"] for line in lines if "val/J&F" in line] == [0, 1]
    assert all(line["train/gradient_norm"] > 0 for line in lines if "train/loss" in line)
    speeds = ("train/clips_per_second", "train/frames_per_second", "train/peak_memory_mb")
    assert [line["trainer/global_step"] for line in lines if line.keys() >= set(speeds)] == [1]
    assert {"val/J", "val/F", "val/frames_per_second", "val/peak_memory_mb"} <= summary(first).keys()
    assert [line["trainer/global_step"] for line in history(second) if "train/loss" in line] == [2]
    files = sorted((tracked / "wandb").glob("offline-run-*"))[0] / "files"
    images = [line for line in lines if "train/clips.filenames" in line]
    assert len(images) == 2
    for name in images[0]["train/clips.filenames"]:
        assert Image.open(files / name).size == (3 * 48, 2 * 48), (
            "three frames, ground truth above prediction"
        )
    tables = [line["val/sequences.path"] for line in lines if "val/sequences.path" in line]
    assert len(tables) == 2, "a table for each validation"
    table = json.loads((files / tables[0]).read_text())
    assert {"sequence", "object"} <= set(table["columns"])
    names = {row[table["columns"].index("sequence")] for row in table["data"]}
    assert names == {"plain-val-0-0000", "plain-val-0-0001"}


def test_documented_command_syncs_every_part_of_a_run(tracked: Path) -> None:
    text = (ROOT / "docs" / "clusters.md").read_text()
    command = next(line for line in text.splitlines() if line.startswith("wandb sync "))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    dry = command.replace("wandb sync", "wandb sync --dry-run", 1)
    done = subprocess.run(
        dry, shell=True, env=environment, cwd=tracked.parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    parts = {path.name for path in (tracked / "wandb").glob("offline-run-*")}
    assert len(parts) == 2
    assert all(part in done.stdout + done.stderr for part in parts)


def test_csv_has_every_step_once(tracked: Path) -> None:
    with (tracked / "logs" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == ["0", "1", "2"]
    assert [row["step"] for row in rows if row["val/J&F"]] == ["0", "1", "2"]
    assert [float(row["lr-Adam"]) for row in rows if row["lr-Adam"]] == [1e-3] * 3


@pytest.mark.slow
def test_wandb_is_finished_when_training_fails(tmp_path: Path) -> None:
    code, output = run("train.py", *SHORT, *WANDB, "name=f", "monitor=val/none", folder=tmp_path)
    assert code == 1
    assert "monitor=val/none" in output
    (start,) = records(tmp_path / "runs" / "f")
    assert [record.exit.exit_code for record in start if record.HasField("exit")] == [1]


@pytest.mark.slow
def test_final_scores_are_logged_and_checkpoints_on_request(tmp_path: Path) -> None:
    arguments = ("steps=1", "validate_every=1", "name=t", "logger=wandb", "logger.wandb.checkpoints=[best]")
    succeed("train.py", *TINY, *arguments, folder=tmp_path)
    run = tmp_path / "runs" / "t"
    with (run / "logs" / "metrics.csv").open(newline="") as file:
        final = list(csv.DictReader(file))[-1]
    scores = json.loads(next(run.glob("test_*/scores.json")).read_text())
    assert float(final["test/J&F"]) == pytest.approx(scores["global"]["J&F-Mean"])
    (start,) = records(run)
    expected = {
        **{f"test/{name}": scores["global"][f"{name}-Mean"] for name in ("J", "F", "J&F")},
        **{f"test/{name}": scores["speed"][name] for name in ("frames_per_second", "peak_memory_mb")},
    }
    assert {name: summary(start)[name] for name in expected} == pytest.approx(expected)
    assert summary(start)["test/sequences.nrows"] == len(scores["sequences"])
    models = [one.artifact for one in start if one.HasField("artifact") and one.artifact.type == "model"]
    (file,) = [content for model in models for content in model.manifest.contents]
    best = run / "checkpoints" / "best.ckpt"
    assert (Path(file.local_path), file.size) == (best, best.stat().st_size)


def test_checkpoints_are_not_artifacts_by_default(tracked: Path) -> None:
    kinds = {one.artifact.type for start in records(tracked) for one in start if one.HasField("artifact")}
    assert kinds == {"run_table"}


@pytest.mark.slow
def test_evaluation_is_a_run_too(tracked: Path) -> None:
    checkpoint = tracked / "checkpoints" / "best.ckpt"
    arguments = (f"checkpoint={checkpoint}", "benchmark=synthetic", *VIDEOS, "memory=first", "threads=1")
    succeed("evaluate.py", *arguments, "logger=wandb", "name=e", folder=tracked.parents[1])
    run = tracked.parent / "evaluate" / "e"
    (start,) = records(run)
    assert told_run(start).job_type == "evaluate"
    assert {"memory": "first", "benchmark": "synthetic"}.items() <= settings(start).items()
    scores = json.loads((run / "scores.json").read_text())
    assert summary(start)["test/J"] == pytest.approx(scores["global"]["J-Mean"])
    assert summary(start)["test/peak_memory_mb"] == pytest.approx(scores["speed"]["peak_memory_mb"])


@pytest.mark.slow
def test_jobs_of_a_sweep_are_a_group(tmp_path: Path) -> None:
    arguments = (*SHORT, "steps=1", "logger=wandb", "logger.wandb.job_type=null", "name=pair")
    succeed("train.py", "-m", *arguments, "seed=1,2", folder=tmp_path)
    sweep = tmp_path / "runs" / "pair"
    jobs = sorted(path.parent for path in sweep.glob("*/wandb"))
    assert len(jobs) == 2
    runs = [told_run(start) for folder in (*jobs, sweep) for start in records(folder)]
    assert [one.run_group for one in runs] == ["pair"] * 3
    assert [one.job_type for one in runs] == ["", "", "sweep"]
    assert [one.display_name for one in runs][:2] == ["0_seed-1", "1_seed-2"]


@pytest.mark.slow
def test_killed_run_loses_at_most_a_second_of_metrics(tmp_path: Path) -> None:
    """By default W&B flushes every 15 seconds, and SLURM's SIGTERM kills its process too."""
    log = tmp_path / "runs" / "k" / "logs" / "metrics.csv"

    def steps() -> set[int]:
        return {int(row["step"]) for row in rows(log) if "train/loss" in row} if log.exists() else set()

    arguments = (*SHORT, "steps=5000", "validate_every=5000", "save_every=5000", "name=k", "logger=wandb")
    running = begin("train.py", *arguments, folder=tmp_path)
    running.wait_until(lambda: len(steps()) > 10)
    before = steps()
    time.sleep(3)
    (service,) = (p for p in children(running.process.pid or 0) if b"wandb-core" in command_line(p))
    os.kill(service, signal.SIGTERM)
    running.kill()
    assert before <= {line["trainer/global_step"] for line in history(records(log.parents[1])[0])}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_preempted_run_is_marked(tmp_path: Path, number: signal.Signals) -> None:
    """SLURM sends SIGUSR1 to all processes of a job; W&B's own processes survive it."""
    arguments = (*SHORT, "steps=5000", "validate_every=5000", "save_every=5000", "name=p", "logger=wandb")
    running = begin("train.py", *arguments, folder=tmp_path)
    log, main = tmp_path / "runs" / "p" / "logs" / "metrics.csv", running.process.pid or 0
    running.wait_until(lambda: log.exists() and len(rows(log)) > 3)
    if number == signal.SIGUSR1:
        (service,) = (process for process in children(main) if b"wandb-core" in command_line(process))
        processes = (*children(service), service)
        assert len(processes) == 2, "one monitors the machine"
        for process in processes:
            os.kill(process, number)
        time.sleep(0.5)
        assert children(service) == [processes[0]]
    os.kill(main, number)
    assert running.wait() == 128 + number
    (start,) = records(log.parents[1])
    assert any(record.HasField("preempting") for record in start)
    logged = {line["trainer/global_step"] for line in history(start) if "train/loss" in line}
    assert logged == {int(row["step"]) for row in rows(log) if "train/loss" in row}, "no metrics are lost"
    assert "lost the connection to W&B" not in running.output


@pytest.mark.slow
def test_only_the_first_of_two_processes_logs(tmp_path: Path) -> None:
    arguments = (*SHORT, "trainer=ddp_cpu", "trainer.devices=2", "logger=wandb", "name=two")
    output = succeed("train.py", *arguments, folder=tmp_path)
    run = tmp_path / "runs" / "two"
    (start,) = records(run)
    assert [line["trainer/global_step"] for line in history(start) if "train/loss" in line] == [0, 1]
    assert {path.name for path in run.glob("*.log")} == {"train.log", "train_rank1.log"}
    for line in (run / "train.log").read_text().splitlines():
        assert output.count(line) == 1


def test_settings_do_not_leak_to_later_runs_of_the_process(tmp_path: Path) -> None:
    before = dict(os.environ)
    logger = run_loggers.wandb_logger(str(tmp_path), mode="disabled", name="x")
    logger.log_metrics({"a": 1.0}, 0)
    run_loggers.close([logger], failed=False)
    leaked = {k for k in os.environ if k.startswith("WANDB") and os.environ[k] != before.get(k)}
    assert leaked <= {"WANDB_SERVICE"} and "WANDB_MODE" not in os.environ
    import wandb

    assert wandb.run is None


def test_wandb_is_only_imported_where_it_is_used(tmp_path: Path) -> None:
    """The processes of the fork server start with this package imported."""
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys, runpy; sys.argv[0] = sys.argv[1]; del sys.argv[1]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__'); print('wandb' in sys.modules)\n"
    )
    train = Path(__file__).parents[2] / "train.py"
    assert succeed(str(probe), train, *SHORT, "steps=1", folder=tmp_path).strip().endswith("False")


def command_line(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()
