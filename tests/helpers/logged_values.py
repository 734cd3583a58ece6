"""What a run has logged: its CSV file, and W&B's offline file read back byte by byte."""

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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


def summary(start: list[Any]) -> dict[str, Any]:
    """What stands in the run's summary in the end."""
    told: dict[str, Any] = {}
    for record in start:
        for item in record.summary.update if record.HasField("summary") else ():
            told[".".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return told


def settings(start: list[Any]) -> dict[str, Any]:
    """The run's configuration: what its columns in a table of runs are."""
    updates = [update for record in start if record.HasField("config") for update in record.config.update]
    return {update.key: json.loads(update.value_json) for update in updates}


def told_run(start: list[Any]) -> Any:
    return next(record.run for record in start if record.HasField("run"))


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(lines)]
