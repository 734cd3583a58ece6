"""Time and memory over a long video, whose frames are created one by one; each policy in its own process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speed_common import Ours, Setting, build, prepare, run_in_process, save, timed

MEASURES = {"seconds": "median", "peak_bytes": "max"}
"""Measures that are compared between an early and a late part of the video, with their statistic."""


def stream_long(settings: Sequence[Setting], frames: int, output: Path) -> None:
    """Stream a video through each setting; print a table, and write JSON and figures."""
    from rich.console import Console
    from rich.table import Table
    from speed_figures import plot_long

    rows: list[dict[str, Any]] = []
    for setting in settings:
        rows.append(run_in_process(stream_through, setting, frames))
        save(output, frames=frames, rows=rows)
        early, late = rows[-1]["windows"]
        print(f"{setting.case}, {setting.form}: done", flush=True)
    table = Table("", "held at the end:\nframes", "\nMB")
    for heading in ("ms per frame", "peak MB"):
        table.add_column(f"{heading},\nframes {early}")
        table.add_column(f"\n{late}")
        table.add_column("\nlate / early")
    for row in rows:
        cells, held = [], [str(row["memory_frames"][-1]), f"{row['memory_bytes'][-1] / 2**20:.1f}"]
        for measure, unit in zip(MEASURES, (1e-3, 2**20), strict=True):
            first, last = row["parts"][measure]
            cells += [f"{first / unit:.1f}", f"{last / unit:.1f}", f"{row['growth'][measure]:.3f}"]
        table.add_row(f"{row['case']}\n{row['form']}", *held, *cells)
    console = Console(width=140)
    console.print(f"{frames} frames. Median time; peak memory beyond the loaded network.")
    console.print(table)
    plot_long(rows, output)


def stream_through(setting: Setting, frames: int) -> dict[str, Any]:
    """Return time, peak memory beyond the loaded network and memory frames for each frame after the first."""
    import numpy as np

    from stm.evaluation.peak_memory import PeakMemory

    network, policy = build(setting)
    device, network = network.mean.device, prepare(network, setting)
    loaded = PeakMemory(device).bytes()
    ours, stream = Ours(network, policy, setting, frames + 1), setting.stream()
    row: dict[str, Any] = {
        **setting.plain(),
        "seconds": [],
        "peak_bytes": [],
        "memory_frames": [],
        "memory_bytes": [],
    }
    for t in range(frames + 1):
        frame, labels = (x.to(device) for x in stream(t))
        peak = PeakMemory(device)
        _, seconds = timed(ours.step, setting.device, frame, labels if t == 0 else None)
        if t > 0:
            row["seconds"].append(seconds)
            row["peak_bytes"].append(peak.bytes() - loaded)
            row["memory_frames"].append(ours.memory_frames)
            row["memory_bytes"].append(ours.segmenter.memory_bytes())
    window = min(200, frames // 3)
    parts = slice(window, 2 * window), slice(frames - window, frames)
    row["windows"] = [f"{part.start}-{part.stop}" for part in parts]
    row["parts"], row["growth"] = {}, {}
    for measure, summary in MEASURES.items():
        statistic = getattr(np, summary)
        early, late = (statistic(row[measure][part]) for part in parts)
        row["parts"][measure] = [float(early), float(late)]
        row["growth"][measure] = float(late / early)
    return row
