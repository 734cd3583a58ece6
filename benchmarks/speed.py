"""What does a frame cost, beside the published evaluation code's way of working with the same weights?

    python benchmarks/speed.py [--sizes 240x432 480x854] [--objects 1 3] [--policies every_5] [--compile] ...
    python benchmarks/speed.py --long 2000 --policies every_5 first_previous [--network tiny] [--size 96x160]

The first form lets the plain reference (tests/helpers/plain_stm.py) and ours take turns frame by frame, so that a
busy machine slows both; the reference memorizes our previous probabilities, so that both segment the same.
Printed: seconds a frame and their ratio, with quartiles over the frames; peak memory beyond the loaded
network, each side in a process of its own; how far probabilities differ, what a further memory frame costs,
for policies that the published code has. Others are timed against its every 5 frames.

The second form streams one long video through each policy and prints whether its cost grows.

Both write `results.json` and pictures into the folder --output.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speed_sides import Ours, Setting, build, extra_peak, plain_form, prepare, reference, save, timed

SIDES = ("plain", "ours")
HEADINGS = (
    "seconds\na frame",
    "frames\na second",
    "ratio\n(quartiles)",
    "extra peak\nMB",
    "ms a\nmemory frame",
    "largest\ndifference",
    "equal labels\n(clear)",
)
CLEAR = 1e-3
"""Where the two likeliest labels are nearer, rounding decides; random weights have many such pixels."""
PRECISIONS = ("float32", "bfloat16", "float16")


def size(text: str) -> tuple[int, int]:
    """'240x432' -> (240, 432)."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()) or min(int(height), int(width)) < 32:
        raise argparse.ArgumentTypeError(f"{text}: must be HEIGHTxWIDTH of at least 32 pixels, as 240x432")
    return int(height), int(width)


def measure(settings: Sequence[Setting], frames: int, warmup: int) -> list[dict[str, Any]]:
    """Let the reference and each form of ours take turns through one video; a row of results for each form.

    Args:
        settings: alike but for precision and compilation.
        frames: of the video; the first one's mask is given.
        warmup: how many of the first frames count for nothing but parity.
    """
    network, policy = build(settings[0])
    device = network.mean.device
    pairs = [(reference(network, policy), Ours(prepare(network, s), policy, s, frames)) for s in settings]
    previous: list[Any] = [None] * len(pairs)
    rows = [_row(setting, plain_form(policy)) for setting in settings]
    stream = settings[0].stream()
    for t in range(frames):
        frame, labels = (x.to(device) for x in stream(t))
        mask = labels if t == 0 else None
        for i, (plain, ours) in enumerate(pairs):
            turns = {"plain": (plain.step, (frame, mask, previous[i])), "ours": (ours.step, (frame, mask))}
            shown, seconds = {}, {}
            for side in sorted(turns, reverse=t % 2 == 0):  # neither always goes first
                step, arguments = turns[side]
                shown[side], seconds[side] = timed(step, settings[i].device, *arguments)
            previous[i] = shown["ours"]
            if t > 0:
                _note_parity(rows[i], shown["plain"], shown["ours"])
            if t >= warmup:
                rows[i]["memory_frames"].append(ours.memory_frames)
                for side in turns:
                    rows[i]["seconds"][side].append(seconds[side])
    for row in rows:
        _summarize(row, rows[0])
    return rows


def _row(setting: Setting, comparable: bool) -> dict[str, Any]:
    return {
        **setting.plain(),
        "memory_frames": [],
        "seconds": {"plain": [], "ours": []},
        "parity": {"largest_difference": 0.0, "equal_labels": [], "equal_clear": []} if comparable else None,
    }


def _note_parity(row: dict[str, Any], plain: Any, ours: Any) -> None:
    parity = row["parity"]
    if parity is None:
        return
    parity["largest_difference"] = max(parity["largest_difference"], float((plain - ours).abs().max()))
    equal, likeliest = plain.argmax(0) == ours.argmax(0), plain.topk(2, dim=0).values
    clear = likeliest[0] - likeliest[1] > CLEAR
    parity["equal_labels"].append(float(equal.float().mean()))
    parity["equal_clear"].append(float(equal[clear].float().mean()))


