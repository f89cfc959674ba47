"""Imports the user's code: that of a run from the run's copy, and before a run begins from one in a temporary folder,
so that what the code lacks in the run's folder is missed at once.

Each copy is a package of its own, `foldstream_code_…`: an import of a module that belongs to it is compiled as one from
that package. So the code of several runs stands side by side, and beside what the program itself has imported.
"""

import ast
import importlib
import linecache
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, spec_from_file_location
from pathlib import Path
from typing import Any

from ..errors import ConflictError, UsageError
from ..places.json_files import content_hash, to_json
from ..places.place import Place
from .own_code import Code, collect_code, find_entry, is_copy, name_in, verify_code
from .user_code import describe_error

PACKAGE = "foldstream_code_"


@dataclass(frozen=True)
class _Copy:
    """Files on this machine by their paths in a copy, what messages call them, and the package that they make up."""

    files: Mapping[str, Path]
    origins: Mapping[str, str]
    package: str

    def contains(self, module: str) -> bool:
        """Whether a module, of which the first name counts, belongs to the copy."""
        name = module.partition(".")[0]
        return any(file == f"{name}.py" or file.startswith(f"{name}/") for file in self.files if file.endswith(".py"))


_entries: dict[str, tuple[str, _Copy]] = {}
"""What options name, once its files are known: its name relative to a copy, and that."""
_packages: dict[str, _Copy] = {}


def load_entry(option: str, name: str, *, in_place: bool = False) -> Callable[..., Any]:
    """The function or class that `path/to/file.py:name` or `package.module:name`, the value of an option, names:
    imported from a copy of the code, or `in_place` from where it is.

    Raises UsageError if it cannot be found or imported.
    """
    module, _, attribute = name.rpartition(":")
    found = _import_module(option, name, in_place)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(
            f"{option} {name}: {module} does not define a function '{attribute}'; define it, or fix the name"
        )
    return found  # type: ignore[no-any-return]


def _import_module(option: str, name: str, in_place: bool) -> Any:
    """The module of what an option names. Raises UsageError if it cannot be imported."""
    try:
        if name not in _entries and find_entry(name) is None:
            return importlib.import_module(name.rpartition(":")[0])
        relative, copy = _entries.get(name) or _find_copy(name, in_place)
        return importlib.import_module(f"{copy.package}.{_module_name(relative)}")
    except UsageError:
        raise
    except Exception as error:  # user code may raise anything
        remedy = remedy_for(error) or "fix the error there"
        raise UsageError(f"{option} {name} cannot be imported: {describe_error(error)}; {remedy}") from error


def prepare_code(names: Iterable[str], assets: Iterable[str] = ()) -> Code:
    """Collect the user's code that options name, and have it imported from a copy of the files as they are now."""
    names = list(names)
    code = collect_code(names, assets)
    for name in names:
        _entries.pop(name, None)
    if code.files:
        copy = _stage(code)
        _entries.update({name: (own, copy) for name, own in code.names.items()})
    return code


def open_code(folder: Place, hashes: Mapping[str, str], names: Iterable[str]) -> None:
    """Have the code that `names` name, relative to a run's copy with these hashes, imported from there.

    Raises ConflictError, with their names, if files are missing or have changed.
    """
    verify_code(folder, hashes)
    code = Code(files={file: folder / file for file in hashes}, hashes=dict(hashes))
    copy = _stage(code) if folder.waits_for_network else _use(code)
    for name in names:
        if name.rpartition(":")[0] in hashes:
            _entries[name_in(folder, name)] = name, copy


def remedy_for(error: BaseException) -> str:
    """What to do about an error of the user's code that misses a file which was not copied; empty for others."""
    if not isinstance(error, FileNotFoundError) or error.filename is None:
        return ""
    missed = str(error.filename)
    for copy in _packages.values():
        for file, path in copy.files.items():
            folder, origin = str(path).removesuffix(file), copy.origins[file].removesuffix(file)
            if folder != origin and missed.startswith(folder):
                beside = origin + missed.removeprefix(folder)
                return f"if {beside} exists, name it by --asset {beside}"
    return ""


