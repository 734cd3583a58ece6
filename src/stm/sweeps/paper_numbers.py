"""The numbers of the paper's tables 1 to 5.

Source: S. W. Oh, J.-Y. Lee, N. Xu, S. J. Kim: Video Object Segmentation using Space-Time Memory Networks,
ICCV 2019, arXiv 1904.00607. J, F and G in percent, seconds per frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

VIDEOS = {"davis2016": 20, "davis2017": 30, "youtube_vos": 474}
"""Number of videos of each benchmark; scores on other videos are not comparable."""


@dataclass(frozen=True)
class PaperRow:
    """A row of a table, or a cell of it where its columns are benchmarks.

    Attributes:
        label: Name of the row.
        values: Measure -> number; measures are J, F, G, J-Seen, F-Seen, J-Unseen, F-Unseen and seconds.
        matches: Override -> value of the jobs that repeat this row; None for rows of other methods.
    """

    label: str
    values: Mapping[str, float]
    matches: Mapping[str, str] | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: the first words of its caption, its rows, and notes."""

    title: str
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...] = field(default=())

    def matching_row(self, settings: Mapping[str, str], benchmark: str) -> PaperRow | None:
        """Return the row that a job repeats, by its settings and the benchmark that it was scored on."""
        keys = {**settings, "benchmark": benchmark}
        for row in self.rows:
            if row.matches is not None and all(keys.get(key) == value for key, value in row.matches.items()):
                return row
        return None


def _youtube(label: str, *values: float | None, ours: bool = False) -> PaperRow:
    names = ("G", "J-Seen", "F-Seen", "J-Unseen", "F-Unseen")
    known = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return PaperRow(label, known, {"benchmark": "youtube_vos"} if ours else None)


def _davis(year: int, label: str, *values: float | None, ours: bool = False) -> PaperRow:
    names = ("J", "F", "seconds")[: len(values)]
    known = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return PaperRow(label, known, {"benchmark": f"davis{year}"} if ours else None)


TABLE_1 = PaperTable(
    "Table 1: YouTube-VOS validation",
    (
        _youtube("OSMN", 51.2, 60.0, 60.1, 40.6, 44.0),
        _youtube("MSK", 53.1, 59.9, 59.5, 45.0, 47.9),
        _youtube("RGMP", 53.8, 59.5, None, 45.2, None),
        _youtube("OnAVOS", 55.2, 60.1, 62.7, 46.6, 51.4),
        _youtube("RVOS", 56.8, 63.6, 67.2, 45.5, 51.0),
        _youtube("OSVOS", 58.8, 59.8, 60.5, 54.2, 60.7),
        _youtube("S2S", 64.4, 71.0, 70.0, 55.5, 61.2),
        _youtube("A-GAME", 66.1, 67.8, None, 60.8, None),
        _youtube("PReMVOS", 66.9, 71.4, 75.9, 56.5, 63.7),
        _youtube("BoLTVOS", 71.1, 71.6, None, 64.3, None),
        _youtube("STM", 79.4, 79.7, 84.2, 72.8, 80.9, ours=True),
    ),
)

TABLE_2 = PaperTable(
    "Table 2: DAVIS-2016 validation (+YV: trained on YouTube-VOS too)",
    (
        _davis(2016, "S2S (+YV), online", 79.1, None, 9),
        _davis(2016, "MSK, online", 79.7, 75.4, 12),
        _davis(2016, "OSVOS, online", 79.8, 80.6, 9),
        _davis(2016, "MaskRNN, online", 80.7, 80.9),
        _davis(2016, "VideoMatch", 81.0, None, 0.32),
        _davis(2016, "FEELVOS (+YV)", 81.1, 82.2, 0.45),
        _davis(2016, "RGMP", 81.5, 82.0, 0.13),
        _davis(2016, "A-GAME (+YV)", 82.0, 82.2, 0.07),
        _davis(2016, "FAVOS", 82.4, 79.5, 1.8),
        _davis(2016, "LSE, online", 82.9, 80.3),
        _davis(2016, "CINN, online", 83.4, 85.0),
        _davis(2016, "PReMVOS, online", 84.9, 88.6),
        _davis(2016, "OSVOS-S, online", 85.6, 86.4, 4.5),
        _davis(2016, "OnAVOS, online", 86.1, 84.9, 13),
        _davis(2016, "DyeNet, online", 86.2, None, 2.32),
        _davis(2016, "STM", 84.8, 88.1, 0.16),
        _davis(2016, "STM (+YV)", 88.7, 89.9, 0.16, ours=True),
    ),
    ("CINN and PReMVOS take more than 30 seconds per frame.",),
)

