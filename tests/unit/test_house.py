"""The house: cli -> cluster -> (pipeline | training) -> storage, and an order inside each of these folders."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = {"storage": 0, "pipeline": 1, "training": 1, "cluster": 2, "cli": 3, "__init__": 3}
ROOMS = {
    "storage": ["errors", "random compiled machine tasks", "places moments", "programs", "format", "*", "metrics"],
    "pipeline": ["csv", "target sequences", "tables images predictions adopt", "ensembles stacking", "*"],
    "training": [
        "seeding stopping",
        "splits stream fitted",
        "zoo",
        "config search",
        "settings",
        "run",
        "model",
        "engine",
        "ray",
        "open_stream",
    ],
    "cluster": [
        "listener loopback",
        "requests",
        "wording",
        "bars ray",
        "dask runs",
        "callbacks views doctor prediction",
        "search",
        "api",
        "ensembles",
        "planning submit python serve",
        "terminal",
    ],
}
"""The order of the rooms in a folder, from below; `*` are the modules beside them. What stands together must not import
each other."""
FRAMEWORKS = {
    "storage": {"dask", "distributed", "ray", "torch"},
    "pipeline": {"ray", "torch"},
    "training": {"dask", "distributed"},
}
ONLY_IN = {"ray": "training/ray/", "distributed": "pipeline/dask_executor.py"}
RAY_INTERNALS = "training/ray/internals.py", "tests/contracts/test_ray_internals.py"
PRIVATE_OF_RAY = re.compile(r"ray\.([\w.]+\.)?(_(?!_)\w*|v2|worker|generated)(\.[\w.]+)?")
MOST_FILES, LEAST_FILES = 14, 3


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


def imported_modules(path: Path) -> Iterator[tuple[str, ...]]:
    """The names, from the root on, of the modules of ours that a file imports."""
    own = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*own[: len(own) - node.level + 1], *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                inner = ROOT.joinpath(*base, alias.name)
                yield (*base, alias.name) if inner.with_suffix(".py").exists() or inner.is_dir() else base


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


def room_of(parts: tuple[str, ...], rooms: list[str]) -> str:
    """The room of a folder in which a module stands."""
    named = {name for room in rooms for name in room.split()}
    return next((name for name in parts[1:2] if name in named), "*")


@pytest.mark.parametrize("folder", ROOMS)
def test_rooms_of_a_folder_import_downwards(folder: str) -> None:
    rooms = ROOMS[folder]
    height = {name: number for number, room in enumerate(rooms) for name in room.split()}
    for path in (ROOT / folder).rglob("*.py"):
        own = room_of(path.relative_to(ROOT).with_suffix("").parts, rooms)
        for module in imported_modules(path):
            if module[0] == folder and (other := room_of(module, rooms)) != own:
                assert height[other] < height[own], f"{path.relative_to(ROOT)} imports {'.'.join(module)}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    named = {path.relative_to(ROOT).with_suffix("").parts: path for path in modules()}
    graph = {name: {module for module in imported_modules(path) if module in named} for name, path in named.items()}
    while free := {name for name, needed in graph.items() if not needed & graph.keys()}:
        graph = {name: needed for name, needed in graph.items() if name not in free}
    assert not graph, sorted(".".join(name) for name in graph)


def test_a_folder_has_so_many_files_that_one_sees_them_all() -> None:
    counts = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in modules()} - {ROOT}}
    assert {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > MOST_FILES} == {}
    assert {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n < LEAST_FILES} == {}


@pytest.mark.parametrize("path", [p for p in modules() if p.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_a_folder_says_what_lives_in_it(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert len(re.findall(r"[.:](?=\s|$)", said)) >= 3 or path.parent == ROOT, f"{path} says: {said}"


@pytest.mark.parametrize("framework", ONLY_IN)
def test_a_framework_stands_in_one_place_of_its_folder(framework: str) -> None:
    inner = [p for p in modules() if p.relative_to(ROOT).parts[0] in ("storage", "pipeline", "training")]
    users = {
        str(p.relative_to(ROOT)) for p in inner if any(not n and m.split(".")[0] == framework for n, m in imports(p))
    }
    assert users
    assert all(user.startswith(ONLY_IN[framework]) for user in users), users


def private_parts_of_ray(path: Path) -> Iterator[str]:
    """What a file imports from Ray, or reads of it, that Ray does not export."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]  # the name of a logger
        yield from (
            name for name in names if re.fullmatch(r"ray\.([\w.]+\.)?(_(?!_)\w*|v2|worker|generated)(\.[\w.]+)?", name)
        )


@pytest.mark.parametrize(
    "text",
    [
        "from ray._private import state",
        "from ray import _private",
        "import ray._private.worker as worker",
        "from ray.train._internal.utils import get_address_and_port",
        "from ray.train.v2.api.exceptions import TrainingFailedError",
        "from ray.train.torch.config import _set_torch_distributed_env_vars",
        "import ray; ray._private.state",
        "import ray; ray.worker.get_dashboard_url()",
    ],
)
def test_private_parts_of_ray_are_seen(text: str, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(text)
    assert list(private_parts_of_ray(tmp_path / "user.py"))


def test_only_one_file_knows_the_internals_of_ray() -> None:
    files = {*modules(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")}
    others = {str(path.relative_to(ROOT)): path for path in files}
    for name in (*RAY_INTERNALS, "tests/unit/test_house.py"):
        others.pop(name)
    found = {name: known for name, path in others.items() if (known := list(private_parts_of_ray(path)))}
    assert found == {}, f"use {RAY_INTERNALS[0]}"


def test_nobody_asks_which_kind_of_place_it_has() -> None:
    own = {("storage", "places", name) for name in ("local", "bucket")}
    users = {path for path in modules() if own & set(imported_modules(path)) and path.parent != ROOT / "storage/places"}
    assert not users


def test_cores_and_memory_are_counted_in_one_place() -> None:
    """Libraries that count them do not know of all control groups."""
    counting = re.compile(r"\b(cpu_count|process_cpu_count|sched_getaffinity|virtual_memory)\b")
    assert [path for path in modules() if counting.search(path.read_text())] == [ROOT / "storage/machine.py"]


def test_the_architecture_names_what_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    steps = re.findall(r"^\d+\. `([\w/]+\.py)` `(\w+)`", text, re.MULTILINE)
    assert len(steps) == 14 + 9
    for file, name in steps:
        tree = ast.parse((ROOT / file).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert name in defined, f"{file} has no {name}"
    rooms = {str(path.parent.relative_to(ROOT)) for path in modules() if path.name == "__init__.py"} - {"."}
    assert {room for room in rooms if f"{room.rpartition('/')[2]}/" not in text} == set()


LONGEST_FUNCTION, MOST_PARAMETERS = 80, 8
TYPED_ENTRIES = {
    "training/open_stream.py: stream",
    "cluster/python/run.py: predict",
    "cluster/python/ensemble.py: predict",
}
"""Their many keywords are their users' options."""


def test_functions_are_short_and_have_few_parameters() -> None:
    too_long, too_wide = [], []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                name, arguments = f"{path.relative_to(ROOT)}: {node.name}", node.args
                named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                if (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION:
                    too_long.append(name)
                if len([one for one in named if one.arg not in ("self", "cls")]) > MOST_PARAMETERS:
                    too_wide.append(name)
    assert too_long == []
    assert {*too_wide} <= TYPED_ENTRIES
