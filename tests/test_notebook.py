"""The notebook runs from top to bottom, without a network."""

import os
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "own_data.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    bin_ = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    texts = [o.get("text", "") for c in notebook.cells for o in c.get("outputs", [])]
    said = "".join(texts)
    assert "hfgd: " not in said  # how every mistake begins
    assert "written:" in said
    pictures = [
        o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    assert len(pictures) == 2


def test_the_notebook_is_clean():
    """Outputs and counts are not committed: they would be old."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_the_site_shows_it_with_badges_where_its_address_is_known(monkeypatch):
    monkeypatch.syspath_prepend(NOTEBOOK.parent.parent / "docs" / "_ext")
    from generated import notebook as page

    code = [c.source for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    here, published = "\n".join(page(None)), "\n".join(page("someone/hfgd"))
    assert all(source in here and source in published for source in code)
    place = "someone/hfgd/blob/main/examples/own_data.ipynb"
    assert f"colab.research.google.com/github/{place}" in published
    assert f"kaggle.com/kernels/welcome?src=https://github.com/{place}" in published
    assert "badge" not in here
