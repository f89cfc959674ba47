"""The import rule: cli -> cluster -> (pipeline | training) -> storage, relative imports, no circles."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = {"storage": 0, "pipeline": 1, "training": 1, "cluster": 2, "cli": 3, "__init__": 3}
FRAMEWORKS = {
    "storage": {"dask", "distributed", "ray", "torch"},
    "pipeline": {"ray", "torch"},
    "training": {"dask", "distributed"},
}
ONLY_IN = {"ray": {"training/ray_train.py", "cluster/local_ray.py"}, "distributed": {"pipeline/dask_executor.py"}}


def modules() -> list[Path]:
    folders = [path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]
    return sorted([*folders, ROOT / "cli.py", ROOT / "__init__.py"])


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Level and module of every import of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    own = path.relative_to(ROOT).with_suffix("").parts
    for level, module in imports(path):
        first = module.split(".")[0]
        if level == 0:
            assert first != "foldstream", f"{path}: import {module} relatively"
            assert first not in FRAMEWORKS.get(own[0], set()), f"{path} knows {first}"
        elif level == len(own):
            assert own[0] == first or LAYERS[own[0]] > LAYERS[first], f"{path} imports {module}"


@pytest.mark.parametrize("framework", ONLY_IN)
def test_a_framework_stands_in_one_file_of_its_folder(framework: str) -> None:
    inner = [p for p in modules() if p.relative_to(ROOT).parts[0] in ("storage", "pipeline", "training")]
    users = {str(p.relative_to(ROOT)) for p in inner if any(m.split(".")[0] == framework for _, m in imports(p))}
    assert users <= ONLY_IN[framework]
