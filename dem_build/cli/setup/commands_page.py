"""Writes `docs/commands.md` from the help pages: `python -m dem_build.cli.setup.commands_page > docs/commands.md`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dem_build.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator

INTRODUCTION = """\
<!-- Written by `python -m dem_build.cli.setup.commands_page`. Change dem_build/cli/app.py, not this page. -->

# The command line

Each command as `dem COMMAND --help` has it.

Exit status: 0 done, 1 an action failed, 2 the recipe or the call is wrong, 3 a gate failed, 4 not up to date, 130
stopped. What is said then, and how to mend it: [What goes wrong](errors.md). `--json` prints one document on stdout, of
a failure as well.

| command | does |
|---|---|
"""


def markdown() -> str:
    """Return the text of `docs/commands.md`."""
    commands = list(_commands(app, click.Context(app, info_name="dem")))
    rows = "".join(f"| [`{name}`](#{_anchor(name)}) | {_cell(_lead(c.command))} |\n" for name, c in commands)
    return INTRODUCTION + rows + "".join(_section(name, context) for name, context in commands)


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Context]]:
    """Each command that does something, with its context, in the order of the help page."""
    for name in group.list_commands(context):
        command = group.commands[name]
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)
        else:
            yield inner.command_path, inner


def _section(name: str, context: click.Context) -> str:
    command = context.command
    usage = " ".join(command.collect_usage_pieces(context))
    rest = (command.help or "").partition("\n\n")[2]
    said = f"\n## `{name}`\n\n{_lead(command)}\n\n    {name} {usage}\n" + (f"\n{rest}\n" if rest else "")
    options = [p for p in command.params if isinstance(p, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    rows = "".join(f"| `{_cell(option)}` | {_cell(does)} |\n" for option, does in records)
    return said + (f"\n| option | does |\n|---|---|\n{rows}" if rows else "")


def _lead(command: click.Command) -> str:
    return (command.help or "").partition("\n\n")[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


if __name__ == "__main__":
    sys.stdout.write(markdown())