def _summarize(row: dict[str, Any], first: dict[str, Any]) -> None:
    """Medians, quartiles, and the slope of the cost over the memory's length."""
    import numpy as np

    plain, ours = (np.array(row["seconds"][side]) for side in ("plain", "ours"))
    row["seconds_a_frame"] = {side: float(np.median(x)) for side, x in (("plain", plain), ("ours", ours))}
    row["frames_a_second"] = {side: 1 / seconds for side, seconds in row["seconds_a_frame"].items()}
    row["ratio"] = np.percentile(plain / ours, [25, 50, 75]).tolist()
    row["ratio_to_first_form"] = float(np.median(np.array(first["seconds"]["ours"]) / ours))
    lengths = np.array(row["memory_frames"])
    row["seconds_a_memory_frame"] = None
    if len(set(lengths.tolist())) > 1 and row["parity"] is not None:
        slopes = {side: np.polyfit(lengths, x, 1)[0] for side, x in (("plain", plain), ("ours", ours))}
        row["seconds_a_memory_frame"] = {side: float(slope) for side, slope in slopes.items()}
    for share in ("equal_labels", "equal_clear") if row["parity"] else ():
        row["parity"][share] = float(np.mean(row["parity"][share]))


def compare(settings: list[Setting], frames: int, warmup: int, output: Path) -> None:
    """The first form: a table, JSON and pictures of every setting."""
    from speed_pictures import plot_comparison

    rows: list[dict[str, Any]] = []
    for _, alike in itertools.groupby(settings, key=lambda setting: setting.case):
        forms = list(alike)
        measured = measure(forms, frames, warmup)
        plain_peak = extra_peak("plain", forms[0], frames)
        for row, setting in zip(measured, forms, strict=True):
            row["extra_peak_bytes"] = {"plain": plain_peak, "ours": extra_peak("ours", setting, frames)}
        rows += measured
        save(output, frames=frames, warmup=warmup, rows=rows)
    print_rows(rows)
    plot_comparison(rows, output)


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table: a line for each setting and form of ours."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="plain reference -> ours", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        peak, slope, parity = (row[key] for key in ("extra_peak_bytes", "seconds_a_memory_frame", "parity"))
        low, middle, high = row["ratio"]
        table.add_row(
            f"{row['case']}\n{row['form']}",
            _both(row["seconds_a_frame"], 1, ".3g"),
            f"{row['frames_a_second']['ours']:.3g}",
            f"{middle:.2f}\n({low:.2f}-{high:.2f})",
            _both(peak, 2**20, ".0f"),
            _both(slope, 1e-3, ".1f") if slope else "-",
            f"{parity['largest_difference']:.1e}" if parity else "-",
            "{equal_labels:.5f}\n({equal_clear:.5f})".format(**parity) if parity else "-",
        )
    console = Console(width=140)
    console.print(table)
    for row in rows:
        if row["form"] != rows[0]["form"]:
            faster = f"{row['ratio_to_first_form']:.2f} times as fast as {rows[0]['form']}"
            console.print(f"{row['case']}: ours in {row['form']} is {faster}")


def _both(values: dict[str, float], unit: float, digits: str) -> str:
    return " -> ".join(f"{values[side] / unit:{digits}}" for side in SIDES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", type=size, metavar="HxW", help="240x432 480x854; --long: 96x160"
    )
    parser.add_argument("--objects", nargs="+", type=int, choices=range(1, 11), help="1 3; --long: 1")
    parser.add_argument("--policies", nargs="+", default=["every_5"], help="files of conf/memory")
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--precisions", nargs="+", default=["float32"], choices=PRECISIONS)
    parser.add_argument("--compile", action="store_true", help="ours with torch.compile, too")
    parser.add_argument("--frames", type=int, default=30, help="of each video")
    parser.add_argument("--warmup", type=int, default=3, help="first frames that are not timed")
    parser.add_argument(
        "--network",
        help="official (seeded weights), tiny (only --long, where it is the default), or a checkpoint's path",
    )
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--long", type=int, metavar="N", help="stream N frames through each policy instead")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_speed"))
    told = parser.parse_args()
    if not 0 < told.warmup < told.frames - 1:
        parser.error(f"--warmup {told.warmup}: must be at least 1 and leave some of --frames {told.frames}")
    if told.long is not None and told.long < 12:
        parser.error(f"--long {told.long}: must be at least 12 frames")
    settings = [
        Setting(
            told.network or ("tiny" if told.long else "official"),
            policy,
            at,
            objects,
            device,
            precision,
            compiled,
            told.threads,
        )
        for device, policy, at, objects, precision, compiled in itertools.product(
            told.devices,
            told.policies,
            told.sizes or ([(96, 160)] if told.long else [(240, 432), (480, 854)]),
            told.objects or ([1] if told.long else [1, 3]),
            told.precisions,
            (False, True) if told.compile else (False,),
        )
    ]
    try:
        if told.long:
            from speed_long import stream_long

            stream_long(settings, told.long, told.output)
        else:
            compare(settings, told.frames, told.warmup, told.output)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
