"""How does `--help` list commands? In groups by what a person wants, each with one whole sentence."""

import re
from typing import TYPE_CHECKING

from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter

OTHERS = "Commands"
GROUPS = {
    "Search": ("search", "front", "study", "dashboard"),
    "Architectures and latency": ("describe", "latency", "export"),
    "Data and training": ("datasets", "recipes", "train", "evaluate", "predict", "supernet"),
    "Evidence": ("trust", "paper", "scale", "doctor"),
}
"""The commands of `topformer-nas` itself; those of its commands are in no groups."""
SETTINGS = {"help_option_names": ["-h", "--help"]}


def summary(command: "Command") -> str:
    """The first sentence of a command's help."""
    return re.split(r"(?<=[.?]) ", " ".join((command.help or "").split()))[0]


class WholeSentences(TyperGroup):
    """Lists commands by their first sentences, which are wrapped where they are long, and never cut."""

    groups: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - one for the class

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        there = {name: self.commands[name] for name in self.list_commands(ctx) if not self.commands[name].hidden}
        grouped = {name for names in self.groups.values() for name in names}
        others = tuple(name for name in there if name not in grouped)
        for title, names in {**self.groups, OTHERS: others}.items():
            if rows := [(name, summary(there[name])) for name in names if name in there]:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Grouped(WholeSentences):
    """The commands of `topformer-nas`."""

    groups = GROUPS
