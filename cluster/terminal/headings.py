"""The help of commands: they are listed in the order in which they are used, each group under its heading, and the help
of each ends with examples."""

from inspect import getdoc
from typing import Any

import typer
from typer.core import TyperGroup

HEADINGS = {
    "Data": ("convert", "adopt", "append", "split", "info", "verify", "prune"),
    "Train": ("train", "ensemble", "stack", "predict", "oof", "export", "serve", "run", "plan", "watch", "status"),
    "Cluster": ("cluster", "submit", "jobs", "logs", "stop", "dashboard", "doctor"),
}


class GroupedCommands(TyperGroup):
    """Commands that --help lists by `HEADINGS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        for heading, names in HEADINGS.items():
            for name in names:
                self.commands[name].rich_help_panel = heading  # type: ignore[attr-defined]
        return [name for names in HEADINGS.values() for name in names]


class KindsOfSources(TyperGroup):
    """The commands that convert a kind of source, which is named first."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            kinds = " or ".join(f"'foldstream convert {kind}'" for kind in self.commands)
            ctx.fail(f"'{args[0]}' is not a kind of source; write {kinds}, then the sources and the dataset")
        return super().resolve_command(ctx, args)


def examples_last(app: typer.Typer) -> None:
    """Move the examples of the commands' docstrings to the end of their help, below the options."""
    for command in app.registered_commands:
        command.help, _, examples = (getdoc(command.callback) or "").partition("\n\nExamples:\n")
        lines = ("Examples:", *map(str.strip, examples.splitlines()))
        command.epilog = "\n\n".join(lines)  # of which each is a line
