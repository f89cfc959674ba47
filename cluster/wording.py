"""Error messages in the words of Python: `batch_size=64` instead of `--batch-size 64`, `fs.train(...)` instead of a
command. Messages are written for the command line, and translated once, where a call from Python ends."""

import re
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial, wraps
from os import PathLike
from typing import Any, NamedTuple, ParamSpec, TypeVar

from ..storage.errors import FoldstreamError
from ..storage.options import Options, choices_of, flag_of, options_in
from .requests import (
    AdoptRequest,
    AppendRequest,
    ConvertImagesRequest,
    ConvertTablesRequest,
    EnsembleRequest,
    PredictRequest,
    PruneRequest,
    SearchRequest,
    SplitRequest,
    TrainRequest,
)

P = ParamSpec("P")
Result = TypeVar("Result")

FUNCTIONS = {
    "convert csv": "fs.convert_csv",
    "convert images": "fs.convert_images",
    "convert": "fs.convert",
    "append": "fs.append",
    "prune": "fs.prune",
    "split": "fs.split_rows",
    "train": "fs.train",
    "predict": "fs.predict",
    "adopt": "fs.adopt",
    "export": "fs.export",
    "verify": "fs.verify",
    "run": "fs.run_job",
}
"""The function of each command that has one."""
COMMAND = re.compile(rf"'foldstream ({'|'.join(FUNCTIONS)})([^']*)'( command)?")
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*)(?:[ =]('[^']*'|[^\s']+))?")
CONSTANT = re.compile(r"[A-Z][A-Z_]*(?:[.=,][A-Z][A-Z_]*)*|-?\d[\d.,e-]*|true|false")
"""What stands for a value in a message, such as COLUMN, and values that are not text."""
HEADING = re.compile(r":|,? (and )?--| (is|was) ")
"""What follows a flag that is named by itself."""
AFTER_ADVICE = ("and", "or", "to", "instead", "for", "with", "if", "in")


class Keyword(NamedTuple):
    """What Python calls a flag: the keyword, its key if it takes a dictionary, and whether it is true or
    false."""

    name: str
    key: str = ""
    is_bool: bool = False
    values: tuple[str, ...] = ()
    """The choices and the default."""


@contextmanager
def python_words(given: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Translate the message of an error that leaves the `with` block, in a function with the `given` keywords."""
    try:
        yield
    except FoldstreamError as error:
        error.args = tuple(in_python(one, given) if isinstance(one, str) else one for one in error.args)
        raise


def with_python_words(function: Callable[P, Result]) -> Callable[P, Result]:
    """A function whose errors speak of keywords."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> Result:
        with python_words(kwargs):
            return function(*args, **kwargs)

    return called


def in_python(message: str, given: Mapping[str, Any] | None = None) -> str:
    """A message with keywords instead of flags, and calls instead of commands. The word behind a flag is its value if
    it looks like one, or if it is that of the `given` keywords.

    >>> in_python("--batch-size 1: must be at least 2")
    'batch_size=1: must be at least 2'
    """
    values = {text for value in (given or {}).values() for text in _texts(value)}
    message = COMMAND.sub(_call, message).replace("run the same command again", "make the same call again")
    return FLAG.sub(partial(_keyword, values), message)


def _texts(value: Any) -> Iterator[str]:
    """A value of a keyword, or several, as text."""
    if isinstance(value, list | tuple | set):
        yield from map(str, value)
    elif isinstance(value, str | int | float | PathLike):
        yield str(value)


def _call(match: re.Match[str]) -> str:
    """The call that replaces a command, for example `fs.train(DATASET, RUN)`."""
    words, arguments = match[2].split(), list[str]()
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            arguments.append(word if CONSTANT.fullmatch(word) else f'"{word}"')
            continue
        keyword = keyword_of(word[2:])
        value = words.pop(0) if words and not words[0].startswith("--") else "true" if keyword.is_bool else "..."
        arguments.append(written(keyword, value))
    return f"{FUNCTIONS[match[1]]}({', '.join(arguments) or '...'})" + (" call" if match[3] else "")


def _keyword(given: Container[str], match: re.Match[str]) -> str:
    """The keyword that replaces a flag, with its value if the word behind the flag is one."""
    keyword, behind = keyword_of(match[1]), match[2] or ""
    word = behind.rstrip(".,;:)") or behind
    rest, after = match[0][len(match[1]) + 2 :], match.string[match.end(1) :]
    if not keyword.is_bool and _is_value(word, keyword, match, given):
        return written(keyword, word) + behind[len(word) :]
    if HEADING.match(after):
        return (keyword.key.strip("*") or keyword.name) + rest
    return (f"{keyword.name}=True" if keyword.is_bool else written(keyword, "")) + rest


def _is_value(word: str, keyword: Keyword, match: re.Match[str], given: Container[str]) -> bool:
    """Whether the word behind a flag is its value: it is quoted, a number or like COLUMN; known as a value; the subject
    of the message, before a colon; or what is recommended to use."""
    if not word or word.startswith("'") or CONSTANT.fullmatch(word) or (len(word) == 1 and not word.isalnum()):
        return bool(word)
    is_subject = match.start() == 0 and match[0].endswith(":")
    is_advice = match.string[: match.start()].endswith(("use ", "or ", "with ", "add ")) and word not in AFTER_ADVICE
    is_setting = keyword.key == "*" and "=" in word
    return is_subject or is_advice or is_setting or word in keyword.values or word in given


def written(keyword: Keyword, value: str) -> str:
    """A keyword with a value, as Python writes it; without one if it is empty."""
    if keyword.key == "*":  # settings
        name, separator, value = value.partition("=")
        if not separator:
            return f'{keyword.name}["{name}"]' if name else f"{keyword.name}="
        shown = name if CONSTANT.fullmatch(name) else f'"{name}"'
        return f"{keyword.name}={{{shown}: {literal(value)}}}"
    if keyword.key:
        return f'{keyword.name}={{"{keyword.key}": {literal(value) or "..."}}}'
    return f"{keyword.name}={literal(value)}"


def literal(text: str) -> str:
    """A value as Python writes it."""
    if text in ("true", "false"):
        return text.capitalize()
    if not text or text == "..." or text.startswith(("'", "{", "[")) or CONSTANT.fullmatch(text):
        return text
    return f'"{text}"'


def keyword_of(flag: str) -> Keyword:
    """What Python calls a flag; any function may be meant."""
    return _keywords().get(flag, Keyword(flag.replace("-", "_")))


@cache
def _keywords() -> dict[str, Keyword]:
    """The keywords of all functions by their flags."""
    found = {"repair": Keyword("repair", is_bool=True)}
    for kind in (
        AdoptRequest,
        AppendRequest,
        PruneRequest,
        SplitRequest,
        PredictRequest,
        ConvertImagesRequest,
        ConvertTablesRequest,
        TrainRequest,
        SearchRequest,
        EnsembleRequest,
    ):
        found |= dict(_keywords_in(kind))
    return found


def _keywords_in(kind: type[Options], outer: str = "") -> Iterator[tuple[str, Keyword]]:
    for name, field in kind.model_fields.items():
        if inner := options_in(field.annotation):
            yield from _keywords_in(inner, name)
            continue
        flag = flag_of(kind, name).removeprefix("--")
        key = "*" if flag == "set" else name if outer else ""
        is_bool: Any = field.annotation is bool
        values = (*choices_of(field.annotation), str(field.get_default(call_default_factory=True)))
        yield flag, Keyword(outer or name, key, is_bool, values)
