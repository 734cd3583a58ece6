"""The package as others install it: the wheel, unpacked elsewhere, works without the checkout."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from zipfile import ZipFile

import pytest
from helpers.commands import ROOT
from helpers.data_trees import boxes, smooth_image
from PIL import Image

from stm.masks import write_mask

pytestmark = pytest.mark.slow
TRACK = ("track", "--video", "frames", "--mask", "m.png", "--memory")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the unpacked wheel as `site`, and a video of four frames with a mask."""
    folder = tmp_path_factory.mktemp("elsewhere")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=300)
    with ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    (folder / "frames").mkdir()
    for t in range(4):
        Image.fromarray(smooth_image(t)).save(folder / "frames" / f"{t}.png")
    write_mask(folder / "m.png", boxes({1: (5, 5, 20, 25)}))
    return folder


def run(installed: Path, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed / "site")},
        capture_output=True,
        text=True,
        timeout=300,
    )


def stm(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run(installed, "from stm.cli.main import main; main()", *words)


def test_it_is_the_unpacked_one_that_runs(installed: Path) -> None:
    done = run(installed, "import stm, stm.config.schema; print(stm.__file__); print(stm.config.schema.CONF)")
    site = installed / "site" / "stm"
    assert done.stdout.splitlines() == [str(site / "__init__.py"), str(site / "conf")], done.stderr


def test_a_policy_by_name_and_the_weights_that_come_with_it(installed: Path) -> None:
    done = stm(installed, *TRACK, "diverse,max_frames=2", "--output", "out", "--no-overlay")
    assert done.returncode == 0, done.stderr
    told = json.loads((installed / "out" / "track.json").read_text())
    assert (
        told["settings"]["memory"]["max_frames"] == 2
        and told["settings"]["memory"]["eviction"] == "most_similar"
    )
    assert "network that ships with stm" in told["notice"] and "mobile.pth" in told["settings"]["weights"]
    assert len(list((installed / "out" / "masks").iterdir())) == 4


def test_it_knows_every_policy_of_the_checkout(installed: Path) -> None:
    done = stm(installed, *TRACK, "divers", "--output", "other")
    assert done.returncode == 2 and "Did you mean diverse?" in done.stderr
    there = sorted(path.stem for path in (ROOT / "conf" / "memory").glob("*.yaml"))
    assert ", ".join(there) in done.stderr


def test_the_wheel_holds_the_package_alone(installed: Path) -> None:
    site = installed / "site"
    tops = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"stm", "hydra_plugins"}
    assert {path.suffix for path in site.rglob("*") if path.is_file() and "stm" in path.parts} <= {
        *(".py", ".typed", ".json", ".yaml", ".md", ".pth", ".mp4", ".npz", ".js", ".css", ".html", "")
    }
    assert (site / "stm" / "weights" / "mobile.md").exists()


def test_it_trains_sweeps_and_evaluates_in_an_empty_folder(installed: Path) -> None:
    """The entry points of the wheel need nothing of the checkout."""
    small = ("threads=1", "experiment=quickstart", "debug=smoke")
    entry = "from stm.{} import main; main()"
    done = run(installed, entry.format("train"), *small, "name=one")
    assert done.returncode == 0, done.stderr
    assert (installed / "runs" / "one" / "checkpoints" / "last.ckpt").exists()
    videos = ("benchmark=synthetic", "benchmark.kind=plain", "benchmark.count=1", "benchmark.pixels=48")
    checkpoint = "checkpoint=runs/one/checkpoints/last.ckpt"
    done = run(installed, entry.format("evaluate"), checkpoint, *videos, "threads=1", "name=scores")
    assert done.returncode == 0 and "all objects" in done.stdout, done.stderr
    sweep = ("-m", "memory=first,previous", checkpoint, *videos, "threads=1")
    done = run(installed, entry.format("evaluate"), *sweep)
    assert done.returncode == 0 and "previous" in done.stdout, done.stderr


def test_the_entry_points_are_installed() -> None:
    """`pip install` makes the commands that README and docs name."""
    scripts = {entry.name: entry.value for entry in entry_points(group="console_scripts")}
    assert scripts["stm"] == "stm.cli.main:main"
    assert scripts["stm-train"] == "stm.train:main"
    assert scripts["stm-evaluate"] == "stm.evaluate:main"
