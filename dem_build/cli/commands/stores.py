"""The commands that look at a store, and collect what nobody needs of it: their options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dem_build.cli.commands import options
from dem_build.cli.commands.group import Commands

if TYPE_CHECKING:
    from dem_build.cli.call import Call

__all__ = ["cache", "gc", "ls", "stats", "verify"]

cache = Commands(
    dict.fromkeys(("stats", "verify", "gc"), "stores"),
    name="cache",
    help="The store: what it holds, whether it is sound, and what of it can go.",
)


@click.command
@options.of_store
@options.as_json
def ls(call: Call, *, as_json: bool) -> int:
    """List what the store holds."""
    from dem_build.cli import stores  # noqa: PLC0415

    return stores.ls(call, as_json=as_json)


@click.command
@options.of_store
@options.as_json
def stats(call: Call, *, as_json: bool) -> int:
    """Show how much the store holds, by kind and by recipe."""
    from dem_build.cli import stores  # noqa: PLC0415

    return stores.stats(call, as_json=as_json)


@click.command
@options.of_store
@click.option(
    "--repair", is_flag=True, help="Set aside what is damaged, so that the next build makes it again."
)
@options.as_json
def verify(call: Call, *, repair: bool, as_json: bool) -> int:
    """Read everything in the store; exit with 1 where something is damaged."""
    from dem_build.cli import stores  # noqa: PLC0415

    return stores.verify(call, repair=repair, as_json=as_json)


@click.command
@click.option("--max-size", metavar="SIZE", help="Stop when the store is as small: 50G.")
@click.option("--older-than", metavar="SPAN", help="Keep what was used within this: 30d.")
@click.option("--vectors", is_flag=True, help="Take vectors and checkpoints too: GPU-hours.")
@click.option("--grace", metavar="SPAN", help="Keep what is younger; 1d if not given.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@options.of_store
@options.as_json
def gc(
    call: Call,
    *,
    max_size: str | None,
    older_than: str | None,
    vectors: bool,
    grace: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Delete what no recipe and no running build needs."""
    from dem_build.cli import garbage  # noqa: PLC0415

    limits = garbage.Limits(max_size, older_than, grace, vectors, dry_run)
    return garbage.collect(call, limits, as_json=as_json)
