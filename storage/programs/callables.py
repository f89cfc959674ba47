"""Functions and classes that a program gives, as names by which any process can find them: nothing is pickled.

What a module defines is named by its file, or by its module if that is installed. What a script or a notebook defines
is written to a file by itself, with the definitions, imports and constants of the program that its source names.
"""

import __future__

import ast
import functools
import inspect
import linecache
import symtable
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ..errors import UsageError
from .own_code import find_entry
from .user_code import OTHERS

CONSTANTS = bool, int, float, complex, str, bytes, type(None), list, tuple, set, dict
REMEDY = "put it into a file, and give path/to/file.py:name"


def name_callable(option: str, value: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    """What the command line would write for a function or class, and the settings that a `functools.partial` holds.

    Raises UsageError for one that cannot be found again in another process.
    """
    if isinstance(value, functools.partial):
        if value.args:
            raise UsageError(f"{option}: a functools.partial with arguments by position; give them by name")
        name, settings = name_callable(option, value.func)
        return name, {**settings, **{key: _plain(option, key, one) for key, one in value.keywords.items()}}
    name = getattr(value, "__qualname__", "")
    if not name:
        raise UsageError(
            f"{option}: an object of the class {type(value).__name__} cannot travel to other processes; give the "
            "function or class that creates a model"
        )
    if name.rpartition(".")[2] == "<lambda>" or "<locals>" in name:
        what = "a lambda" if name.endswith("<lambda>") else f"{name}, which is defined inside a function,"
        raise UsageError(
            f"{option}: {what} cannot travel to other processes; define a function of a module, and give what it needs "
            "as settings, or by functools.partial"
        )
    module = sys.modules.get(value.__module__)
    if value.__module__ == "__main__":
        return f"{_write_source(option, value)}:{name}", {}
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found != value:
        raise UsageError(f"{option}: {value.__module__} has no '{name}' that is this object; {REMEDY}")
    dotted = f"{value.__module__}:{name}"
    file = getattr(module, "__file__", None)
    if find_entry(dotted) or file is None or not file.endswith(".py"):
        return dotted, {}
    return (dotted if file.startswith(OTHERS) else f"{file}:{name}"), {}


def name_alone(option: str, value: Callable[..., Any]) -> str:
    """The same for a function to which no settings can be given. Raises UsageError for a `functools.partial`."""
    name, settings = name_callable(option, value)
    if settings:
        raise UsageError(f"{option}: a functools.partial of {name.rpartition(':')[2]}; define a function instead")
    return name


def name_functions(option: str, value: Any) -> Any:
    """The value of an option, one or several, with functions as what `name_alone` calls them."""
    if callable(value):
        return name_alone(option, value)
    return [name_functions(option, one) for one in value] if isinstance(value, list | tuple) else value


def _plain(option: str, name: str, value: Any) -> Any:
    """A setting that JSON can store. Raises UsageError."""
    if isinstance(value, list | tuple):
        return [_plain(option, name, one) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(option, name, one) for key, one in value.items()}
    if not isinstance(value, bool | int | float | str | None):
        raise UsageError(
            f"{option}: functools.partial gives {name} an object of the class {type(value).__name__}; settings are "
            "numbers, text, true, false and lists of them"
        )
    return value


def _write_source(option: str, value: Any) -> str:
    """Write what the main program defines to a file of its own. Returns the file."""
    parts = dict[str, str]()
    names = vars(sys.modules["__main__"])
    if names.get("annotations") is __future__.annotations:
        parts["annotations"] = "from __future__ import annotations"
    _Program(option, names).collect(value.__qualname__.partition(".")[0], parts)
    imports = [part for part in parts.values() if part.startswith(("import ", "from "))]
    others = [part for part in parts.values() if part not in imports]
    text = "\n\n\n".join([*(["\n".join(imports)] if imports else []), *others]) + "\n"
    file = Path(_scratch().name) / f"{value.__qualname__.partition('.')[0]}.py"
    file.write_text(text)
    return str(file)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="foldstream-program-")


class _Program:
    """The main program: a script, the cells of a notebook, or what has been typed."""

    def __init__(self, option: str, names: Mapping[str, Any]) -> None:
        self.option, self.names, self.waiting = option, names, set[str]()

    def collect(self, name: str, parts: dict[str, str]) -> None:
        """Add the source of what a name stands for to `parts`, after what it needs itself."""
        if name in parts or name in self.waiting:
            return
        value = self.names[name]
        self.waiting.add(name)
        own = getattr(value, "__module__", None) == "__main__"
        if own and (inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value))):
            node, source = self._definition(name, value)
            for needed in sorted(_globals_in(source) & self.names.keys()):
                self.collect(needed, parts)
            parts[name] = source if node.name == name else f"{source}\n\n\n{name} = {node.name}"
        else:
            parts[name] = self._statement(name, value)

    def _definition(self, name: str, value: Any) -> tuple[Any, str]:
        """A function or class as a syntax tree and as text."""
        code = next(_codes_of(value), None)
        for file in [code.co_filename] if code else _files():
            lines = linecache.getlines(file)
            for node in reversed(ast.parse("".join(lines)).body):
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == value.__name__:
                    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                    last = node.end_lineno or first
                    if code is None or first <= code.co_firstlineno <= last:
                        return node, "".join(lines[first - 1 : last]).rstrip()
        raise UsageError(f"{self.option}: Python does not keep the source of {name}; {REMEDY}")

    def _statement(self, name: str, value: Any) -> str:
        """The import or the assignment by which a module has the same under this name."""
        if isinstance(value, ModuleType):
            return f"import {value.__name__}" if value.__name__ == name else f"import {value.__name__} as {name}"
        if _is_constant(value):
            return f"{name} = {value!r}"
        module, own = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if module not in (None, "__main__") and own and getattr(sys.modules.get(module), own, None) is value:
            return f"from {module} import {own}" + (f" as {name}" if own != name else "")
        for module, loaded in list(sys.modules.items()):  # such as a constant or a type alias of a package
            if vars(loaded) is not self.names and vars(loaded).get(name) is value:
                return f"from {module} import {name}"
        raise UsageError(
            f"{self.option}: the code uses '{name}', an object of the class {type(value).__name__} that only this "
            f"program has; create it inside the function, or {REMEDY}"
        )


def _files() -> list[str]:
    """Where the definitions of the main program may be: its script, or the cells of a notebook, the latest first."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    return [script] if script else [name for name in reversed(linecache.cache) if "ipy" in name or name[0] == "<"]


def _globals_in(source: str) -> set[str]:
    """The names that a definition takes from its module."""
    found, tables = set[str](), [symtable.symtable(source, "<definition>", "exec")]
    for table in tables:
        inner = table.get_type() != "module"
        found |= {
            one.get_name() for one in table.get_symbols() if one.is_referenced() and (one.is_global() or not inner)
        }
        tables += table.get_children()
    return {name for name in found if not name.startswith("__")}


def _codes_of(value: Any) -> Iterator[CodeType]:
    """The code of a function, or of the functions in a class."""
    inner = vars(value).values() if inspect.isclass(value) else [value]
    for one in inner:
        function = inspect.unwrap(getattr(one, "__func__", getattr(one, "fget", one)))
        if inspect.isfunction(function) and not function.__code__.co_filename.startswith("<string"):
            yield function.__code__


def _is_constant(value: Any) -> bool:
    """Whether `repr` gives the source of a value."""
    try:
        return type(value) in CONSTANTS and bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):  # such as a list of functions, or NaN
        return False
