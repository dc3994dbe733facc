"""A group of commands that imports a command's module when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Commands"]


class Commands(click.Group):
    """Commands by name, of which a module is imported when one of them is called, or when all are listed.

    Attributes:
        places: A command's name → its module in this package.
    """

    def __init__(self, places: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click gives it
        """Return the names, as the help page orders them."""
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Return a command.

        Raises:
            click.NoSuchCommand: There is none of that name.
        """
        if (place := self.places.get(cmd_name)) is None:
            raise click.NoSuchCommand(cmd_name, possibilities=self.places, ctx=ctx)
        command: click.Command = getattr(import_module(f"{__package__}.{place}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the whole first sentence of each; click would cut it to a line."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.get_command(ctx, name).get_short_help_str(limit=200)) for name in self.places]
            )
