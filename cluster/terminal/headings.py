"""The commands in the order in which they are used, each group of them under its heading."""

from typing import Any

from typer.core import TyperGroup

HEADINGS = {
    "Data": ("convert", "split", "info", "verify"),
    "Training": ("train", "predict", "oof", "export", "run", "plan", "watch", "status"),
    "Cluster": ("cluster", "submit", "jobs", "logs", "stop", "dashboard", "doctor"),
}


class GroupedCommands(TyperGroup):
    """Commands that --help lists by `HEADINGS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        for heading, names in HEADINGS.items():
            for name in names:
                self.commands[name].rich_help_panel = heading  # type: ignore[attr-defined]
        return [name for names in HEADINGS.values() for name in names]
