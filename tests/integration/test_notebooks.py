"""The notebooks of the documentation run from the first cell to the last."""

from pathlib import Path
from typing import Any

import nbformat
import pytest

from ..notebooks import NOTEBOOKS, run_notebook


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell["cell_type"] == "code"]


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    assert all(cell["outputs"] for cell in code_cells(run_notebook(path, tmp_path)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_saved_with_its_outputs(path: Path) -> None:
    cells = code_cells(nbformat.read(path, as_version=4))
    assert all(cell["outputs"] for cell in cells), "run 'make notebooks'"
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert "/tmp/" not in path.read_text()
