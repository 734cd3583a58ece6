"""Report of an evaluation or a sweep: one self-contained HTML file."""

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
from stm.analysis.html import (
    PAGE,
    data_uri,
    embed_figure,
    format_cell,
    format_score,
    markdown_to_html,
    table,
)
from stm.analysis.reliability import CAPTION, HEADS, calibration_cells, plot_reliability
from stm.atomic_io import write_atomically
from stm.config.schema import JOB, PLAN
from stm.evaluation.calibration import KINDS, calibration
from stm.evaluation.overlays import LEGEND, overlay_sheet
from stm.evaluation.scores import protocol_of
from stm.evaluation.tables import headline
from stm.sweeps.results import Row, Sweep, read_sweep, table_rows
from stm.sweeps.sweep_tables import markdown, short_value
from stm.video import Video
from stm.visualization import write_video

MAX_VIDEO_FRAMES = 150
"""Frames of a video in the report; of longer videos, every second, third, ... frame is shown."""
MAX_COMPARED = 6
"""Policies whose masks are shown side by side."""
SORTED_J_CAPTION = "J of all objects in all frames, sorted (Figure 7 of the paper)."


def write_report(folder: str | Path, path: str | Path | None = None, attention: bool = True) -> Path:
    """Write the report of an evaluation or a sweep, and its figures as separate files.

    Args:
        folder: Folder of an evaluation (`scores.json`), of a training run with a final evaluation, or of a
            sweep.
        path: Path of the report; by default `report.html` in the folder. The figures are written to
            `figures/` next to it.
        attention: Whether to plot the attention to the memory, which segments the shown videos again.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: The folder holds no evaluation and no sweep.
        ValueError: The folder holds several evaluations that do not form a sweep.
    """
    folder = Path(folder)
    path = Path(path) if path else folder / "report.html"
    if (folder / PLAN).exists():
        body = _sweep_sections(read_sweep(folder), path.parent / "figures", attention)
    else:
        results = EvaluationResults(_find_evaluation(folder))
        body = _evaluation_sections(results, path.parent / "figures", attention)
    write_atomically(path, PAGE.format(title=html.escape(folder.resolve().name), body="\n".join(body)))
    return path


def _find_evaluation(folder: Path) -> Path:
    """Return the folder itself, or the latest evaluation of a training run, if they hold `scores.json`."""
    if (folder / "scores.json").exists():
        return folder
    paths = sorted(folder.glob("*/scores.json"), key=lambda path: -path.stat().st_mtime)
    if not paths:
        raise FileNotFoundError(
            f"{folder}: must hold an evaluation (scores.json), a training run with one, or a sweep ({PLAN})"
        )
    if not (folder / ".hydra").exists() and len(paths) > 1:
        raise ValueError(
            f"{folder}: must hold one evaluation or a sweep; got {len(paths)} evaluations without a {PLAN}; "
            f"choose one, such as {paths[0].parent}"
        )
    return paths[0].parent


# --- sections of an evaluation ---


def _evaluation_sections(results: EvaluationResults, folder: Path, attention: bool) -> Iterator[str]:
    values = results.values
    yield f"<p>{html.escape(_headline(results))}</p>"
    yield "<h2>Scores</h2>"
    names = list(values["global"])
    scores = [("all objects", values["global"]), *values["baselines"].items()]
    yield table(
        ["", *names],
        [[label, *(format_score(measures.get(name)) for name in names)] for label, measures in scores],
    )
    if results.ranked():
        yield "<h2>Distribution</h2>"
        sorted_j = figures.plot_sorted_j({"J": list(results.j.values())})
        yield embed_figure(sorted_j, folder / "sorted_j", SORTED_J_CAPTION)
        yield embed_figure(
            figures.plot_j_over_time(results),
            folder / "j_over_time",
            f"J over the relative time of the videos, with frames of the worst ones: {LEGEND}.",
        )
    yield from _calibration_section({"": [results]}, folder / "reliability")
    if "masks" not in values["settings"]:  # those of another program are scored without a network
        yield from _video_section(results)
        if attention:
            yield from _attention_section(results, folder)
    yield "<h2>All objects</h2>"
    protocol = protocol_of(values["settings"].get("protocol"))
    rows = sorted(values["sequences"], key=lambda row: protocol.headline_value(row) or 0.0)
    heads = list(dict.fromkeys(name for row in rows for name in row))
    yield table(heads, [[format_cell(row.get(name)) for name in heads] for row in rows])
    yield from _reproduction_section(results)


