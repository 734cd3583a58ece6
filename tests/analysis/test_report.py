"""The report and its figures, from an evaluation that really ran; the page in a real browser."""

import itertools
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import asked, chromium
from helpers.small_networks import network, save
from PIL import Image
from typer.testing import CliRunner

from stm.analysis import figures
from stm.analysis.evaluation_results import EvaluationResults
from stm.analysis.reliability import reliability
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
    """A sweep's folder: two policies, evaluated by an untrained network."""
    folder, untrained = tmp_path_factory.mktemp("sweep"), network()
    path = save(tmp_path_factory.mktemp("weights") / "x.ckpt")
    jobs, what = [], fingerprint(path)
    for number, (memory, policy) in enumerate(POLICIES.items()):
        job = folder / f"{number}_{memory}"
        evaluate(untrained, policy, synthetic(**BENCHMARK), job, checkpoint=what, progress=False, workers=0)
        (job / ".hydra").mkdir()
        values = "".join(f"  {key}: {value}\n" for key, value in BENCHMARK.items())
        config = f"checkpoint: {path}\nbenchmark:\n  _target_: stm.evaluation.benchmarks.synthetic\n{values}"
        (job / ".hydra" / "config.yaml").write_text(config)
        end = {"status": "completed", "error": "", "made_by": {"git commit": "0ddba11"}}
        (job / "job.json").write_text(json.dumps(end))
        settings = {"benchmark": "synthetic", "memory": memory}
        jobs.append({"number": number, "stage": "", "folder": job.name, "settings": settings, "overrides": []})
    write_job_list(folder, jobs, {"command": "python evaluate.py sweep=memory checkpoint=<x>"})
    return folder


@pytest.fixture(scope="module")
def page(sweep) -> Path:
    return write_report(sweep)


def readable(path: Path) -> np.ndarray:
    picture = np.asarray(Image.open(path).convert("L")).astype(float)
    assert picture.std() > 5 and min(picture.shape) > 200
    return picture


# --- figures ---


def test_figures_lie_beside_as_files(page):
    for name in (
        "sorted_j",
        "pareto",
        "side_by_side",
        "reliability",
        "attention",
        "attention_over_time",
    ):
        stem = f"{name}_synthetic-plain-test"
        readable(page.parent / "figures" / f"{stem}.png")
        assert "<svg" in (page.parent / "figures" / f"{stem}.svg").read_text()[:1000]


def test_figure_7_sorts(sweep):
    values = list(EvaluationResults(sweep / "0_first").j.values())
    figure = figures.sorted_j({"first": values, "none": [0.0, 1.0]})
    line, other = figure.axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), sorted(values))
    assert list(other.get_xdata()) == [25, 75]
    assert line.get_linestyle() != other.get_linestyle(), "told apart without color"
    assert figures.drawn(figure) == figures.drawn(figures.sorted_j({"first": values, "none": [0.0, 1.0]}))


def test_many_curves_differ_in_grey():
    """No two have the same dashes and the same marker."""
    looks = list(itertools.islice(figures._looks(), 40))
    assert len({(str(look["linestyle"]), look["marker"]) for look in looks}) == 40
    figure = figures.sorted_j({str(number): np.arange(100) / 100 for number in range(40)})
    lines = figure.axes[0].lines
    assert [line.get_marker() for line in lines] == [look["marker"] for look in looks]
    assert [line.get_color() for line in lines] == [look["color"] for look in looks]


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    cost, gain = rng.integers(0, 6, 30), rng.integers(0, 6, 30)
    front = figures.best_front(cost, gain)
    for place in range(30):
        others = [q for q in range(30) if cost[q] <= cost[place] and gain[q] >= gain[place]]
        beaten = any(cost[q] < cost[place] or gain[q] > gain[place] for q in others)
        same = any((cost[q], gain[q]) == (cost[place], gain[place]) for q in front)
        assert same != beaten


def test_frames_that_differ_most(sweep):
    opened = [EvaluationResults(sweep / "0_first"), EvaluationResults(sweep / "1_every_5")]
    (name, t), *_ = figures.differing(opened, 2)
    largest = 0.0
    for key, j in opened[0].j.items():
        if sum(k[0] == key[0] and k[2] == key[2] for k in opened[0].j) == 1:
            largest = max(largest, abs(j - opened[1].j[key]))
    gap = abs(opened[0].mean_j(name)[t] - opened[1].mean_j(name)[t])
    assert gap >= largest - 1e-12 and t in opened[0].mean_j(name)


def test_j_over_time_shows_the_worst(sweep):
    opened = EvaluationResults(sweep / "1_every_5")
    figure = figures.j_over_time(opened, worst=2)
    text = [one.get_text() for one in figure.axes[0].get_legend().get_texts()]
    means = {name: np.mean(list(opened.mean_j(name).values())) for name in opened.sequences}
    assert f"{min(means, key=means.get)} ({min(means.values()):.2f})" == text[2]
    assert len(figure.axes) == 1 + 2 * 5
    figures.drawn(figure, "png")


