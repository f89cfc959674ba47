"""The notebooks of the documentation, run in a folder of their own; `make notebooks` saves them with their outputs."""

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def is_result(output: Any) -> bool:
    """Whether an output is worth saving: bars of progress and warnings of the kernel are not."""
    return output.get("name") != "stderr" and "<progress" not in str(output.get("data", {}).get("text/html"))


def run_notebook(path: Path, folder: Path) -> Any:
    """The notebook with new outputs, without the name of the folder in which it ran."""
    (folder / "examples").symlink_to(ROOT / "examples")
    os.environ["IPYTHONDIR"] = str(folder / ".ipython")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = [one for one in cell["outputs"] if is_result(one)]
            for output in cell["outputs"]:
                output.get("data", {}).pop("image/jpeg", None)  # the same picture as image/png
    return nbformat.from_dict(json.loads(json.dumps(notebook).replace(f"{folder}/", "")))


if __name__ == "__main__":
    for chosen in [path for path in NOTEBOOKS if path.stem in (sys.argv[1:] or path.stem)]:
        with TemporaryDirectory() as scratch:
            nbformat.write(run_notebook(chosen, Path(scratch)), chosen)
        print(chosen)
