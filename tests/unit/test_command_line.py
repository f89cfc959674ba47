"""The command line as people meet it: help, version, completion, tables of columns and rows."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
from foldstream.cli import app
from foldstream.cluster.requests import (
    ConvertImagesRequest,
    ConvertTablesRequest,
    EnsembleRequest,
    PredictRequest,
    SplitRequest,
    StackRequest,
    SubmitRequest,
    TrainRequest,
)
from foldstream.cluster.terminal.headings import HEADINGS
from foldstream.cluster.terminal.request_options import gather
from foldstream.storage.errors import UsageError
from foldstream.storage.options import Options
from typer.main import get_command
from typer.testing import CliRunner

WIDE = {"COLUMNS": "200", "TERM": "dumb"}


def output_of(*words: str, **environment: str) -> str:
    result = CliRunner(env=WIDE | environment).invoke(app, words, prog_name="foldstream")
    assert result.exit_code == 0, result.output
    return result.output


def test_every_command_has_its_place_in_the_help() -> None:
    listed = [name for names in HEADINGS.values() for name in names]
    assert sorted(listed) == sorted(get_command(app).commands)  # type: ignore[attr-defined]
    text = output_of("-h")
    places = [
        text.index(f" {name} ", text.index(f" {heading} ─")) for heading, names in HEADINGS.items() for name in names
    ]
    assert places == sorted(places)


def test_help_keeps_square_brackets() -> None:
    assert "[convert.csv], [convert.images] or [adopt], [train] and [predict]" in output_of("run", "-h")


def commands_in(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands below a group, with the words that call them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_in(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(commands_in(get_command(app)))
REQUESTS: dict[str, type[Options]] = {
    "csv": ConvertTablesRequest,
    "images": ConvertImagesRequest,
    "split": SplitRequest,
    "train": TrainRequest,
    "ensemble": EnsembleRequest,
    "stack": StackRequest,
    "predict": PredictRequest,
    "submit": SubmitRequest,
}


def flat(text: str) -> str:
    """Text without line breaks, frames, and spaces."""
    return re.sub(r"[\s│╭╮╰╯─]", "", text)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_commands_help_shows_all_of_its_texts(words: tuple[str, ...]) -> None:
    shown, command = flat(output_of(*words, "-h")), COMMANDS[words]
    written = [command.help, command.epilog, *(one.help for one in command.params if one.help)]
    for text in written:
        assert flat(text.replace("\\[", "[")) in shown, text


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_help_ends_with_examples_that_the_command_line_accepts(words: tuple[str, ...]) -> None:
    examples = str((COMMANDS[words] if words else get_command(app)).epilog).split("\n\n")
    assert examples.pop(0) == "Examples:"
    assert 1 <= len(examples) <= 3
    assert output_of(*words, "-h").rstrip().endswith(examples[-1])
    for example in examples:
        name, *given = shlex.split(example)
        assert name == "foldstream"
        assert tuple(given[: len(words)]) == words
        context: Any = get_command(app).make_context(name, given)
        while hasattr(context.command, "commands"):
            name, command, left = context.command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, left, parent=context)
        if request := REQUESTS.get(context.command.name):
            request.parse(gather(request, context.params))


def test_a_source_without_its_kind_is_told_the_kinds() -> None:
    result = CliRunner(env=WIDE).invoke(app, ["convert", "train.csv", "out.zarr"])
    assert result.exit_code == 2
    expected = "'train.csv' is not a kind of source; write 'foldstream convert csv' or 'foldstream convert images'"
    assert expected in result.output


def test_help_shows_the_choices_of_an_option() -> None:
    assert "rgb|gray" in output_of("convert", "images", "--help")


def test_the_version_is_that_of_the_package() -> None:
    assert output_of("--version").startswith(f"foldstream {fs.__version__}, Python 3.")


def test_the_package_runs_like_the_command() -> None:
    given = [sys.executable, "-m", "foldstream", "--version"]
    ran = subprocess.run(given, capture_output=True, text=True, check=True, cwd="/")
    assert ran.stdout.startswith(f"foldstream {fs.__version__}, Python 3.")


def test_choices_are_completed() -> None:
    words = {"COMP_WORDS": "foldstream convert images --color g", "COMP_CWORD": "4"}
    assert output_of(_FOLDSTREAM_COMPLETE="complete_bash", **words).split() == ["gray"]


def test_info_shows_all_columns_and_the_first_rows(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(12)]
    lines = [",".join(["y", "city", *names]), "no,Ulm," + "1.5," * 11 + "2", "yes,," + "," * 11 + "16.1"]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    fs.convert_csv(tmp_path / "table.csv", tmp_path / "table.zarr", label="y", category="city")
    text = output_of("info", str(tmp_path / "table.zarr"), "--head", "2")
    columns, rows = text[: text.index(" row ")], text[text.index(" row ") :].splitlines()
    assert all(f" {name} " in columns for name in names)
    assert rows[0].split() == ["row", "y", "city", *names]
    assert rows[1].split() == ["0", "no", "Ulm", *["1.5"] * 11, "2"]
    assert rows[2].split() == ["1", "yes", "16.1"]


@pytest.mark.parametrize("size", ["32x32", "32X32", "32×32", "32,32", "32"])
def test_a_size_may_be_written_as_cameras_do(size: str) -> None:
    assert ConvertImagesRequest.parse({"sources": "a", "out": "b", "size": size}).size == (32, 32)


def test_a_size_whose_order_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--size 48x64: .*as 48,64 or 64,48"):
        ConvertImagesRequest.parse({"sources": "a", "out": "b", "size": "48x64"})
