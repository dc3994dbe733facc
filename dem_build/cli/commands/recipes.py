"""The commands that look at one recipe, and at what is recorded of it: their options."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from dem_build.cli.commands import options

if TYPE_CHECKING:
    from dem_build.cli.call import Call

__all__ = ["check", "data", "lock", "logs", "plan", "report", "show", "why"]


@click.command(cls=options.OnActions)
@options.recipe
@click.option("--check", is_flag=True, help="Exit with 4 when something is due.")
@options.of_actions
@options.as_json
def plan(recipe: str, call: Call, *, check: bool, as_json: bool) -> int:
    """Show what would run, and why."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.plan(recipe, call, check=check, as_json=as_json)


@click.command
@options.recipe
@options.action
@options.of_recipe
def why(recipe: str, action: str, call: Call) -> int:
    """Show which input or parameter of an action differs from its last build."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.why(recipe, action, call)


@click.command
@options.recipe
@options.overrides
@options.as_json
def check(recipe: str, overrides: tuple[str, ...], *, as_json: bool) -> int:
    """Find all mistakes of a recipe, without reading data or running anything."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.check(recipe, overrides, as_json=as_json)


@click.command
@options.recipe
@click.option("--upgrade", is_flag=True, help="Move hub revisions to what they name now.")
@options.of_store
def lock(recipe: str, call: Call) -> int:
    """Write the recipe's lock: every outside name with its digest."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.write_lock(recipe, call)


@click.command
@options.recipe
@click.argument("name", metavar="NAME")
@click.option(
    "--rows", "-n", type=click.IntRange(min=1), default=3, show_default=True, help="Examples to show."
)
@click.option("--split", default="train", show_default=True, help="train, validation or test.")
@options.of_recipe
def data(recipe: str, name: str, call: Call, *, rows: int, split: str) -> int:
    """Show decoded examples of a dataset, what counts for the loss, and its counts.

    NAME is a dataset, probe or mixture of the recipe.
    """
    from dem_build.cli import examples  # noqa: PLC0415

    return examples.show(recipe, name, replace(call, targets=(f"data:{name}",)), rows, split)


@click.command
@options.recipe
@click.argument("action", metavar="[ACTION]", default="model")
@options.of_recipe
@options.as_json
def show(recipe: str, action: str, call: Call, *, as_json: bool) -> int:
    """Show what made a model or the result of an action: inputs, parameters, machine, digests.

    Without ACTION, of the composed model.
    """
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.show(recipe, action, call, as_json=as_json)


@click.command
@options.recipe
@options.action
@options.of_recipe
def logs(recipe: str, action: str, call: Call) -> int:
    """Print the log of an action: of its result, or of its last run where that failed."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.logs(recipe, action, call)


@click.command
@options.recipe
@options.of_recipe
def report(recipe: str, call: Call) -> int:
    """Draw out/NAME/report.html from what is recorded, and run nothing."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.report(recipe, call)
