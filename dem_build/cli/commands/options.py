"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["action", "as_json", "cache", "machine", "overrides", "rebuild", "recipe"]

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
