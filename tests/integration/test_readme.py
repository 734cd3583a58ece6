"""What README and docs tell can be typed: commands compose, targets and files exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from helpers.commands import ROOT, succeed
from helpers.doc_commands import PAGES, arguments, commands

from stm.cli.main import app


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


COMMANDS = [(name_of(page), line) for page in PAGES for line in commands(page)]
README = {line for page, line in COMMANDS if page == "README.md"}
PROGRAMS = [  # those of docs run in test_doc_commands, too
    line if line in README else pytest.param(line, marks=pytest.mark.slow)
    for line in sorted({line for _, line in COMMANDS if re.match(r"python (train|evaluate)\.py", line)})
]
TARGETS = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", PROGRAMS)
def test_its_commands_compose(line: str, tmp_path: Path) -> None:
    flags = [] if {"--help", "--cfg"} & set(arguments(line)) else ["--cfg", "job"]
    assert succeed(shlex.split(line)[1], *arguments(line), *flags, folder=tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_stm_commands_have_these_options(page: Path) -> None:
    there = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in re.findall(r"(?:^ *|`)stm ([^`\n#]+)", page.read_text(), re.MULTILINE):
        command, *words = line.split()
        if not command.startswith("--"):
            known = {name for part in there[command].params for name in (*part.opts, *part.secondary_opts)}
            assert {word for word in words if word.startswith("--")} <= known | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_make_targets_exist(page: Path) -> None:
    text = page.read_text()
    told = set(re.findall(r"`make ([a-z-]+)", text))
    told |= {word for line in commands(page) for word in re.findall(r"^make ([a-z-]+)", line)}
    assert told <= set(TARGETS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            file, _, heading = target.partition("#")
            linked = (page.parent / file).resolve() if file else page
            assert linked.exists(), target
            if heading:
                titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
                assert heading in slugs, target


def test_every_target_tells_what_it_does() -> None:
    """`make` prints them."""
    makefile = (ROOT / "Makefile").read_text()
    told = re.findall(r"^([a-z][a-z-]*):.*##", makefile, re.MULTILINE)
    assert set(TARGETS) == set(told)
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None and set(phony[1].split()) == set(TARGETS)


def test_its_experiments_exist() -> None:
    """Those of README, docs and Makefile, where the placeholders of a text are written in capitals."""
    for page in [*PAGES, ROOT / "Makefile"]:
        for name in re.findall(r"experiment=([a-z]\w*)", page.read_text()):
            assert (ROOT / "conf" / "experiment" / f"{name}.yaml").exists(), f"{name_of(page)}: {name}"


def test_the_two_commands_are_there() -> None:
    assert {"quickstart", "test", "setup", "golden", "real"} <= set(TARGETS)
    told = (ROOT / "README.md").read_text()
    if "```" in told:
        assert "make quickstart" in told and "make test" in told


def test_its_five_lines_go_from_a_video_to_masks() -> None:
    """As they stand, but that the package's weights take the place of any others."""
    block = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = [line for line in block[1].splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 5
    names: dict[str, Any] = {}
    with pytest.warns(UserWarning, match="network that ships with stm"):
        exec(re.sub(r"stm\.load\([^)]*\)", "stm.load()", block[1]), names)
    video, masks = names["video"], names["masks"]
    truth = np.stack([video.mask(t) for t in range(1, len(video))]) > 0
    found = np.stack(masks) > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.75