def _headline(results: EvaluationResults) -> str:
    settings, speed = results.values["settings"], results.values["speed"]
    if "masks" in settings:  # of another program, without a network or timing
        return headline(settings)
    return (
        f"{headline(settings)}; {settings['checkpoint']}; "
        f"{speed['frames_per_second']:.1f} frames/s, peak memory {speed['peak_memory_mb']:.0f} MB"
    )


def _video_section(results: EvaluationResults) -> Iterator[str]:
    """Yield the worst, the median and the best sequence as videos."""
    examples = results.examples()
    if not examples:
        yield "<p>No videos: the data no longer exist.</p>"
        return
    yield f"<h2>{', '.join(examples).capitalize()}</h2>"
    yield f"<p>{LEGEND.capitalize()}.</p>"
    yield '<div class="videos">'
    for rank, name in examples.items():
        j = list(results.mean_j(name).values())
        caption = f"{rank}: {html.escape(name)}" + (f", J {np.mean(j):.3f}" if j else "")
        yield (
            "<figure><video controls loop muted autoplay playsinline "
            f'src="{_encode_video(results, results.videos[name])}"></video>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    yield "</div>"


def _encode_video(results: EvaluationResults, video: Video) -> str:
    """Return a data URI of an MP4 with the predicted and true masks."""
    frames = list(video.output_frames)
    step = -(-len(frames) // MAX_VIDEO_FRAMES)
    annotated, first = set(video.annotated), min(video.first_frames.values(), default=0)

    def images() -> Iterator[np.ndarray]:
        for t in frames[::step]:
            if t >= first:
                truth = video.mask(t) if t in annotated else None
                yield overlay_sheet(video.frame(t), results.mask(video, t), truth)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overlay.mp4"
        write_video(path, images(), fps=12)
        return data_uri("video/mp4", path.read_bytes())


def _attention_section(results: EvaluationResults, folder: Path, suffix: str = "") -> Iterator[str]:
    """Yield Figure 5 for the example sequences."""
    yield "<h2>Attention to the memory</h2>"
    try:
        attentions = [attend_frame_from_results(results, name) for name in results.examples().values()]
    except (FileNotFoundError, ValueError) as error:
        yield f"<p>No attention figures: {html.escape(str(error))}.</p>"
        return
    if attentions:
        maps = attention_figure.plot_attention_maps(attentions)
        yield embed_figure(maps, folder / f"attention{suffix}", attention_figure.MAPS_CAPTION)
        over_time = attention_figure.plot_attention_over_time(attentions)
        path = folder / f"attention_over_time{suffix}"
        yield embed_figure(over_time, path, attention_figure.OVER_TIME_CAPTION)


def _calibration_section(groups: Mapping[str, Sequence[EvaluationResults]], path: Path) -> Iterator[str]:
    """Yield the calibration of each group of evaluations, and the reliability diagram of the first one."""
    calibrations = {}
    for label, group in groups.items():
        sequences = [sequence for results in group for sequence in results.sequences.values()]
        for kind in KINDS:
            pairs = [pair for sequence in sequences for pair in sequence.confidence_and_j(kind)]
            result = calibration(*zip(*pairs, strict=True)) if pairs else None
            if result is not None:
                calibrations[f"{kind}{label}"] = result
    if calibrations:
        yield "<h2>Calibration of the confidence</h2>"
        yield table(HEADS, [[name, *calibration_cells(result)] for name, result in calibrations.items()])
        first = dict(zip(KINDS, calibrations.values(), strict=False))
        yield embed_figure(plot_reliability(first), path, CAPTION)


def _reproduction_section(results: EvaluationResults) -> Iterator[str]:
    """Yield everything that is needed to repeat the evaluation."""
    yield "<h2>Reproduction</h2>"
    settings = results.values["settings"]
    if "masks" in settings:
        rows = [[name, str(settings[name])] for name in ("masks", "source")]
    else:
        rows = [["checkpoint", str(settings["checkpoint"])]]
        rows += [["data", results.data_fingerprint() or "no longer exist"]]
    if results.job is not None and (results.job / JOB).exists():
        record = json.loads((results.job / JOB).read_text())
        rows += [[name, str(value)] for name, value in record.get("made_by", {}).items()]
    config = results.configuration
    if config is not None and "seed" in config:
        rows.append(["seed", str(config.seed)])
    yield table(["", ""], rows)
    if config is not None:
        text = html.escape(OmegaConf.to_yaml(config))
        yield f"<details open><summary>configuration</summary><pre>{text}</pre></details>"


# --- sections of a sweep ---


def _sweep_sections(sweep: Sweep, folder: Path, attention: bool) -> Iterator[str]:
    yield "<h2>Table</h2>"
    yield from markdown_to_html(markdown(sweep))
    rows = [row for row in table_rows(sweep) if row.objects]
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        yield f"<h2>{html.escape(benchmark)}</h2>"
        yield from _benchmark_sections(
            [row for row in rows if row.benchmark == benchmark], benchmark, folder, attention
        )
    first = next((evaluation for job in sweep.jobs for evaluation in job.evaluations), None)
    if first is not None:
        yield from _reproduction_section(EvaluationResults(first.folder))


def _benchmark_sections(rows: Sequence[Row], benchmark: str, folder: Path, attention: bool) -> Iterator[str]:
    """Yield the sections of a sweep on one benchmark."""
    labels = [", ".join(map(short_value, row.setting.values())) or "all" for row in rows]
    groups = [[EvaluationResults(evaluation.folder) for evaluation in row.evaluations] for row in rows]
    by_label = dict(zip(labels, groups, strict=True))
    curves = {
        label: [j for results in group for j in results.j.values()] for label, group in by_label.items()
    }
    yield embed_figure(figures.plot_sorted_j(curves), folder / f"sorted_j_{benchmark}", SORTED_J_CAPTION)
    if len(by_label) > 1:
        points = {
            label: (row.mean("J"), row.mean("seconds"), row.mean("MB"))
            for label, row in zip(labels, rows, strict=True)
        }
        yield embed_figure(
            figures.plot_pareto(points),  # type: ignore[arg-type]  # rows with objects have all measures
            folder / f"pareto_{benchmark}",
            "Accuracy against speed and memory.",
        )
        firsts = {label: group[0] for label, group in itertools.islice(by_label.items(), MAX_COMPARED)}
        comparison = figures.plot_side_by_side(firsts)
        if comparison is not None:
            caption = f"Frames in which J differs most (Figure 6 of the paper): {LEGEND}."
            yield embed_figure(comparison, folder / f"side_by_side_{benchmark}", caption)
    yield from _calibration_section(
        {f", {label}": group for label, group in by_label.items()}, folder / f"reliability_{benchmark}"
    )
    best = max(range(len(rows)), key=lambda index: rows[index].mean("J") or 0)
    setting = ", ".join(map(short_value, rows[best].setting.values()))
    yield f"<p>Best setting: {html.escape(setting)}</p>"
    yield from _video_section(groups[best][0])
    if attention:
        yield from _attention_section(groups[best][0], folder, f"_{benchmark}")
