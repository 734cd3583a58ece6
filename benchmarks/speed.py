"""Compare time and memory per frame with the procedure of the published evaluation code and equal weights.

    python benchmarks/speed.py [--sizes 240x432 480x854] [--objects 1 3] [--policies every_5] [--compile] ...
    python benchmarks/speed.py --network xmem --policies xmem [--sizes 480x854] [--objects 1 3] ...
    python benchmarks/speed.py --long 2000 --policies every_5 first_previous [--network tiny] [--size 96x160]

The first form alternates between the plain reference (tests/helpers/plain_stm.py) and ours frame by frame, so
that other load on the machine slows both. The reference memorizes our previous probabilities, so that both
compute the same. It prints the seconds per frame and their ratio, with quartiles over the frames; the peak
memory beyond the loaded network, each side in its own process; and, for policies of the published code, the
difference of the probabilities and the cost of a further memory frame. Other policies are timed against the
reference with every 5 frames.

The second form does so for another published network, beside its plain reference
(tests/helpers/plain_family.py), which memorizes its own probabilities.

The third form streams one long video through each policy and prints whether the cost grows.

All write `results.json` and figures into the folder --output.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speed_common import (
    FAMILY,
    Ours,
    Setting,
    build,
    measure_extra_peak,
    prepare,
    reference,
    reference_has_policy,
    save,
    timed,
)

SIDES = ("plain", "ours")
HEADINGS = (
    "seconds\nper frame",
    "frames\nper second",
    "ratio\n(quartiles)",
    "extra peak\nMB",
    "ms per\nmemory frame",
    "largest\ndifference",
    "equal labels\n(clear)",
)
CLEAR = 1e-3
"""Margin of the two most probable labels, below which rounding decides; common with random weights."""
PRECISIONS = ("float32", "bfloat16", "float16")


def parse_size(text: str) -> tuple[int, int]:
    """Convert '240x432' to (240, 432)."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()) or min(int(height), int(width)) < 32:
        raise argparse.ArgumentTypeError(
            f"{text}: must be HEIGHTxWIDTH of at least 32 pixels, such as 240x432"
        )
    return int(height), int(width)


def measure(settings: Sequence[Setting], frames: int, warmup: int) -> list[dict[str, Any]]:
    """Alternate between the reference and each form of ours through one video; return a row per form.

    Args:
        settings: equal except for precision and compilation.
        frames: number of frames; the mask of the first is given.
        warmup: number of first frames that are not timed.
    """
    network, policy = build(settings[0])
    device = network.mean.device
    pairs = [(reference(network, policy, s), Ours(prepare(network, s), policy, s, frames)) for s in settings]
    previous: list[Any] = [None] * len(pairs)
    rows = [_empty_row(setting, reference_has_policy(policy, setting)) for setting in settings]
    stream = settings[0].stream()
    for t in range(frames):
        frame, labels = (x.to(device) for x in stream(t))
        mask = labels if t == 0 else None
        for i, (plain, ours) in enumerate(pairs):
            turns = {"plain": (plain.step, (frame, mask, previous[i])), "ours": (ours.step, (frame, mask))}
            probabilities, seconds = {}, {}
            for side in sorted(turns, reverse=t % 2 == 0):  # so that neither is always the first
                step, arguments = turns[side]
                probabilities[side], seconds[side] = timed(step, settings[i].device, *arguments)
            previous[i] = probabilities["ours"]
            if t > 0:
                _record_parity(rows[i], probabilities["plain"], probabilities["ours"])
            if t >= warmup:
                rows[i]["memory_frames"].append(ours.memory_frames)
                for side in turns:
                    rows[i]["seconds"][side].append(seconds[side])
    for row in rows:
        _summarize(row, rows[0])
    return rows


def _empty_row(setting: Setting, comparable: bool) -> dict[str, Any]:
    return {
        **setting.plain(),
        "memory_frames": [],
        "seconds": {"plain": [], "ours": []},
        "parity": {"largest_difference": 0.0, "equal_labels": [], "equal_clear": []} if comparable else None,
    }


def _record_parity(row: dict[str, Any], plain: Any, ours: Any) -> None:
    parity = row["parity"]
    if parity is None:
        return
    parity["largest_difference"] = max(parity["largest_difference"], float((plain - ours).abs().max()))
    equal, top2 = plain.argmax(0) == ours.argmax(0), plain.topk(2, dim=0).values
    clear = top2[0] - top2[1] > CLEAR
    parity["equal_labels"].append(float(equal.float().mean()))
    parity["equal_clear"].append(float(equal[clear].float().mean()))


