"""The notebooks run from top to bottom, and lie in the repository as they were written: without outputs."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed: pip install -e '.[dev]'")
from nbclient import NotebookClient  # noqa: E402  # nbformat comes with it

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def opened(path: Path):
    return nbformat.read(path, as_version=4)


def test_there_are_the_three():
    assert [path.stem for path in NOTEBOOKS] == ["memory", "policies", "sweep"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_kept_without_outputs(path: Path):
    notebook = opened(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        assert cell.metadata == {}
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pictures"), [("memory", 8), ("policies", 3), ("sweep", 3)])
def test_they_run_from_top_to_bottom(
    name: str, pictures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On a CPU, with the network that comes with the package; nothing is left beside them."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = sorted((ROOT / "notebooks").iterdir())
    notebook = opened(ROOT / "notebooks" / f"{name}.ipynb")
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": ROOT / "notebooks"}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    drawn = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(drawn) == pictures
    text = "".join(str(output.get("data", {}).get("text/markdown", "")) for output in outputs)
    if name != "memory":
        assert "| memory" in text, "a table"
    if name == "sweep":
        assert "3 of 3 jobs are finished." in text
    assert sorted((ROOT / "notebooks").iterdir()) == before
