"""A page that tells all of an evaluation or a sweep, in one file that needs nothing else."""

from __future__ import annotations

import html
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from stm.analysis import attention_figure, figures
from stm.analysis.evaluation_results import EvaluationResults
from stm.analysis.frame_attention import attend_frame_from_results
from stm.analysis.html import PAGE, data_uri, figure, markdown_to_html, table, table_cell, three
from stm.analysis.reliability import CAPTION, HEADS, reliability, row_of
from stm.atomic_io import write_atomically
from stm.config.schema import JOB, PLAN
from stm.evaluation.calibration import KINDS, calibration
from stm.evaluation.overlays import LEGEND, overlay_sheet
from stm.evaluation.tables import describe_policy
from stm.sweeps.results import Sweep, read_sweep, table_rows
from stm.sweeps.sweep_tables import markdown, short_value
from stm.video import Video
from stm.visualization import write_video

LONGEST = 150
"""Frames of a film in the page; of longer videos, every second, third, ... is shown."""


def write_report(folder: str | Path, path: str | Path | None = None, attention: bool = True) -> Path:
    """Write the page of an evaluation's or a sweep's folder, and its figures as files beside.

    Args:
        folder: of an evaluation (`scores.json`), of a training run with a final evaluation, or of a sweep.
        path: the page; `report.html` in the folder by default. The figures go to `figures/` there.
        attention: draw where in memory the network looks, for which the videos shown are segmented again.

    Raises:
        FileNotFoundError: the folder holds none of these.
        ValueError: it holds several evaluations that are no sweep.
    """
    folder = Path(folder)
    path = Path(path) if path else folder / "report.html"
    if (folder / PLAN).exists():
        body = _of_sweep(read_sweep(folder), path.parent / "figures", attention)
    else:
        found = [
            folder / "scores.json",
            *sorted(folder.glob("*/scores.json"), key=lambda p: -p.stat().st_mtime),
        ]
        scores = next((one for one in found if one.exists()), None)
        if scores is None:
            raise FileNotFoundError(
                f"{folder}: neither scores.json nor {PLAN}: no evaluation, no sweep of ours"
            )
        if scores.parent != folder and not (folder / ".hydra").exists() and len(found) > 2:
            raise ValueError(
                f"{folder}: holds {len(found) - 1} evaluations without a {PLAN} that makes a sweep of them; "
                f"name one, such as {scores.parent}"
            )
        body = _of_evaluation(EvaluationResults(scores.parent), path.parent / "figures", attention)
    write_atomically(path, PAGE.format(title=html.escape(folder.resolve().name), body="\n".join(body)))
    return path


def _of_evaluation(opened: EvaluationResults, folder: Path, attention: bool) -> Iterator[str]:
    values = opened.values
    yield f"<p>{html.escape(_headline(opened))}</p>"
    yield "<h2>Scores</h2>"
    columns = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    whole = [("all objects", values["global"]), *values["baselines"].items()]
    further = [name for name in values["global"] if name not in columns]
    names = [*columns, *further]
    yield table(
        ["", *names], [[label, *(three(measures.get(name)) for name in names)] for label, measures in whole]
    )
    ranked = opened.ranked()
    if ranked:
        yield "<h2>Distribution</h2>"
        yield figure(
            figures.sorted_j({"J": list(opened.j.values())}),
            folder / "sorted_j",
            "J of all objects on all frames, sorted (the paper's figure 7).",
        )
        yield figure(
            figures.j_over_time(opened),
            folder / "j_over_time",
            f"J over the course of the videos; below, frames of the worst ones, {LEGEND}.",
        )
    yield from _confidence({"": [opened]}, folder / "reliability")
    yield from _films(opened)
    if attention:
        yield from _attention(opened, folder)
    yield "<h2>Every object</h2>"
    heads = ("sequence", "object", "category", "frames", *columns)
    rows = sorted(values["sequences"], key=lambda row: row["J&F-Mean"])
    yield table(heads, [[table_cell(row.get(name)) for name in heads] for row in rows])
    yield from _card(opened)


def _headline(opened: EvaluationResults) -> str:
    settings, speed = opened.values["settings"], opened.values["speed"]
    size = "the frames' own size" if settings["size"] is None else f"short side {settings['size']}"
    told = describe_policy(settings["policy"])
    return (
        f"{settings['benchmark']} at {size}; {settings['checkpoint']}; memory: {told}; "
        f"{speed['frames_per_second']:.1f} frames a second, at most {speed['peak_memory_mb']:.0f} MB in use"
    )


def _films(opened: EvaluationResults) -> Iterator[str]:
    """The worst, the middle and the best sequence, playing."""
    playing = opened.shown()
    if not playing:
        yield "<p>The videos are no longer where they were: no films.</p>"
        return
    yield f"<h2>{', '.join(playing).capitalize()}</h2>"
    yield f"<p>{LEGEND.capitalize()}.</p>"
    yield '<div class="films">'
    for which, name in playing.items():
        j = list(opened.mean_j(name).values())
        told = f", J {np.mean(j):.3f}" if j else ""
        yield (
            "<figure><video controls loop muted autoplay playsinline "
            f'src="{_film(opened, opened.videos[name])}"></video>'
            f"<figcaption>{which}: {html.escape(name)}{told}</figcaption></figure>"
        )
    yield "</div>"