# --- the page ---


def test_the_page_asks_nobody(page):
    text = page.read_text()
    for address in re.findall(r'(?:src|href)="([^"]*)', text):
        assert address.startswith("data:"), address[:80]
    assert "<script" not in text and "url(" not in text
    assert "checkpoint=&lt;x&gt;" in text, "text is text"


def test_what_it_takes_to_do_it_again(page, sweep):
    text = page.read_text()
    for told in (
        "0ddba11",
        "stm.evaluation.benchmarks.synthetic",
        EvaluationResults(sweep / "0_first").fingerprint(),
    ):
        assert told in text


def test_how_well_confidence_tells_j(page, sweep):
    """A row a setting and a confidence, with the numbers of scores.json."""
    text = page.read_text()
    for number, memory in enumerate(POLICIES):
        told = json.loads((sweep / f"{number}_{memory}" / "scores.json").read_text())["calibration"]
        for kind, values in told.items():
            row = f"<tr><td>{kind}, {memory}</td><td>{values['count']}</td><td>{values['ece']:.3f}</td>"
            assert row in text


def test_the_reliability_diagram():
    told = calibration([0.05, 0.92, 0.98], [0.2, 0.5, 0.9])
    figure = reliability({"score": told})
    above, below = figure.axes
    assert [(bar.get_x(), bar.get_height()) for bar in above.patches] == [(0, 0.2), (0.9, pytest.approx(0.7))]
    assert [bar.get_height() for bar in below.patches] == [1, 2]
    assert list(above.lines[1].get_xdata()) == [pytest.approx(0.05), pytest.approx(0.95)]
    assert f"ECE {(0.15 + 2 * 0.25) / 3:.3f}" in above.get_title()


def test_without_its_checkpoint_a_report_lacks_figure_5_alone(sweep, tmp_path):
    job = shutil.copytree(sweep / "0_first", tmp_path / "job")
    config = job / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("x.ckpt", "gone.ckpt"))
    text = write_report(job).read_text()
    assert "No figure 5: " in text and "gone.ckpt is no longer there" in text and "<video" in text
    assert "No figure 5" not in write_report(job, attention=False).read_text()


def test_the_data_have_a_fingerprint(sweep):
    opened = EvaluationResults(sweep / "0_first")
    assert opened.fingerprint() == EvaluationResults(sweep / "1_every_5").fingerprint()
    other = EvaluationResults(sweep / "0_first")
    other.__dict__["videos"] = dict(list(opened.videos.items())[1:])
    assert other.fingerprint() != opened.fingerprint()


def test_without_the_videos_it_is_a_page_without_films(sweep, tmp_path):
    shutil.copytree(sweep / "0_first", tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / ".hydra")
    text = write_report(tmp_path / "moved").read_text()
    assert "no films" in text and "<video" not in text and "all objects" in text


def test_evaluations_without_a_plan_are_no_sweep(sweep, tmp_path):
    for job in sweep.glob("*_*/"):
        shutil.copytree(job, tmp_path / job.name)
    with pytest.raises(ValueError, match=r"holds 2 evaluations without a .*; name one, such as"):
        write_report(tmp_path)


def test_the_command(sweep, tmp_path):
    done = CliRunner().invoke(app, ["report", str(sweep / "0_first"), "--output", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "r.html").exists() and (tmp_path / "figures" / "sorted_j.svg").exists()
    with pytest.raises(FileNotFoundError, match="no evaluation, no sweep"):
        write_report(tmp_path / "figures")


@pytest.fixture(scope="module")
def browser():
    with chromium() as chrome:
        yield chrome


@pytest.mark.parametrize("which", ["sweep", "evaluation"])
def test_in_a_browser(browser, page, sweep, tmp_path, which):
    path = page if which == "sweep" else write_report(sweep / "0_first", tmp_path / "report.html")
    browser.get(path.resolve().as_uri())
    playing = (
        "return [...document.querySelectorAll('video')].map(v => [v.currentTime, v.videoWidth, v.error])"
    )
    browser.execute_script("document.querySelector('video').scrollIntoView()")  # unseen, none begins
    end = time.monotonic() + 20
    while not all(seconds > 0 for seconds, *_ in browser.execute_script(playing)):
        assert time.monotonic() < end, browser.execute_script(playing)
        time.sleep(0.1)
    films = browser.execute_script(playing)
    assert len(films) == 3 and all(width >= 192 and error is None for _, width, error in films)
    pictures = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert len(pictures) >= 2 and all(whole and width > 200 for whole, width in pictures)
    wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, "the page scrolls to no side"
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    addresses = asked(browser)
    assert addresses and all(address.startswith("file:") for address in addresses)
