"""`dem build`: its options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dem_build.cli.commands import options

if TYPE_CHECKING:
    from dem_build.cli.call import Call

__all__ = ["build"]


@click.command(cls=options.OnActions)
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE... [-- ACTION...]")
@click.option("--locked", is_flag=True, help="Fail (4) where the lock is not what is there.")
@click.option("--no-train", is_flag=True, help="Fail where a vector is missing.")
@click.option("--offline", is_flag=True, help="Ask no hub for anything.")
@click.option("--keep-going", is_flag=True, help="After a failure, do what can be done.")
@click.option("--trust-tasks", is_flag=True, help="Run local task files, which are code.")
@click.option("--jobs", type=click.IntRange(min=1), help="Actions at once.")
@options.of_actions
@options.as_json
def build(
    recipes: tuple[str, ...],
    call: Call,
    *,
    no_train: bool,
    offline: bool,
    keep_going: bool,
    trust_tasks: bool,
    jobs: int | None,
    as_json: bool,
) -> int:
    """Plan, run what is due, publish out/NAME/ and show the results."""
    from dem_build.cli import build  # noqa: PLC0415

    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    flags = build.Flags(
        no_train=no_train,
        keep_going=keep_going,
        trust_tasks=trust_tasks,
        jobs=jobs,
        as_json=as_json,
    )
    return build.build_all(recipes, call, flags)
