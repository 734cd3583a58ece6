"""The report and figures of a small evaluated sweep, also in headless Chromium."""

import itertools
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import chromium, requested_urls
from helpers.small_networks import network, save
from PIL import Image
from typer.testing import CliRunner

from stm.analysis import figures
from stm.analysis.evaluation_results import EvaluationResults
from stm.analysis.reliability import plot_reliability
from stm.analysis.report import write_report
from stm.cli.main import app
from stm.evaluation.benchmarks import synthetic
from stm.evaluation.calibration import calibration
from stm.evaluation.evaluate import evaluate
from stm.memory import MemoryPolicy
from stm.network import fingerprint
from stm.sweeps.job_records import write_job_list

BENCHMARK = {"count": 3, "kind": "plain", "pixels": 48, "frames": 8, "split": "test"}
POLICIES = {"first": MemoryPolicy(previous=False, every=None), "every_5": MemoryPolicy()}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Folder of a sweep: two policies, evaluated with an untrained network."""
    folder, untrained = tmp_path_factory.mktemp("sweep"), network()
    path = save(tmp_path_factory.mktemp("weights") / "x.ckpt")
    jobs, checkpoint = [], fingerprint(path)
    for number, (memory, policy) in enumerate(POLICIES.items()):
        job = folder / f"{number}_{memory}"
        evaluate(
            untrained, policy, synthetic(**BENCHMARK), job, checkpoint=checkpoint, progress=False, workers=0
        )
        (job / ".hydra").mkdir()
        values = "".join(f"  {key}: {value}\n" for key, value in BENCHMARK.items())
        config = f"checkpoint: {path}\nbenchmark:\n  _target_: stm.evaluation.benchmarks.synthetic\n{values}"
        (job / ".hydra" / "config.yaml").write_text(config)
        record = {"status": "completed", "error": "", "made_by": {"git commit": "0ddba11"}}
        (job / "job.json").write_text(json.dumps(record))
        settings = {"benchmark": "synthetic", "memory": memory}
        jobs.append(
            {"number": number, "stage": "", "folder": job.name, "settings": settings, "overrides": []}
        )
    write_job_list(folder, jobs, {"command": "python evaluate.py sweep=memory checkpoint=<x>"})
    return folder


@pytest.fixture(scope="module")
def page(sweep) -> Path:
    return write_report(sweep)


def read_legible(path: Path) -> np.ndarray:
    image = np.asarray(Image.open(path).convert("L")).astype(float)
    assert image.std() > 5 and min(image.shape) > 200
    return image


# --- figures ---


def test_figures_are_also_files(page):
    for name in (
        "sorted_j",
        "pareto",
        "side_by_side",
        "reliability",
        "attention",
        "attention_over_time",
    ):
        stem = f"{name}_synthetic-plain-test"
        read_legible(page.parent / "figures" / f"{stem}.png")
        assert "<svg" in (page.parent / "figures" / f"{stem}.svg").read_text()[:1000]


def test_figure_7_sorts_j(sweep):
    values = list(EvaluationResults(sweep / "0_first").j.values())
    figure = figures.plot_sorted_j({"first": values, "none": [0.0, 1.0]})
    line, other = figure.axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), sorted(values))
    assert list(other.get_xdata()) == [25, 75]
    assert line.get_linestyle() != other.get_linestyle(), "curves differ only in color"
    assert figures.encode_figure(figure) == figures.encode_figure(
        figures.plot_sorted_j({"first": values, "none": [0.0, 1.0]})
    )


def test_many_curves_differ_in_gray():
    """No two curves have the same dashes and the same marker."""
    styles = list(itertools.islice(figures.line_styles(), 40))
    assert len({(str(style["linestyle"]), style["marker"]) for style in styles}) == 40
    figure = figures.plot_sorted_j({str(number): np.arange(100) / 100 for number in range(40)})
    lines = figure.axes[0].lines
    assert [line.get_marker() for line in lines] == [style["marker"] for style in styles]
    assert [line.get_color() for line in lines] == [style["color"] for style in styles]


def test_no_point_beats_the_pareto_front():
    rng = np.random.default_rng(0)
    cost, gain = rng.integers(0, 6, 30), rng.integers(0, 6, 30)
    front = figures.pareto_front(cost, gain)
    for i in range(30):
        others = [q for q in range(30) if cost[q] <= cost[i] and gain[q] >= gain[i]]
        is_beaten = any(cost[q] < cost[i] or gain[q] > gain[i] for q in others)
        is_on_front = any((cost[q], gain[q]) == (cost[i], gain[i]) for q in front)
        assert is_on_front != is_beaten


def test_the_most_different_frames(sweep):
    results = [EvaluationResults(sweep / "0_first"), EvaluationResults(sweep / "1_every_5")]
    (name, t), *_ = figures.most_different_frames(results, 2)
    largest = 0.0
    for key, j in results[0].j.items():
        if sum(k[0] == key[0] and k[2] == key[2] for k in results[0].j) == 1:
            largest = max(largest, abs(j - results[1].j[key]))
    gap = abs(results[0].mean_j(name)[t] - results[1].mean_j(name)[t])
    assert gap >= largest - 1e-12 and t in results[0].mean_j(name)


def test_j_over_time_shows_the_worst_videos(sweep):
    results = EvaluationResults(sweep / "1_every_5")
    figure = figures.plot_j_over_time(results, num_worst=2)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    means = {name: np.mean(list(results.mean_j(name).values())) for name in results.sequences}
    assert f"{min(means, key=means.get)} ({min(means.values()):.2f})" == labels[2]
    assert len(figure.axes) == 1 + 2 * 5
    figures.encode_figure(figure, "png")


# --- report ---


def test_the_report_is_self_contained(page):
    text = page.read_text()
    for address in re.findall(r'(?:src|href)="([^"]*)', text):
        assert address.startswith("data:"), address[:80]
    assert "<script" not in text and "url(" not in text
    assert "checkpoint=&lt;x&gt;" in text, "text is not escaped"


def test_the_report_shows_how_to_reproduce_it(page, sweep):
    text = page.read_text()
    for value in (
        "0ddba11",
        "stm.evaluation.benchmarks.synthetic",
        EvaluationResults(sweep / "0_first").data_fingerprint(),
    ):
        assert value in text


def test_the_report_shows_the_calibration_of_every_setting(page, sweep):
    text = page.read_text()
    for number, memory in enumerate(POLICIES):
        calibrations = json.loads((sweep / f"{number}_{memory}" / "scores.json").read_text())["calibration"]
        for kind, values in calibrations.items():
            row = f"<tr><td>{kind}, {memory}</td><td>{values['count']}</td><td>{values['ece']:.3f}</td>"
            assert row in text


def test_the_reliability_diagram():
    result = calibration([0.05, 0.92, 0.98], [0.2, 0.5, 0.9])
    figure = plot_reliability({"score": result})
    top, bottom = figure.axes
    assert [(bar.get_x(), bar.get_height()) for bar in top.patches] == [(0, 0.2), (0.9, pytest.approx(0.7))]
    assert [bar.get_height() for bar in bottom.patches] == [1, 2]
    assert list(top.lines[1].get_xdata()) == [pytest.approx(0.05), pytest.approx(0.95)]
    assert f"ECE {(0.15 + 2 * 0.25) / 3:.3f}" in top.get_title()


def test_without_the_checkpoint_only_the_attention_is_missing(sweep, tmp_path):
    job = shutil.copytree(sweep / "0_first", tmp_path / "job")
    config = job / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("x.ckpt", "gone.ckpt"))
    text = write_report(job).read_text()
    assert "No attention figures: " in text and "gone.ckpt no longer exists" in text and "<video" in text
    assert "No attention figures" not in write_report(job, attention=False).read_text()


def test_the_fingerprint_of_the_data_depends_on_the_videos(sweep):
    results = EvaluationResults(sweep / "0_first")
    assert results.data_fingerprint() == EvaluationResults(sweep / "1_every_5").data_fingerprint()
    other = EvaluationResults(sweep / "0_first")
    other.__dict__["videos"] = dict(list(results.videos.items())[1:])
    assert other.data_fingerprint() != results.data_fingerprint()


def test_a_final_evaluation_has_the_benchmark_of_its_training(sweep, tmp_path):
    shutil.copytree(sweep / "0_first" / ".hydra", tmp_path / ".hydra")
    for name in ("test_best", "other_best"):
        shutil.copytree(sweep / "0_first", tmp_path / name, ignore=shutil.ignore_patterns(".hydra"))
    config = tmp_path / ".hydra" / "config.yaml"
    extra = config.read_text().partition("benchmark:\n")[2].replace("  ", "    ")
    config.write_text(
        config.read_text().replace("checkpoint:", "weights:")
        + f"final_benchmark:\n  size: 24\nextra_benchmarks:\n  other:\n{extra}    size: 32\n"
    )
    assert EvaluationResults(tmp_path / "test_best").benchmark.size == 24
    assert EvaluationResults(tmp_path / "other_best").benchmark.size == 32


def test_without_the_data_the_report_has_no_videos(sweep, tmp_path):
    shutil.copytree(sweep / "0_first", tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / ".hydra")
    text = write_report(tmp_path / "moved").read_text()
    assert "No videos" in text and "<video" not in text and "all objects" in text


def test_evaluations_without_a_plan_are_not_a_sweep(sweep, tmp_path):
    for job in sweep.glob("*_*/"):
        shutil.copytree(job, tmp_path / job.name)
    with pytest.raises(ValueError, match=r"got 2 evaluations without a .*; choose one, such as"):
        write_report(tmp_path)


def test_the_command(sweep, tmp_path):
    done = CliRunner().invoke(app, ["report", str(sweep / "0_first"), "--output", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "r.html").exists() and (tmp_path / "figures" / "sorted_j.svg").exists()
    with pytest.raises(FileNotFoundError, match="must hold an evaluation"):
        write_report(tmp_path / "figures")


@pytest.fixture(scope="module")
def browser():
    with chromium() as chrome:
        yield chrome


@pytest.mark.parametrize("which", ["sweep", pytest.param("evaluation", marks=pytest.mark.slow)])
def test_the_report_in_a_browser(browser, page, sweep, tmp_path, which):
    path = page if which == "sweep" else write_report(sweep / "0_first", tmp_path / "report.html")
    browser.get(path.resolve().as_uri())
    playing = (
        "return [...document.querySelectorAll('video')].map(v => [v.currentTime, v.videoWidth, v.error])"
    )
    browser.execute_script(
        "document.querySelector('video').scrollIntoView()"
    )  # videos start only when visible
    deadline = time.monotonic() + 20
    while not all(seconds > 0 for seconds, *_ in browser.execute_script(playing)):
        assert time.monotonic() < deadline, browser.execute_script(playing)
        time.sleep(0.1)
    videos = browser.execute_script(playing)
    assert len(videos) == 3 and all(width >= 192 and error is None for _, width, error in videos)
    images = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert len(images) >= 2 and all(complete and width > 200 for complete, width in images)
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0, "the page scrolls horizontally"
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    addresses = requested_urls(browser)
    assert addresses and all(address.startswith("file:") for address in addresses)


def test_scores_of_an_earlier_evaluation_of_more_videos_are_left_out(tmp_path):
    benchmark = synthetic(**BENCHMARK)
    for videos in (benchmark.videos, benchmark.videos[:1]):
        few = replace(benchmark, videos=videos)
        evaluate(network(), None, few, tmp_path, progress=False, workers=0)
    assert len(list((tmp_path / "sequences").iterdir())) == 3
    assert list(EvaluationResults(tmp_path).sequences) == [benchmark.videos[0].name]


@pytest.mark.parametrize("lost", ["sequences/*", "videos"])
def test_an_unfinished_evaluation_is_refused(tmp_path, lost):
    evaluate(network(), None, synthetic(**BENCHMARK), tmp_path, progress=False, workers=0)
    for path in tmp_path.glob(lost):
        path.unlink()
        break
    else:
        values = json.loads((tmp_path / "scores.json").read_text())
        del values[lost]
        (tmp_path / "scores.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="the evaluation is unfinished; its command completes it"):
        _ = EvaluationResults(tmp_path).sequences
