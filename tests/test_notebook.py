"""The notebook is committed as it is written."""

from pathlib import Path

import nbformat

NOTEBOOK = Path(__file__).parent.parent / "examples" / "own_data.ipynb"


def test_the_notebook_is_clean():
    """Outputs and counts are not committed: they would be old."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
