"""Arguments and options that several commands share, and the sets of them that go together as a `Call`."""

from __future__ import annotations

from dataclasses import fields
from functools import reduce, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dem_build.cli.call import Call

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Command: TypeAlias = Callable[..., int]

__all__ = ["OnActions", "action", "as_json", "of_actions", "of_recipe", "of_store", "overrides", "recipe"]

SHARED = [field.name for field in fields(Call)]

recipe = click.argument("recipe", metavar="RECIPE")
action = click.argument("action", metavar="ACTION")
cache = click.option("--cache", metavar="DIR", help="Folder of the store.")
machine = click.option("--machine", metavar="FILE", type=click.Path(path_type=Path), help="The machine file.")
overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe; repeatable."
)
rebuild = click.option(
    "--rebuild", multiple=True, metavar="ACTION", help="Run an action that is recorded; repeatable."
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, all else on stderr."
)


class OnActions(click.Command):
    """A command of which what follows `--` are actions, and no argument: the `targets` of its call."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the actions apart, and read the rest as click does."""
        at = args.index("--") if "--" in args else len(args)
        left = super().parse_args(ctx, args[:at])
        ctx.params["targets"] = tuple(args[at + 1 :])
        return left


def of_store(command: Command) -> Command:
    """Give a command `--cache` and `--machine`, which reach it in one `call`.

    What else of a `Call` the command takes, as `--locked` or an `OnActions`'s actions, goes the same way.
    """
    return _taking(_gathered(command), cache, machine)


def of_recipe(command: Command) -> Command:
    """Give a command `--set` and what `of_store` gives."""
    return _taking(_gathered(command), overrides, cache, machine)


def of_actions(command: Command) -> Command:
    """Give a command `--rebuild` and what `of_recipe` gives."""
    return _taking(_gathered(command), rebuild, overrides, cache, machine)


def _gathered(command: Command) -> Command:
    @wraps(command)
    def with_call(**given: Any) -> int:
        shared = {name: given.pop(name) for name in SHARED if name in given}
        return command(call=Call(**shared), **given)

    return with_call


def _taking(command: Command, *options: Callable[[Command], Command]) -> Command:
    return reduce(lambda made, option: option(made), reversed(options), command)
