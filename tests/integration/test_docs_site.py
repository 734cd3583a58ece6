"""The documentation site builds strictly: every link, anchor, navigation entry and API reference resolves."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install -e '.[docs]'")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_in_the_navigation(site: Path) -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages
    for page in pages - {"index.md"}:
        assert (site / page.removesuffix(".md") / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "signature"),
    [
        ("reference/stm", "Segmenter(network: STM, memory: MemoryPolicy | None = None"),
        ("reference/memory", "MemoryPolicy(first: bool = True, previous: bool = True, every: int | None = 5"),
        ("reference/evaluation", "region_similarity("),
    ],
)
def test_the_reference_shows_signatures(site: Path, page: str, signature: str) -> None:
    text = unescape(re.sub(r"<[^>]+>", "", (site / page / "index.html").read_text()))
    assert re.sub(r"\s", "", signature) in re.sub(r"\s", "", text)


@pytest.mark.slow
def test_pages_load_nothing_from_other_servers(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text())
        assert not [address for address in loaded if "canonical" not in address], page
