"""Where a run's numbers go: the CSV file, and W&B's offline file read back byte by byte."""

import csv
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import TINY, run, succeed
from PIL import Image

from stm import tracking

SHORT = (*TINY, "steps=2", "validate_every=1", "test=null", "trainer.log_every_n_steps=1")
WANDB = (
    "logger=wandb",
    "logger.wandb.group=table5",
    "logger.wandb.tags=[a,b]",
    "logger.wandb.job_type=ablation",
)


def records(run_folder: Path) -> list[list[Any]]:
    """The records of each start of a run, oldest first (LevelDB's log format after seven bytes of header)."""
    from wandb.proto import wandb_internal_pb2

    def read(path: Path) -> Iterator[Any]:
        data, at, parts = path.read_bytes(), 7, b""
        assert data[:4] == b":W&B"
        while at < len(data):
            if (left := 32768 - at % 32768) < 7:  # a block's end too short for a head
                at += left
                continue
            length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
            parts += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record = wandb_internal_pb2.Record()
                record.ParseFromString(parts)
                parts = b""
                yield record

    return [list(read(path)) for path in sorted((run_folder / "wandb").glob("offline-run-*/*.wandb"))]


def history(start: list[Any]) -> list[dict[str, Any]]:
    """A dict a step, nested keys joined by dots."""
    return [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in start
        if record.HasField("history")
    ]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, resumed to three."""
    folder = tmp_path_factory.mktemp("tracked")
    arguments = (*SHORT, *WANDB, "scheduler=constant", "name=tracked", "resume=auto")
    succeed("train.py", *arguments, folder=folder)
    succeed("train.py", *arguments, "steps=3", folder=folder)
    return folder / "runs" / "tracked"


def test_wandb_has_the_run(tracked: Path) -> None:
    first, second = records(tracked)
    for start in (first, second):
        told = next(record.run for record in start if record.HasField("run"))
        assert told.run_id == (tracked / "wandb_id.txt").read_text()
        assert told.display_name == "tracked"
        assert told.run_group == "table5"
        assert list(told.tags) == ["a", "b"]
        assert told.job_type == "ablation"
        assert told.project == "stm"
        assert [record.exit.exit_code for record in start if record.HasField("exit")] == [0]


def test_wandb_has_the_whole_resolved_configuration(tracked: Path) -> None:
    config: dict[str, Any] = {}
    for record in records(tracked)[0]:
        for update in record.config.update if record.HasField("config") else ():
            config[update.key] = json.loads(update.value_json)
    assert config["choices"]["network"] == "tiny"
    assert config["network"]["key_channels"] == 8
    assert config["network"]["backbone"] == "tiny", "interpolations are resolved"
    assert config["data"]["sources"]["synthetic"]["clips"]["crop"] == 48
    assert config["optimizer"]["lr"] == 1e-3
    assert {"steps", "seed", "memory", "benchmark", "scheduler", "loss", "trainer", "logger"} <= config.keys()
    assert "${" not in json.dumps(config)


def test_wandb_has_numbers_pictures_and_tables(tracked: Path) -> None:
    first, second = records(tracked)
    lines = history(first)
    assert [line["trainer/global_step"] for line in lines if "train/loss" in line] == [0, 1]
    assert [line["trainer/global_step"] for line in lines if "val/J&F" in line] == [0, 1]
    assert [line["trainer/global_step"] for line in history(second) if "train/loss" in line] == [2]
    files = sorted((tracked / "wandb").glob("offline-run-*"))[0] / "files"
    pictures = [line for line in lines if "train/clips.filenames" in line]
    assert len(pictures) == 2
    for name in pictures[0]["train/clips.filenames"]:
        assert Image.open(files / name).size == (3 * 48, 2 * 48), "three frames, truth above prediction"
    tables = [line["val/sequences.path"] for line in lines if "val/sequences.path" in line]
    assert len(tables) == 2, "a table for each validation"
    table = json.loads((files / tables[0]).read_text())
    assert {"sequence", "object"} <= set(table["columns"])
    names = {row[table["columns"].index("sequence")] for row in table["data"]}
    assert names == {"plain-val-0-0000", "plain-val-0-0001"}


def test_csv_has_every_step_once(tracked: Path) -> None:
    with (tracked / "logs" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == ["0", "1", "2"]
    assert [row["step"] for row in rows if row["val/J&F"]] == ["0", "1", "2"]
    assert [float(row["lr-Adam"]) for row in rows if row["lr-Adam"]] == [1e-3] * 3


def test_wandb_is_finished_when_training_fails(tmp_path: Path) -> None:
    code, output = run("train.py", *SHORT, *WANDB, "name=f", "monitor=val/none", folder=tmp_path)
    assert code == 1
    assert "monitor=val/none" in output
    (start,) = records(tmp_path / "runs" / "f")
    assert [record.exit.exit_code for record in start if record.HasField("exit")] == [1]


def test_the_final_scores_are_logged(tmp_path: Path) -> None:
    succeed("train.py", *TINY, "steps=1", "name=t", folder=tmp_path)
    with (tmp_path / "runs" / "t" / "logs" / "metrics.csv").open(newline="") as file:
        final = list(csv.DictReader(file))[-1]
    scores = json.loads(next((tmp_path / "runs" / "t").glob("test_*/scores.json")).read_text())
    assert float(final["test/J&F"]) == pytest.approx(scores["global"]["J&F-Mean"])


def test_nothing_leaks_to_later_runs_of_the_process(tmp_path: Path) -> None:
    before = dict(os.environ)
    logger = tracking.wandb_logger(str(tmp_path), mode="disabled", name="x")
    logger.log_metrics({"a": 1.0}, 0)
    tracking.close([logger], failed=False)
    leaked = {k for k in os.environ if k.startswith("WANDB") and os.environ[k] != before.get(k)}
    assert leaked <= {"WANDB_SERVICE"} and "WANDB_MODE" not in os.environ
    import wandb

    assert wandb.run is None


def test_without_wandb_it_is_not_imported(tmp_path: Path) -> None:
    """The fork server's processes begin with everything of ours imported."""
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys, runpy; sys.argv[0] = sys.argv[1]; del sys.argv[1]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__'); print('wandb' in sys.modules)\n"
    )
    train = Path(__file__).parents[1] / "train.py"
    assert succeed(str(probe), train, *SHORT, "steps=1", folder=tmp_path).strip().endswith("False")


