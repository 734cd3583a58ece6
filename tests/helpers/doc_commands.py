"""The commands that README, docs and Makefile show, and how a test shortens them."""

import re
import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from helpers.commands import ROOT
from helpers.composing import composed

PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "data/README.md",
]
PAGES = [page for page in PAGES if page.exists()]
SIZES: dict[str, Any] = {
    "steps": 2,
    "validate_every": 2,
    "save_every": 2,
    "batch_size": 2,
    "threads": 1,
    "network.key_channels": 8,
    "network.value_channels": 16,
    "network.decoder_channels": 8,
    "backbone.pretrained": "false",
    "scheduler.warmup": 0.5,
    "data.count": 2,
    "data.crop": 48,
    "data.pixels": 48,
    "data.num_workers": 0,
    "benchmark.count": 1,
    "benchmark.pixels": 48,
    "benchmark.frames": 20,
    "benchmark.size": 48,
    "extra_benchmarks.plain.count": 1,
    "extra_benchmarks.plain.frames": 20,
    "extra_benchmarks.event.count": 1,
    "extra_benchmarks.event.frames": 20,
    "extra_benchmarks.davis2017.size": 48,
    "extra_benchmarks.youtube_vos.size": 48,
    "sizes": "[48,56]",
    "hydra.sweeper.n_trials": 2,
}
"""Override -> its value in a test, for commands whose configuration has the key."""


def commands(page: Path) -> list[str]:
    """The command lines of the page's shell blocks, without prompts and comments, continued lines joined."""
    text = page.read_text()
    blocks = re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"\s+#.*", "", line.removeprefix("$ ").strip()) for line in lines]
    lines += re.findall(r"^    (stm [^#\n]*?) *(?:#.*)?$", text, re.MULTILINE)
    return [re.sub(r"\s+", " ", line) for line in lines if line and not line.startswith("#")]


def makefile_commands() -> list[str]:
    """The runs of training and evaluation in the Makefile's targets."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ").replace("$$", "$")
    real = re.search(r"^REAL = (.*)$", text, re.MULTILINE)
    assert real
    text = text.replace("$(REAL)", real[1]).replace("$(DATA)", "data")
    lines = re.findall(r"^\t\$\(PYTHON\) ((?:train|evaluate)\.py .*)$", text, re.MULTILINE)
    return [re.sub(r"\s+", " ", f"python {line}") for line in lines]


def words_of(line: str) -> list[str]:
    """The words after those of the program; `last.ckpt` is what the shell puts in."""
    return [word for word in shlex.split(re.sub(r"\$\(.*?\)", "last.ckpt", line))[2:] if word != "..."]


def arguments(line: str) -> list[str]:
    """A command's overrides, of a sweep the first of each choice; Hydra knows no `|` nor `...`."""
    return _first_choices([word for word in words_of(line) if word not in ("-m", "--multirun")])


def _first_choices(words: list[str]) -> list[str]:
    words = [re.split(r"[|;&]", word)[0] for word in words]
    return [word if re.search(r"[\[{(]", word) else word.split(",")[0] for word in words if word]


def shortened(line: str) -> list[str]:
    """The words of a training or evaluation, with `SIZES` where they or the configuration have the key."""
    program, words = Path(shlex.split(line)[1]).stem, words_of(line)
    given = {word.partition("=")[0] for word in words}
    is_tiny = program == "evaluate" or re.search(r"quickstart|sweep=(family|table4_synthetic)", line)
    words += [] if "trainer" in given else ["trainer=cpu"]
    if re.search("sweep=(family|table4_synthetic)", line):  # dozens of jobs
        words = [*(word for word in words if not word.startswith("seed=")), "seed=1"]
    words += [] if "backbone" in given or is_tiny else ["backbone=tiny"]
    with composed(*_first_choices([word for word in words if word != "-m"]), name=program) as config:
        keys = {key for key in SIZES if key in given or _has(config, key)}
    keys |= {"hydra.sweeper.n_trials"} if "sweep=search" in words else set()
    words = [word for word in words if word.partition("=")[0] not in keys]
    return [*words, *(f"{key}={SIZES[key]}" for key in sorted(keys))]


def _has(config: DictConfig, key: str) -> bool:
    group, _, name = key.rpartition(".")
    parent = OmegaConf.select(config, group) if group else config
    return parent is not None and name in parent