TABLE_3 = PaperTable(
    "Table 3: DAVIS-2017 validation (+YV: trained on YouTube-VOS too)",
    (
        _davis(2017, "OSMN", 52.5, 57.1),
        _davis(2017, "FAVOS", 54.6, 61.8),
        _davis(2017, "VideoMatch", 56.5, 68.2),
        _davis(2017, "OSVOS, online", 56.6, 63.9),
        _davis(2017, "MaskRNN, online", 60.5, None),
        _davis(2017, "OnAVOS, online", 64.5, 71.2),
        _davis(2017, "OSVOS-S, online", 64.7, 71.3),
        _davis(2017, "RGMP", 64.8, 68.6),
        _davis(2017, "CINN, online", 67.2, 74.2),
        _davis(2017, "A-GAME (+YV)", 67.2, 72.7),
        _davis(2017, "FEELVOS (+YV)", 69.1, 74.0),
        _davis(2017, "PReMVOS, online", 73.9, 81.7),
        _davis(2017, "STM", 69.2, 74.0),
        _davis(2017, "STM (+YV)", 79.2, 84.3, ours=True),
    ),
    ("DyeNet (online) reports only the mean of J and F: 74.1.",),
)

_PRETRAIN, _MAIN = {"experiment": "pretrain"}, {"init": "null"}
_FULL = {"init": "@pretrain/checkpoints/last.ckpt"}
_ON_DAVIS, _ON_YOUTUBE = {"experiment": "main_davis"}, {"experiment": "main_youtube"}


def _arm(label: str, settings: Mapping[str, str], benchmark: str, *values: float) -> PaperRow:
    names = ("G",) if benchmark == "youtube_vos" else ("J", "F")
    return PaperRow(label, dict(zip(names, values, strict=True)), {**settings, "benchmark": benchmark})


TABLE_4 = PaperTable(
    "Table 4: training data",
    (
        _arm("Pre-training only", _PRETRAIN, "youtube_vos", 69.1),
        _arm("Pre-training only", _PRETRAIN, "davis2017", 57.9, 62.1),
        _arm("Main-training only", {**_ON_YOUTUBE, **_MAIN}, "youtube_vos", 68.2),
        _arm("Main-training only", {**_ON_DAVIS, **_MAIN}, "davis2017", 38.1, 47.9),
        _arm("Full training", {**_ON_YOUTUBE, **_FULL}, "youtube_vos", 79.4),
        _arm("Full training", {**_ON_DAVIS, **_FULL}, "davis2017", 69.2, 74.0),
        _arm("Cross validation", {**_ON_DAVIS, **_FULL}, "youtube_vos", 56.3),
        _arm("Cross validation", {**_ON_YOUTUBE, **_FULL}, "davis2017", 78.6, 83.5),
    ),
)


def _rule(label: str, memory: str, g: float, j2016: float, j2017: float, seconds: float) -> list[PaperRow]:
    cells = {
        "youtube_vos": {"G": g},
        "davis2016": {"J": j2016, "seconds": seconds},
        "davis2017": {"J": j2017},
    }
    return [PaperRow(label, values, {"memory": memory, "benchmark": name}) for name, values in cells.items()]


TABLE_5 = PaperTable(
    "Table 5: memory management (the DAVIS models with YouTube-VOS; time on DAVIS-2016)",
    (
        *_rule("First", "first", 68.9, 81.4, 67.0, 0.06),
        *_rule("Previous", "previous", 69.7, 83.2, 69.6, 0.06),
        *_rule("First & Previous", "first_previous", 78.4, 87.8, 77.7, 0.07),
        *_rule("Every 5 frames", "every_5", 79.4, 88.7, 79.2, 0.16),
    ),
)

TABLES = {"table1": TABLE_1, "table2": TABLE_2, "table3": TABLE_3, "table4": TABLE_4, "table5": TABLE_5}