def _summarize(row: dict[str, Any], first: dict[str, Any]) -> None:
    """Add medians, quartiles, and the slope of the time over the number of memory frames."""
    import numpy as np

    plain, ours = (np.array(row["seconds"][side]) for side in ("plain", "ours"))
    row["seconds_per_frame"] = {side: float(np.median(x)) for side, x in (("plain", plain), ("ours", ours))}
    row["frames_per_second"] = {side: 1 / seconds for side, seconds in row["seconds_per_frame"].items()}
    row["ratio"] = np.percentile(plain / ours, [25, 50, 75]).tolist()
    row["ratio_to_first_form"] = float(np.median(np.array(first["seconds"]["ours"]) / ours))
    lengths = np.array(row["memory_frames"])
    row["seconds_per_memory_frame"] = None
    if len(set(lengths.tolist())) > 1 and row["parity"] is not None:
        slopes = {side: np.polyfit(lengths, x, 1)[0] for side, x in (("plain", plain), ("ours", ours))}
        row["seconds_per_memory_frame"] = {side: float(slope) for side, slope in slopes.items()}
    for key in ("equal_labels", "equal_clear") if row["parity"] else ():
        row["parity"][key] = float(np.mean(row["parity"][key]))


def compare(settings: list[Setting], frames: int, warmup: int, output: Path) -> None:
    """Run the first form for all settings, and write a table, JSON and figures."""
    from speed_figures import plot_comparison

    rows: list[dict[str, Any]] = []
    for _, group in itertools.groupby(settings, key=lambda setting: setting.case):
        forms = list(group)
        measured = measure(forms, frames, warmup)
        plain_peak = measure_extra_peak("plain", forms[0], frames)
        for row, setting in zip(measured, forms, strict=True):
            row["extra_peak_bytes"] = {
                "plain": plain_peak,
                "ours": measure_extra_peak("ours", setting, frames),
            }
        rows += measured
        save(output, frames=frames, warmup=warmup, rows=rows)
    print_rows(rows)
    plot_comparison(rows, output)


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print a table with a line for each setting and form of ours."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="plain reference -> ours", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        peak, slope, parity = (row[key] for key in ("extra_peak_bytes", "seconds_per_memory_frame", "parity"))
        low, middle, high = row["ratio"]
        table.add_row(
            f"{row['case']}\n{row['form']}",
            _format_pair(row["seconds_per_frame"], 1, ".3g"),
            f"{row['frames_per_second']['ours']:.3g}",
            f"{middle:.2f}\n({low:.2f}-{high:.2f})",
            _format_pair(peak, 2**20, ".0f"),
            _format_pair(slope, 1e-3, ".1f") if slope else "-",
            f"{parity['largest_difference']:.1e}" if parity else "-",
            "{equal_labels:.5f}\n({equal_clear:.5f})".format(**parity) if parity else "-",
        )
    console = Console(width=140)
    console.print(table)
    for row in rows:
        if row["form"] != rows[0]["form"]:
            speedup = f"{row['ratio_to_first_form']:.2f} times as fast as {rows[0]['form']}"
            console.print(f"{row['case']}: ours in {row['form']} is {speedup}")


def _format_pair(values: dict[str, float], unit: float, digits: str) -> str:
    return " -> ".join(f"{values[side] / unit:{digits}}" for side in SIDES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", type=parse_size, metavar="HxW", help="240x432 480x854; --long: 96x160"
    )
    parser.add_argument("--objects", nargs="+", type=int, choices=range(1, 11), help="1 3; --long: 1")
    parser.add_argument(
        "--policies", nargs="+", default=["every_5"], help="files of conf/memory, without their endings"
    )
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--precisions", nargs="+", default=["float32"], choices=PRECISIONS)
    parser.add_argument("--compile", action="store_true", help="also time ours with torch.compile")
    parser.add_argument("--frames", type=int, default=30, help="frames per video")
    parser.add_argument("--warmup", type=int, default=3, help="number of first frames that are not timed")
    parser.add_argument(
        "--network",
        help=f"official, {', '.join(FAMILY)} (seeded weights), tiny (only with --long, where it is the "
        "default) or a checkpoint",
    )
    parser.add_argument("--threads", type=int, help="torch threads; by default torch's choice")
    parser.add_argument("--long", type=int, metavar="N", help="stream N frames through each policy instead")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_speed"))
    args = parser.parse_args()
    if not 0 < args.warmup < args.frames - 1:
        parser.error(f"--warmup {args.warmup}: must be at least 1 and less than --frames {args.frames} - 1")
    if args.long is not None and args.long < 12:
        parser.error(f"--long {args.long}: must be at least 12 frames")
    settings = [
        Setting(
            args.network or ("tiny" if args.long else "official"),
            policy,
            at,
            objects,
            device,
            precision,
            compiled,
            args.threads,
        )
        for device, policy, at, objects, precision, compiled in itertools.product(
            args.devices,
            args.policies,
            args.sizes or ([(96, 160)] if args.long else [(240, 432), (480, 854)]),
            args.objects or ([1] if args.long else [1, 3]),
            args.precisions,
            (False, True) if args.compile else (False,),
        )
    ]
    try:
        if args.long:
            from speed_long import stream_long

            stream_long(settings, args.long, args.output)
        else:
            compare(settings, args.frames, args.warmup, args.output)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
