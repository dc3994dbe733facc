"""The commands that look at one recipe, and at what is recorded of it: their options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dem_build.cli.call import Call
from dem_build.cli.commands import options

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check", "data", "lock", "logs", "plan", "report", "show", "why"]


@click.command
@options.recipe
@click.option("--check", is_flag=True, help="Exit with 4 when something is due.")
@options.rebuild
@options.overrides
@options.cache
@options.machine
@options.as_json
@click.pass_obj
def plan(
    targets: tuple[str, ...],
    recipe: str,
    *,
    check: bool,
    rebuild: tuple[str, ...],
    overrides: tuple[str, ...],
    cache: str | None,
    machine: Path | None,
    as_json: bool,
) -> int:
    """Show what would run, and why."""
    from dem_build.cli import inspect  # noqa: PLC0415

    call = Call(cache, machine, overrides, targets, rebuild)
    return inspect.plan(recipe, call, check=check, as_json=as_json)


@click.command
@options.recipe
@options.action
@options.overrides
@options.cache
@options.machine
def why(recipe: str, action: str, overrides: tuple[str, ...], cache: str | None, machine: Path | None) -> int:
    """Show which input or parameter of an action differs from its last build."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.why(recipe, action, Call(cache, machine, overrides))


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
@options.cache
@options.machine
def lock(recipe: str, *, upgrade: bool, cache: str | None, machine: Path | None) -> int:
    """Write the recipe's lock: every outside name with its digest."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.write_lock(recipe, Call(cache, machine, upgrade=upgrade))


@click.command
@options.recipe
@click.argument("name", metavar="NAME")
@click.option(
    "--rows", "-n", type=click.IntRange(min=1), default=3, show_default=True, help="Examples to show."
)
@click.option("--split", default="train", show_default=True, help="train, validation or test.")
@options.cache
@options.machine
def data(recipe: str, name: str, *, rows: int, split: str, cache: str | None, machine: Path | None) -> int:
    """Show decoded examples of a dataset, what counts for the loss, and its counts.

    NAME is a dataset, probe or mixture of the recipe.
    """
    from dem_build.cli import examples  # noqa: PLC0415

    return examples.show(recipe, name, Call(cache, machine, targets=(f"data:{name}",)), rows, split)


@click.command
@options.recipe
@click.argument("action", metavar="[ACTION]", default="model")
@options.cache
@options.machine
@options.as_json
def show(recipe: str, action: str, cache: str | None, machine: Path | None, *, as_json: bool) -> int:
    """Show what made a model or the result of an action: inputs, parameters, machine, digests.

    Without ACTION, of the composed model.
    """
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.show(recipe, action, Call(cache, machine), as_json=as_json)


@click.command
@options.recipe
@options.action
@options.cache
@options.machine
def logs(recipe: str, action: str, cache: str | None, machine: Path | None) -> int:
    """Print the log of an action: of its result, or of its last run where that failed."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.logs(recipe, action, Call(cache, machine))


@click.command
@options.recipe
@options.overrides
@options.cache
@options.machine
def report(recipe: str, overrides: tuple[str, ...], cache: str | None, machine: Path | None) -> int:
    """Draw out/NAME/report.html from what is recorded, and run nothing."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.report(recipe, Call(cache, machine, overrides))