def test_an_unknown_mode_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode='ofline': must be offline, online or disabled"):
        tracking.wandb_logger(str(tmp_path), mode="ofline")


def test_a_run_folder_keeps_its_id(tmp_path: Path) -> None:
    assert tracking.run_id(tmp_path) == tracking.run_id(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    assert tracking.run_id(other) != tracking.run_id(tmp_path)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(lines)]


def test_csv_goes_on_where_the_run_does(tmp_path: Path) -> None:
    log = tracking.CSVLog(tmp_path)
    for step in range(4):
        log.log_metrics({"loss": 4.0 - step}, step)
    log.log_metrics({"val": 0.5}, 3)
    with log.file.open("a") as file:
        file.write("4,0.")  # killed while it wrote
    resumed = tracking.CSVLog(tmp_path)
    resumed.log_metrics({"loss": 9.0}, 2)
    resumed.log_metrics({"val": 0.7, "new": 1.0}, 2)
    assert rows(log.file) == [
        {"step": "0", "loss": "4.0"},
        {"step": "1", "loss": "3.0"},
        {"step": "2", "loss": "9.0"},
        {"step": "2", "val": "0.7", "new": "1.0"},
    ]


def test_every_logger_is_finished(tmp_path: Path) -> None:
    told: list[Any] = []
    logger = SimpleNamespace(
        finalize=told.append, _experiment=SimpleNamespace(finish=lambda exit_code: told.append(exit_code))
    )
    tracking.close([logger, tracking.CSVLog(tmp_path)], failed=True)  # type: ignore[list-item]
    assert told == ["failed", 1]