def _find_copy(name: str, in_place: bool) -> tuple[str, _Copy]:
    code = collect_code([name])
    here = not any(place.waits_for_network for place in code.files.values())
    return code.names[name], _use(code) if here and (in_place or is_copy(name)) else _stage(code)


def _use(code: Code) -> _Copy:
    """The files where they are."""
    return _known(code, {file: Path(place) for file, place in code.files.items()})


def _stage(code: Code) -> _Copy:
    """A copy in a temporary folder. Assets on this machine are linked."""
    key = content_hash(to_json([sorted(code.hashes.items()), sorted(map(str, code.files.values()))]))[:16]
    folder = Path(_scratch().name) / key
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=_scratch().name) as unfinished:
            for file, place in code.files.items():
                _stage_file(place, Path(unfinished) / file, code.hashes[file])
            shutil.copytree(unfinished, folder, symlinks=True)
    return _known(code, {file: folder / file for file in code.files})


def _stage_file(place: Place, target: Path, known: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix != ".py" and not place.waits_for_network:
        target.symlink_to(place)
        return
    data = place.read_bytes()
    if content_hash(data) != known:
        raise ConflictError(f"{place} has just changed; run the same command again")
    target.write_bytes(data)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="foldstream-code-")


def _known(code: Code, files: Mapping[str, Path]) -> _Copy:
    """The copy that these files are; the same one as long as they have the same contents."""
    paths = {file: [str(path), code.hashes[file]] for file, path in files.items()}
    package = PACKAGE + content_hash(to_json(paths))[:16]
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    origins = {file: str(place) for file, place in code.files.items()}
    return _packages.setdefault(package, _Copy(files, origins, package))


def _module_name(relative: str) -> str:
    """`models.net` for `models/net.py:make`."""
    file = relative.rpartition(":")[0].removesuffix(".py").removesuffix("/__init__")
    return file.replace("/", ".")


class _Finder(MetaPathFinder):
    """Finds the modules of copies."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, inner = fullname.partition(".")
        if (copy := _packages.get(package)) is None:
            return None
        stem = inner.replace(".", "/")
        for file in (f"{stem}/__init__.py", f"{stem}.py"):
            if file in copy.files:
                inside = [str(copy.files[file].parent)] if file.endswith("/__init__.py") else None
                loader = _Loader(copy, file)
                return spec_from_file_location(
                    fullname, copy.files[file], loader=loader, submodule_search_locations=inside
                )
        if inner and not any(file.startswith(f"{stem}/") for file in copy.files):
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = []
        return spec


_finder = _Finder()


class _Loader(SourceLoader):
    """Compiles a module of a copy. Its traceback names the file where the user has it."""

    def __init__(self, copy: _Copy, file: str) -> None:
        self.copy, self.path, self.origin = copy, str(copy.files[file]), copy.origins[file]

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def source_to_code(self, data: Any, path: Any = None, **_: Any) -> Any:  # type: ignore[override]
        tree = _OwnImports(self.copy.package, self.copy.contains).visit(ast.parse(data, self.origin))
        # Tracebacks show source lines from this cache, and TorchScript reads a model's source from it.
        linecache.cache[self.origin] = (len(data), None, decode_source(data).splitlines(keepends=True), self.origin)
        return compile(ast.fix_missing_locations(tree), self.origin, "exec", dont_inherit=True)


class _OwnImports(ast.NodeTransformer):
    """Makes of each import of a module that a copy contains one from the copy's package."""

    def __init__(self, package: str, contains: Callable[[str], bool]) -> None:
        self.package, self.contains = package, contains

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if not node.level and node.module and self.contains(node.module):
            node.module = f"{self.package}.{node.module}"
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.AST]:
        return [ast.copy_location(new, node) for alias in node.names for new in self._imports(alias)]

    def _imports(self, alias: ast.alias) -> list[ast.AST]:
        first, dot, _ = alias.name.partition(".")
        if not self.contains(first):
            return [ast.Import([alias])]
        inner = ast.alias(f"{self.package}.{alias.name}", alias.asname)
        if alias.asname:
            return [ast.Import([inner])]
        found: ast.AST = ast.ImportFrom(self.package, [ast.alias(first)], 0)
        return [ast.Import([inner]), found] if dot else [found]