def _attention(opened: EvaluationResults, folder: Path, of: str = "") -> Iterator[str]:
    """Figure 5, for the sequences that play."""
    yield "<h2>Where it looks</h2>"
    try:
        looks = [attend_frame_from_results(opened, name) for name in opened.shown().values()]
    except (FileNotFoundError, ValueError) as error:
        yield f"<p>No figure 5: {html.escape(str(error))}.</p>"
        return
    if looks:
        yield figure(
            attention_figure.plot_attention_maps(looks), folder / f"attention{of}", attention_figure.WHERE
        )
        over_time = attention_figure.plot_attention_over_time(looks)
        yield figure(over_time, folder / f"attention_over_time{of}", attention_figure.OVER_TIME)


def _confidence(named: Mapping[str, Sequence[EvaluationResults]], path: Path) -> Iterator[str]:
    """How well confidence tells J, of each setting's evaluations; the diagram of the first setting."""
    told = {}
    for label, group in named.items():
        for kind in KINDS:
            sequences = [one for opened in group for one in opened.sequences.values()]
            pairs = [pair for one in sequences for pair in one.beside_j(kind)]
            found = calibration(*zip(*pairs, strict=True)) if pairs else None
            if found is not None:
                told[f"{kind}{label}"] = found
    if told:
        yield "<h2>Does it know how good it is?</h2>"
        yield table(HEADS, [[name, *row_of(one)] for name, one in told.items()])
        first = dict(zip(KINDS, told.values(), strict=False))
        yield figure(reliability(first), path, CAPTION)


def _film(opened: EvaluationResults, video: Video) -> str:
    """An MP4 as a data address."""
    written = list(video.output_frames)
    step = -(-len(written) // LONGEST)
    truthful = set(video.annotated)

    def pictures() -> Iterator[np.ndarray]:
        for t in itertools.islice(written, 0, None, step):
            if t < min(video.first_frames.values(), default=0):
                continue
            yield overlay_sheet(
                video.frame(t), opened.mask(video, t), video.mask(t) if t in truthful else None
            )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_video(path, pictures(), fps=12)
        return data_uri("video/mp4", path.read_bytes())


def _of_sweep(sweep: Sweep, folder: Path, attention: bool) -> Iterator[str]:
    yield "<h2>Table</h2>"
    yield from markdown_to_html(markdown(sweep))
    rows = [row for row in table_rows(sweep) if row.objects]
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        members = [row for row in rows if row.benchmark == benchmark]
        labels = [", ".join(map(short_value, row.setting.values())) or "all" for row in members]
        opened = [[EvaluationResults(one.folder) for one in row.evaluations] for row in members]
        yield f"<h2>{html.escape(benchmark)}</h2>"
        curves = {
            label: [j for one in group for j in one.j.values()]
            for label, group in zip(labels, opened, strict=True)
        }
        yield figure(
            figures.sorted_j(curves),
            folder / f"sorted_j_{benchmark}",
            "J of all objects on all frames, sorted (the paper's figure 7).",
        )
        points = {
            label: (row.mean("J"), row.mean("seconds"), row.mean("MB"))
            for label, row in zip(labels, members, strict=True)
        }
        if len(points) > 1:
            yield figure(
                figures.pareto(points),  # type: ignore[arg-type]  # what has objects has been measured
                folder / f"pareto_{benchmark}",
                "Accuracy against speed against memory.",
            )
            firsts = {label: group[0] for label, group in zip(labels, opened, strict=True)}
            shown = dict(itertools.islice(firsts.items(), 6))
            compared = figures.side_by_side(shown)
            if compared is not None:
                yield figure(
                    compared,
                    folder / f"side_by_side_{benchmark}",
                    f"The frames on which J differs most (the paper's figure 6), {LEGEND}.",
                )
        named = {f", {label}": group for label, group in zip(labels, opened, strict=True)}
        yield from _confidence(named, folder / f"reliability_{benchmark}")
        best = max(zip(members, opened, strict=True), key=lambda pair: pair[0].mean("J") or 0)
        yield f"<p>Of the best, {html.escape(', '.join(map(short_value, best[0].setting.values())))}:</p>"
        yield from _films(best[1][0])
        if attention:
            yield from _attention(best[1][0], folder, f"_{benchmark}")
    first = next((one for job in sweep.jobs for one in job.evaluations), None)
    if first is not None:
        yield from _card(EvaluationResults(first.folder))


def _card(opened: EvaluationResults) -> Iterator[str]:
    """What it takes to do it again."""
    yield "<h2>To do it again</h2>"
    rows = [["checkpoint", str(opened.values["settings"]["checkpoint"])]]
    rows += [["data", opened.fingerprint() or "no longer where they were"]]
    if opened.job is not None and (opened.job / JOB).exists():
        end = json.loads((opened.job / JOB).read_text())
        rows += [[name, str(value)] for name, value in end.get("made_by", {}).items()]
    config = opened.configuration
    if config is not None and "seed" in config:
        rows.append(["seed", str(config.seed)])
    yield table(["", ""], rows)
    if config is not None:
        text = html.escape(OmegaConf.to_yaml(config))
        yield f"<details open><summary>configuration</summary><pre>{text}</pre></details>"
